"""Files and folders on their way to the server: read, and packed, as they are sent."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from flowyard.platform.client.errors import InvalidArgumentError

CHUNK_BYTES = 1 << 18
#: Not part of a model, wherever they are.
LEFT_OUT = frozenset({"__pycache__", ".git"})
#: Same files, same bytes: the server recognises an archive that it has.
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)


class Sent(msgspec.Struct, frozen=True):
    """How much of an upload is under way: bytes of the files, `sent` of `total`."""

    sent: int
    total: int


OnSent = Callable[[Sent], None]


class Upload(msgspec.Struct, frozen=True):
    """A body that is made as it is sent.

    Attributes:
        content_type: Its Content-Type.
        length: Its bytes, `None` where that shows only at the end.
        chunks: Makes it; each call begins anew.
    """

    content_type: str
    length: int | None
    chunks: Callable[[], Iterator[bytes]]


def file_body(path: Path, content_type: str) -> Upload:
    """A file as a body.

    Raises:
        InvalidArgumentError: There is no such file, or it cannot be read.
    """
    length = _size(path)
    return Upload(content_type, length, lambda: _read(path, length))


def form_of(path: Path, on_sent: OnSent | None = None) -> Upload:
    """A model file, an archive, or a folder that becomes one, as the file of a multipart form.

    A folder is packed into a ZIP archive, not compressed: weights do not get smaller, and it would take longer than sending them.
    Links to files are followed; `__pycache__` and `.git` are left out.

    Args:
        path: The file or folder.
        on_sent: Hears how much has been sent.

    Returns:
        The body.

    Raises:
        InvalidArgumentError: There is nothing there, it is empty, or it cannot be read.
    """
    boundary = secrets.token_hex(16)
    content_type = f"multipart/form-data; boundary={boundary}"
    is_folder = path.is_dir()
    resolved = path.resolve()
    filename = f"{resolved.name}.zip" if is_folder else path.name
    head = _part_head(boundary, filename)
    tail = f"\r\n--{boundary}--\r\n".encode()
    if is_folder:
        files = _files_of(path)
        total, length = sum(size for _, _, size in files), None
    else:
        files = []
        total = _size(path)
        length = len(head) + total + len(tail)

    def chunks() -> Iterator[bytes]:
        counted = _Counter(total, on_sent)
        yield head
        yield from _packed(files, counted) if is_folder else counted.through(_read(path, total))
        yield tail

    return Upload(content_type, length, chunks)


def _part_head(boundary: str, filename: str) -> bytes:
    name = filename.replace("\\", "%5C").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode("utf-8", "surrogateescape")


class _Counter:
    """Tells how many bytes of the files have been read."""

    def __init__(self, total: int, on_sent: OnSent | None) -> None:
        self._sent, self._total, self._on_sent = 0, total, on_sent

    def through(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Passes chunks on; each counts once the next one is asked for, that is when it has been sent."""
        for chunk in chunks:
            yield chunk
            self._sent += len(chunk)
            if self._on_sent is not None:
                self._on_sent(Sent(self._sent, self._total))


def _size(path: Path) -> int:
    try:
        if not path.is_file():
            raise InvalidArgumentError(f"{path}: {'not a regular file' if path.exists() else 'no such file or folder'}")
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def _read(path: Path, length: int) -> Iterator[bytes]:
    """The contents of a file, which must have the length that was announced."""
    left = length
    try:
        with path.open("rb") as file:
            while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise _unreadable(path, error) from None
    if left:
        raise InvalidArgumentError(f"{path}: it became shorter while it was sent")


def _unreadable(path: Path, error: OSError) -> InvalidArgumentError:
    return InvalidArgumentError(f"{path}: it cannot be read: {error.strerror or error}")


def _files_of(folder: Path) -> list[tuple[str, Path, int]]:
    """The files of a folder in a fixed order: name in the archive, path, size."""
    found: list[tuple[str, Path, int]] = []

    def complain(error: OSError) -> None:
        raise _unreadable(Path(error.filename or folder), error) from None

    for place, folders, names in os.walk(folder, onerror=complain):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in sorted(names):
            path = Path(place, name)
            found.append((path.relative_to(folder).as_posix(), path, _size(path)))
    if not found:
        raise InvalidArgumentError(f"{folder}: there is no file in this folder")
    return found


class _Sink:
    """What a ZIP archive is written to: keeps the bytes until they are taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """There is nothing behind it."""

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


def _packed(files: list[tuple[str, Path, int]], counter: _Counter) -> Iterator[bytes]:
    sink = _Sink()
    target: BinaryIO = sink  # type: ignore[assignment]  # as much of it as ZipFile needs for a stream
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, path, size in files:
            info = zipfile.ZipInfo(name, _TIMESTAMP)
            info.external_attr = 0o100644 << 16
            info.file_size = size
            with archive.open(info, "w") as member:
                for chunk in counter.through(_read(path, size)):
                    member.write(chunk)
                    yield sink.take()
    yield sink.take()
