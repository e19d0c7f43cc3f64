"""Reading tar archives, plain or gzipped, member by member and forwards only.

`tarfile` as a whole takes a damaged header for the end of the archive and reads extension records of any size into memory; only
its header parser is used here.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from flowyard.platform.archives.members import RATIO_ALLOWANCE_BYTES, Limits, Writer, refused
from flowyard.schemas.errors import InvalidArchiveError

BLOCK_BYTES = tarfile.BLOCKSIZE
CHUNK_BYTES = 2**20
#: Longest extension record (pax header or GNU long name).
_EXTENSION_BYTES = 2**20
#: Header, extension records and padding of one member, at most, without refusing real archives.
_OVERHEAD_BYTES = 16 * BLOCK_BYTES
_BROKEN = (gzip.BadGzipFile, EOFError, zlib.error)
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ([^=\n]+)=", re.DOTALL)
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)


class _Stream:
    """Reads exact amounts of a tar stream, and no more of it than the limits can account for."""

    def __init__(self, file: BinaryIO, limits: Limits, packed_bytes: int) -> None:
        self._file = file
        contents = min(limits.max_unpacked_bytes, packed_bytes * limits.max_ratio)
        self._left = contents + limits.max_files * _OVERHEAD_BYTES + RATIO_ALLOWANCE_BYTES

    def some(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except _BROKEN as error:
            raise InvalidArchiveError(f"the gzip stream is broken: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise InvalidArchiveError("the tar archive unpacks to far more than its files and its size can account for")
        return data

    def exactly(self, size: int) -> bytes:
        data = self.some(size)
        if len(data) < size:
            raise InvalidArchiveError("the tar archive ends early")
        return data


def open_stream(archive: Path, zipped: bool) -> contextlib.AbstractContextManager[BinaryIO]:
    """Opens the tar stream of an archive.

    Args:
        archive: The archive.
        zipped: Whether it is gzipped.

    Returns:
        A context manager that gives the stream.
    """
    return cast(BinaryIO, gzip.open(archive)) if zipped else archive.open("rb")


def unpack_tar(archive: Path, writer: Writer, limits: Limits, zipped: bool) -> None:
    """Writes out all members.

    Args:
        archive: The archive.
        writer: Where members go.
        limits: How much may be read.
        zipped: Whether it is gzipped.

    Raises:
        InvalidArchiveError: A member is refused, or the archive is broken or ends early.
        TooLargeError: It is over a limit.
    """
    with open_stream(archive, zipped) as file:
        stream = _Stream(file, limits, archive.stat().st_size)
        for info in _members(stream):
            _unpack_member(stream, info, writer)
        while rest := stream.some(CHUNK_BYTES):
            if rest.strip(b"\0"):
                raise InvalidArchiveError("the tar archive goes on after its end")


def is_tar_header(block: bytes) -> bool:
    """Tells whether a block starts a tar archive.

    Args:
        block: The first 512 bytes.

    Returns:
        Whether it is a member's header with a right checksum.
    """
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _members(stream: _Stream) -> Iterator[tarfile.TarInfo]:
    everywhere: dict[str, str] = {}
    here: dict[str, str] = {}
    while info := _header(stream):
        if info.type == tarfile.XGLTYPE:
            everywhere |= _pax(_extension(stream, info))
        elif info.type == tarfile.XHDTYPE:
            here |= _pax(_extension(stream, info))
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            here["path"] = _extension(stream, info).rstrip(b"\0").decode("utf-8", "surrogateescape")
        else:
            yield _extended(info, everywhere | here)
            here = {}


def _header(stream: _Stream) -> tarfile.TarInfo | None:
    block = stream.exactly(BLOCK_BYTES)
    if not block.strip(b"\0"):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InvalidArchiveError(f"the tar archive is broken: {error}") from error


def _extension(stream: _Stream, info: tarfile.TarInfo) -> bytes:
    if not 0 <= info.size <= _EXTENSION_BYTES:
        raise refused(info.name, f"an extension record of {info.size} bytes, {_EXTENSION_BYTES} are allowed")
    data = stream.exactly(info.size)
    stream.exactly(-info.size % BLOCK_BYTES)
    return data


def _pax(data: bytes) -> dict[str, str]:
    """Splits records `<length> <key>=<value>` and a line feed, where the length counts the whole record."""
    found: dict[str, str] = {}
    while data:
        match = _PAX_RECORD.match(data)
        length = int(match[1]) if match else 0
        if not match or not match.end() < length <= len(data) or data[length - 1 : length] != b"\n":
            raise InvalidArchiveError("the tar archive is broken: bad pax header")
        found[match[2].decode("utf-8", "replace")] = data[match.end() : length - 1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return found


def _extended(info: tarfile.TarInfo, extra: dict[str, str]) -> tarfile.TarInfo:
    info.name = extra.get("path", info.name)
    if any(key.startswith("GNU.sparse.") for key in extra):
        info.type = tarfile.GNUTYPE_SPARSE
    size = extra.get("size")
    if size is not None:
        if not re.fullmatch(r"[0-9]{1,18}", size):
            raise refused(info.name, "its size cannot be read")
        info.size = int(size)
    return info


def _unpack_member(stream: _Stream, info: tarfile.TarInfo, writer: Writer) -> None:
    if info.type == tarfile.DIRTYPE:
        if info.size:
            raise refused(info.name, "a folder with contents")
        writer.folder(info.name)
    elif info.type not in _FILES:
        what = _KINDS.get(info.type, "a special file")
        raise refused(info.name, f"{what}; only regular files and folders are allowed")
    elif info.size < 0:
        raise refused(info.name, "its size cannot be read")
    else:
        writer.file(info.name, _contents(stream, info))


def _contents(stream: _Stream, info: tarfile.TarInfo) -> Iterator[bytes]:
    left = info.size
    while left:
        chunk = stream.some(min(left, CHUNK_BYTES))
        if not chunk:
            raise refused(info.name, "the archive ends within it")
        left -= len(chunk)
        yield chunk
    stream.exactly(-info.size % BLOCK_BYTES)
