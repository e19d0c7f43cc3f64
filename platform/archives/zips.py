"""Reading ZIP archives member by member."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from flowyard.platform.archives.members import Limits, Writer, refused
from flowyard.schemas.errors import InvalidArchiveError, TooLargeError

CHUNK_BYTES = 2**20
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError, struct.error, NotImplementedError, ValueError)
_ENTRY_MAGIC = b"PK\x01\x02"
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
#: Generous mean of one entry in the list of members: 46 bytes, the name and extra fields.
_ENTRY_BYTES = 512


class _ListReader(io.FileIO):
    """Bounds the one read in which `zipfile` takes in the list of members, before any of them can be counted."""

    def __init__(self, archive: Path, max_files: int) -> None:
        super().__init__(archive)
        self._max_files = max_files

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._max_files * _ENTRY_BYTES + CHUNK_BYTES:
            raise self._too_many()
        data = super().read(-1 if size is None else size) or b""
        if data.startswith(_ENTRY_MAGIC) and data.count(_ENTRY_MAGIC) > self._max_files:
            raise self._too_many()
        return data

    def _too_many(self) -> TooLargeError:
        return TooLargeError(f"the archive has more than {self._max_files} files (setting max_archive_files)")


@contextlib.contextmanager
def open_zip(archive: Path, limits: Limits) -> Iterator[zipfile.ZipFile]:
    """Opens a ZIP archive that nobody vouches for.

    Args:
        archive: The archive.
        limits: How many members it may list.

    Yields:
        The open archive. What its reader finds broken while it is open becomes an `InvalidArchiveError`.

    Raises:
        InvalidArchiveError: It is not a ZIP archive, or a broken one.
        TooLargeError: It lists more members than allowed.
    """
    try:
        with _ListReader(archive, limits.max_files) as file, zipfile.ZipFile(file) as opened:
            yield opened
    except _BROKEN as error:
        raise InvalidArchiveError(f"the ZIP archive is broken: {error}") from error


def member_name(info: zipfile.ZipInfo) -> str:
    """Tells the name of a member as it is in the archive.

    `zipfile` cuts names at a NUL and takes names without the UTF-8 flag for code page 437; many writers put UTF-8 there.

    Args:
        info: The member.

    Returns:
        The name; bytes that are not UTF-8 are surrogates, which `member_parts` refuses.
    """
    if info.flag_bits & _UTF8:
        return info.orig_filename
    return info.orig_filename.encode("cp437").decode("utf-8", "surrogateescape")


def unpack_zip(archive: Path, writer: Writer, limits: Limits) -> None:
    """Writes out all members.

    Args:
        archive: The archive.
        writer: Where members go.
        limits: How many members it may list.

    Raises:
        InvalidArchiveError: A member is refused or broken.
        TooLargeError: It is over a limit.
    """
    with open_zip(archive, limits) as opened:
        members = opened.infolist()
        _check_overlap(members)
        for info in members:
            _unpack_member(opened, info, writer)


def _check_overlap(members: list[zipfile.ZipInfo]) -> None:
    """Refuses members that share bytes: the way to the largest bombs."""
    end = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise refused(member_name(info), "it overlaps another member")
        end = info.header_offset + info.compress_size


def _unpack_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, writer: Writer) -> None:
    name = member_name(info)
    _check_kind(name, info)
    if not (name.endswith("/") or stat.S_ISDIR(info.external_attr >> 16)):
        writer.file(name, _contents(opened, info, name))
    elif info.file_size:
        raise refused(name, "a folder with contents")
    else:
        writer.folder(name)


def _check_kind(name: str, info: zipfile.ZipInfo) -> None:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
        raise refused(name, f"{what}; only regular files and folders are allowed")
    if info.flag_bits & _ENCRYPTED:
        raise refused(name, "it is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise refused(name, f"compression method {info.compress_type} is not supported; stored and deflate are")


def _contents(opened: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Iterator[bytes]:
    count = 0
    try:
        with opened.open(info) as file:
            while chunk := file.read(CHUNK_BYTES):
                count += len(chunk)
                yield chunk
    except _BROKEN as error:
        raise refused(name, f"it is broken: {error}") from error
    if count != info.file_size:
        raise refused(name, f"it has {count} bytes where {info.file_size} are announced")
