"""Packs a folder into an archive: the same files give the same bytes, whenever and wherever it is done."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from flowyard.platform.archives.members import member_parts
from flowyard.schemas.errors import InvalidArchiveError, InvalidRequestError

#: The earliest time that a ZIP archive can hold.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = stat.S_IFREG | 0o644
_UNIX = 3
_CHUNK_BYTES = 1 << 20


class Packed(msgspec.Struct, frozen=True):
    """A new archive.

    Attributes:
        path: Where it is.
        files: How many files it holds.
        size_bytes: Its size.
        sha256: Its digest, by which a server knows it.
    """

    path: Path
    files: int
    size_bytes: int
    sha256: str


def pack(folder: Path, target: Path) -> Packed:
    """Packs a folder as a ZIP archive. The target is replaced at the end, in one step.

    Members are sorted, have one time and mode, and are stored as they are: what compression makes of the same bytes differs from
    one release of zlib to the next, and weights hardly get smaller.

    Args:
        folder: What to pack, but for hidden files, `__pycache__` and the target itself.
        target: The archive.

    Returns:
        What has been written.

    Raises:
        InvalidArchiveError: There is nothing to pack, a link to a folder or out of this one, something that is no file, or a name
            that a server would refuse.
        InvalidRequestError: The archive cannot be written.
    """
    members = list(_members(folder, target))
    if not members:
        raise InvalidArchiveError(f"{folder}: nothing to pack")
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            written = Path(file.name)
        try:
            _write(members, folder, written)
            written.chmod(0o644)
            written.replace(target)
        except BaseException:
            written.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InvalidRequestError(f"{target}: {error.strerror or error}") from None
    with target.open("rb") as packed:
        digest = hashlib.file_digest(packed, "sha256").hexdigest()
    return Packed(target, len(members), target.stat().st_size, digest)


def _write(members: list[str], folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in members:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = _UNIX
            entry.external_attr = _MODE << 16
            path = folder / name
            entry.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(entry, "w") as member:
                shutil.copyfileobj(source, member, _CHUNK_BYTES)


def _members(folder: Path, target: Path) -> Iterator[str]:
    """Names of the files to pack, sorted."""
    root = folder.resolve()
    output = target.resolve()
    found = []
    for here, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not _is_left_out(name)]
        for name in [*files, *(name for name in folders if (Path(here) / name).is_symlink())]:
            path = Path(here) / name
            if _is_left_out(name) or path == output:
                continue
            shown = path.relative_to(root).as_posix()
            _check(path, shown, root)
            found.append(shown)
    yield from sorted(found)


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".pyo"))


def _check(path: Path, shown: str, root: Path) -> None:
    member_parts(shown)
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise InvalidArchiveError(f'"{shown}" is a link that leaves the folder')
    if not path.is_file():
        what = "a link to a folder or to nothing" if path.is_symlink() else "no regular file"
        raise InvalidArchiveError(f'"{shown}" is {what}')
