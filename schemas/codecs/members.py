"""A ZIP archive in memory, read strictly and within limits: what npz is packed in."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from flowyard.schemas.codecs.arrays import MAX_ARRAYS, MAX_NAME_BYTES, Body
from flowyard.schemas.errors import InvalidInputError

MAGIC = b"PK\x03\x04"
#: What the members of a body may hold altogether when unpacked: as many times the body, and never more than the last. Small
#: bodies may grow more, because arrays of zeros do.
MAX_GROWTH = 64
SMALL_BYTES = 4 * 2**20
MAX_UNPACKED_BYTES = 256 * 2**20

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x1, 0x800
_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL_BYTES = 30
_ZIP64_COUNT, _ZIP64_SIZE = 0xFFFF, 0xFFFFFFFF


class Member(NamedTuple):
    """One member of an archive.

    Attributes:
        name: Its name.
        method: 0 for stored, 8 for deflated.
        crc: CRC-32 of the contents.
        packed: Bytes in the archive.
        size: Bytes unpacked, as declared.
        place: Where its local header begins.
    """

    name: str
    method: int
    crc: int
    packed: int
    size: int
    place: int


def list_members(body: bytes) -> list[Member]:
    """Lists an archive.

    Args:
        body: The archive.

    Returns:
        Its members in order; what they declare stays within the limits.

    Raises:
        InvalidInputError: It is no ZIP archive, or one beyond the limits.
    """
    end = body.rfind(b"PK\x05\x06", max(0, len(body) - _END.size - 0xFFFF))
    if end < 0 or end + _END.size > len(body):
        raise InvalidInputError("expected a ZIP archive, got one without an end: it is cut off, or something else")
    _, disk, first_disk, here, total, size, place, comment = _END.unpack_from(body, end)
    if _ZIP64_COUNT in (here, total) or _ZIP64_SIZE in (size, place):
        raise InvalidInputError("expected a ZIP archive of less than 4 GiB, got ZIP64")
    if disk or first_disk or here != total or place + size != end or end + _END.size + comment != len(body):
        raise InvalidInputError(f"expected the end of a ZIP archive at byte {end}, got one that does not fit what is before it")
    if total > MAX_ARRAYS:
        raise InvalidInputError(f"expected at most {MAX_ARRAYS} members in a ZIP archive, got {total}")
    listed: list[Member] = []
    for _ in range(total):
        member, place = _entry(body, place, end)
        listed.append(member)
    if place != end:
        raise InvalidInputError(f"expected the end of the ZIP archive's list at byte {end}, got it at byte {place}")
    _check_sizes(listed, len(body))
    return listed


def _entry(body: bytes, place: int, end: int) -> tuple[Member, int]:
    if place + _ENTRY.size > end:
        raise InvalidInputError(f"expected another member of the ZIP archive at byte {place}, got the end of its list")
    magic, _, _, flags, method, _, _, crc, packed, size, name_size, extra, comment, _, _, _, local = _ENTRY.unpack_from(
        body, place
    )
    begin = place + _ENTRY.size
    after = begin + name_size + extra + comment
    if magic != b"PK\x01\x02" or after > end:
        raise InvalidInputError(f"expected a member of the ZIP archive at byte {place}, got {body[place : place + 4]!r}")
    if name_size > MAX_NAME_BYTES:
        raise InvalidInputError(f"expected names of at most {MAX_NAME_BYTES} bytes, got one of {name_size} at byte {begin}")
    raw = body[begin : begin + name_size]
    name = raw.decode("utf-8" if flags & _UTF8 else "cp437", "replace")
    if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
        how = "encrypted" if flags & _ENCRYPTED else f"compression method {method}"
        raise InvalidInputError(f"expected stored or deflated members in a ZIP archive, got {name!r} ({how})")
    return Member(name, method, crc, packed, size, local), after


def _check_sizes(listed: list[Member], length: int) -> None:
    # Members that share bytes of the archive would make little work for the sender and much for us.
    if sum(member.packed for member in listed) > length:
        raise InvalidInputError("expected members of their own bytes in a ZIP archive, got some that overlap")
    limit = min(max(MAX_GROWTH * length, SMALL_BYTES), MAX_UNPACKED_BYTES)
    total = sum(member.size for member in listed)
    if total > limit:
        raise InvalidInputError(f"expected at most {limit} bytes in a ZIP archive of {length} bytes, got {total}")


def contents(body: bytes, member: Member) -> Body:
    """Unpacks a member.

    Args:
        body: The archive.
        member: One of `list_members(body)`.

    Returns:
        What it holds; a view of the archive where it is stored.

    Raises:
        InvalidInputError: It is broken, or holds something else than the list says.
    """
    head = body[member.place : member.place + _LOCAL_BYTES]
    if len(head) < _LOCAL_BYTES or head[:4] != MAGIC:
        raise InvalidInputError(f"expected the ZIP member {member.name!r} at byte {member.place}, got {head[:4]!r}")
    begin = member.place + _LOCAL_BYTES + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    packed = memoryview(body)[begin : begin + member.packed]
    if len(packed) != member.packed:
        raise InvalidInputError(f"expected {member.packed} bytes of {member.name!r} at byte {begin}, got {len(packed)}")
    data = packed if member.method == _STORED else _inflate(packed, member)
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise InvalidInputError(f"expected {member.size} bytes with the CRC-32 {member.crc:#010x} in {member.name!r}, got others")
    return data


def _inflate(packed: memoryview, member: Member) -> bytes:
    """Unpacks at most the bytes that the member declares, which `list_members` has checked."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # Without the one byte more, the end of the stream would not be seen; and zero would mean no limit.
        data = unpacker.decompress(packed, member.size + 1)
    except zlib.error as error:
        raise InvalidInputError(f"expected deflated bytes in {member.name!r}, got others: {error}") from None
    if not unpacker.eof or unpacker.unused_data or unpacker.unconsumed_tail:
        raise InvalidInputError(f"expected {member.size} bytes in {member.name!r}, got more, or a stream that does not end")
    return data
