"""What a member of an archive may be called, and writing members within limits.

Archives come from callers. Everything that leads out of the target folder, or that means different things to different readers,
is refused; nothing is repaired.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidArchiveError, TooLargeError

#: Unpacked bytes that are granted whatever the compression ratio: small text compresses well.
RATIO_ALLOWANCE_BYTES = 2**20

_DRIVE = re.compile(r"[A-Za-z]:")
_REFUSED_CATEGORIES = {
    "Cc": "a control character",
    "Zl": "a line separator",
    "Zp": "a line separator",
    "Cs": "bytes that are not UTF-8",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one archive may hold.

    Attributes:
        max_archive_bytes: Largest packed size.
        max_unpacked_bytes: Largest sum of the files as they are written.
        max_files: Most files and folders, folders that are only implied included.
        max_ratio: Most unpacked bytes for each packed byte, past the first MiB. Deflate cannot exceed 1032; weights, even sparse
            ones, stay far below 200.
        max_depth: Most components of a name.
        max_name_bytes: Longest name in UTF-8; a single component is bound to 255 by file systems.
    """

    max_archive_bytes: int = 2 * 2**30
    max_unpacked_bytes: int = 8 * 2**30
    max_files: int = 100_000
    max_ratio: int = 200
    max_depth: int = 32
    max_name_bytes: int = 1024

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Takes the limits from the settings.

        Args:
            settings: The settings of the server.

        Returns:
            The limits.
        """
        return cls(
            max_archive_bytes=settings.max_archive_size_bytes,
            max_unpacked_bytes=settings.max_unpacked_size_bytes,
            max_files=settings.max_archive_files,
        )


DEFAULT_LIMITS = Limits()


def refused(name: str, reason: str) -> InvalidArchiveError:
    """Words the refusal of one member.

    Args:
        name: Name of the member as the archive has it.
        reason: What is wrong with it.

    Returns:
        The error, ready to raise; unprintable characters of the name are escaped.
    """
    shown = name if len(name) <= 200 else name[:200] + "..."
    return InvalidArchiveError(f"archive member {shown!r}: {reason}")


def member_parts(name: str, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """Checks and splits the name of a member.

    Args:
        name: Name as the archive has it; a folder may end in `/`.
        limits: Depth and length that are allowed.

    Returns:
        The components below the root of the archive, without `.` and empty ones; `()` for the root itself.

    Raises:
        InvalidArchiveError: The name is empty, absolute, has `..`, a backslash, a drive letter, control characters or bytes that
            are not UTF-8, or is too long or too deep.
    """
    reason = _wrong_with(name)
    if reason:
        raise refused(name, reason)
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    reason = _too_much(parts, limits)
    if reason:
        raise refused(name, reason)
    return parts


def _wrong_with(name: str) -> str:
    for category in map(unicodedata.category, name):
        if category in _REFUSED_CATEGORIES:
            return f"the name has {_REFUSED_CATEGORIES[category]}"
    if not name:
        return "the name is empty"
    if name.startswith("/"):
        return "the name is absolute, names are relative to the root of the archive"
    if "\\" in name:
        return "the name has a backslash, folders are separated by /"
    if _DRIVE.match(name):
        return "the name has a drive letter"
    return "the name leads upwards with .." if ".." in name.split("/") else ""


def _too_much(parts: tuple[str, ...], limits: Limits) -> str:
    if len(parts) > limits.max_depth:
        return f"{len(parts)} folders deep, {limits.max_depth} are allowed"
    sizes = [len(part.encode()) for part in parts]
    if sum(sizes) + len(parts) > limits.max_name_bytes or max(sizes, default=0) > 255:
        return f"the name is longer than {limits.max_name_bytes} bytes, or a part of it longer than 255"
    return ""


class Writer:
    """Writes the members of one archive into an empty folder; a context manager that leaves the folder empty when it fails.

    Files get mode 0644 and folders 0755, whatever the archive says. Sizes are counted as bytes are written. Everything is on disk
    (fsync) when the context ends.
    """

    def __init__(self, into: Path, limits: Limits, packed_bytes: int | None = None) -> None:
        """Starts writing.

        Args:
            into: An empty folder; made when it is absent.
            limits: How much may be written.
            packed_bytes: Size of the archive that the members come from, for the ratio; `None` when they were not packed.
        """
        self._into = into
        self._limits = limits
        self._files: set[tuple[str, ...]] = set()
        self._folders: set[tuple[str, ...]] = {()}
        self._listed: set[tuple[str, ...]] = set()
        self._written = 0
        self._ratio_bytes = None if packed_bytes is None else packed_bytes * limits.max_ratio + RATIO_ALLOWANCE_BYTES

    def __enter__(self) -> Self:
        self._into.mkdir(mode=0o755, exist_ok=True)
        if any(self._into.iterdir()):
            raise FileExistsError(f"{self._into} is not empty")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._clean()
            return
        for folder in self._folders:
            sync_folder(self._into.joinpath(*folder))

    def _clean(self) -> None:
        for entry in self._into.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def folder(self, name: str) -> None:
        """Makes a folder.

        Args:
            name: Name of the member.

        Raises:
            InvalidArchiveError: The name is refused, is there twice, or is that of a file too.
            TooLargeError: More members than allowed.
        """
        parts = member_parts(name, self._limits)
        if parts in self._listed:
            raise refused(name, "the name is there twice")
        if parts:
            self._listed.add(parts)
        self._make_folders(name, parts)

    def file(self, name: str, chunks: Iterable[bytes]) -> None:
        """Writes a file.

        Args:
            name: Name of the member.
            chunks: The contents, in pieces.

        Raises:
            InvalidArchiveError: The name is refused, is there twice or is that of a folder too, or the ratio is that of a bomb.
            TooLargeError: More bytes or members than allowed.
        """
        parts = member_parts(name, self._limits)
        if name.rpartition("/")[2] in ("", "."):
            raise refused(name, "a file with the name of a folder")
        if parts in self._files:
            raise refused(name, "the name is there twice")
        if parts in self._folders:
            raise refused(name, "a file and a folder have this name")
        self._make_folders(name, parts[:-1])
        self._files.add(parts)
        self._count(name)
        self._write(name, self._into.joinpath(*parts), chunks)

    def check_not_empty(self) -> None:
        """Refuses an archive without files.

        Raises:
            InvalidArchiveError: No file has been written.
        """
        if not self._files:
            raise InvalidArchiveError("the archive holds no files")

    def _make_folders(self, name: str, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts) + 1):
            folder = parts[:depth]
            if folder in self._files:
                raise refused(name, "a file and a folder have this name")
            if folder not in self._folders:
                self._folders.add(folder)
                self._count(name)
                path = self._into.joinpath(*folder)
                path.mkdir()
                path.chmod(0o755)

    def _count(self, name: str) -> None:
        if len(self._files) + len(self._folders) - 1 > self._limits.max_files:
            raise TooLargeError(f"archive member {name!r}: more than {self._limits.max_files} files (setting max_archive_files)")

    def _write(self, name: str, path: Path, chunks: Iterable[bytes]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                self._weigh(name, len(chunk))
                file.write(chunk)
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)

    def _weigh(self, name: str, size: int) -> None:
        self._written += size
        if self._written > self._limits.max_unpacked_bytes:
            limit = self._limits.max_unpacked_bytes
            raise TooLargeError(f"archive member {name!r}: more than {limit} bytes unpacked (setting max_unpacked_size_bytes)")
        if self._ratio_bytes is not None and self._written > self._ratio_bytes:
            raise refused(name, f"the archive unpacks to more than {self._limits.max_ratio} times its size")


def sync_folder(folder: Path) -> None:
    """Puts the entries of a folder on disk.

    Args:
        folder: The folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
