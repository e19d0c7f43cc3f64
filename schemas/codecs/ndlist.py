"""NDList: DJL's own format. Versions 1 to 3 are read; version 3 is written, as both of DJL's clients read it.

Headers are big-endian. An array is: the text `NDAR`; int32 version; from version 2 on a byte that says whether a name follows;
a sparse format, which nobody uses; the dtype; the shape as int32 and int64s, and as many characters of a layout; in version 3 the
byte order of the contents (before, it is that of the machine, which is little-endian everywhere by now); int32 length; contents.
Strings have no byte order and no length; their number and the strings themselves take the place of both.
"""

from __future__ import annotations

import struct

import numpy as np

from flowyard.schemas.codecs.arrays import (
    BFLOAT16,
    BIG,
    LITTLE,
    MAX_ARRAYS,
    MAX_AXES,
    NUMERIC,
    STRING,
    Array,
    cannot_hold,
    contents,
    count,
    dtype_name,
    parts_of,
    value_of,
    view,
)
from flowyard.schemas.codecs.javatext import from_java, to_java
from flowyard.schemas.errors import InvalidInputError, NotAcceptableError
from flowyard.schemas.values import Value

MEDIA_TYPE = "tensor/ndlist"
VERSION = 3
#: Most strings in one body: each takes many times the two bytes that it needs there at least.
MAX_STRINGS = 1_000_000
_MAX_CONTENTS = 2**31 - 1
_MAGIC = b"\x00\x04NDAR"
#: DJL's Java client spells bool `BOOLEAN`, its Python client `BOOL`.
_NAMES = {name.upper(): name for name in (*NUMERIC, BFLOAT16, STRING)} | {"BOOLEAN": "bool"}
_DTYPES = {name: spelled for spelled, name in _NAMES.items() if spelled != "BOOL"}
_ORDERS = {ord("<"): LITTLE, ord(">"): BIG}


def recognise(body: bytes) -> bool:
    """Whether a body is an NDList for certain: `NDAR` stands where it must."""
    return body[4:10] == _MAGIC


def decode(body: bytes) -> Value:
    """Reads an NDList.

    Args:
        body: The list.

    Returns:
        The arrays, see `value_of`; views of the body, except strings and bfloat16, which becomes float32.

    Raises:
        InvalidInputError: It is no NDList.
    """
    reader = _Reader(body)
    number = reader.integer("number of arrays", 0, MAX_ARRAYS)
    parts = [reader.array() for _ in range(number)]
    if reader.place != len(body):
        raise InvalidInputError(
            f"expected the end of the NDList at byte {reader.place}, got {len(body) - reader.place} more bytes"
        )
    return value_of(parts)


class _Reader:
    """Goes through a body."""

    def __init__(self, body: bytes) -> None:
        self.place = 0
        self._body = body
        self._strings_left = MAX_STRINGS

    def array(self) -> tuple[str | None, Array]:
        begin = self.place
        if self.take(6, "NDAR") != _MAGIC:
            raise InvalidInputError(f"expected {_MAGIC!r} at byte {begin} of the NDList, got {self._body[begin : begin + 6]!r}")
        version = self.integer("version", 1, VERSION)
        name = self.text("name") if version > 1 and self.byte("name flag", (0, 1)) else None
        self.text("sparse format")
        dtype = self.text("dtype")
        if dtype not in _NAMES:
            raise InvalidInputError(f"expected a dtype of {', '.join(_NAMES)} in the NDList at byte {begin}, got {dtype[:50]!r}")
        shape = self.shape()
        if _NAMES[dtype] == STRING:
            return name or None, self.strings(shape)
        elements = _ORDERS[self.byte("byte order", tuple(_ORDERS))] if version > 2 else LITTLE
        length = self.integer("length", 0, _MAX_CONTENTS)
        array = view(self._body, elements[_NAMES[dtype]], shape, self.place, length)
        self.place += length
        return name or None, array

    def shape(self) -> tuple[int, ...]:
        axes = self.integer("number of axes", 0, MAX_AXES)
        shape: tuple[int, ...] = struct.unpack(f">{axes}q", self.take(8 * axes, "shape"))
        self.integer("length of the layout", axes, axes)
        self.take(2 * axes, "layout")
        return shape

    def strings(self, shape: tuple[int, ...]) -> Array:
        number = count(shape)
        self.integer("number of strings", number, number)
        self._strings_left -= number
        if self._strings_left < 0 or 2 * number > len(self._body) - self.place:
            raise InvalidInputError(f"expected at most {MAX_STRINGS} strings, as many as the NDList has bytes for, got more")
        array = np.empty(number, object)
        array[:] = [self.text("string") for _ in range(number)]
        array = array.reshape(shape)
        array.flags.writeable = False
        return array

    def text(self, what: str) -> str:
        size = int.from_bytes(self.take(2, what), "big")
        begin = self.place
        try:
            return from_java(self.take(size, what))
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"expected UTF-8 as {what} at byte {begin} of the NDList, got {error.object[error.start : error.end]!r}"
            ) from None

    def byte(self, what: str, allowed: tuple[int, ...]) -> int:
        number = self.take(1, what)[0]
        if number not in allowed:
            expected = " or ".join(str(bytes([item])) for item in allowed)
            raise InvalidInputError(
                f"expected {expected} as {what} at byte {self.place - 1} of the NDList, got {bytes([number])!r}"
            )
        return number

    def integer(self, what: str, low: int, high: int) -> int:
        number = int.from_bytes(self.take(4, what), "big", signed=True)
        if not low <= number <= high:
            allowed = f"{low}" if low == high else f"{low} to {high}"
            raise InvalidInputError(f"expected {allowed} as {what} at byte {self.place - 4} of the NDList, got {number}")
        return number

    def take(self, size: int, what: str) -> bytes:
        taken = self._body[self.place : self.place + size]
        if len(taken) != size:
            raise InvalidInputError(f"expected the {what} at byte {self.place} of the NDList, got its end")
        self.place += size
        return taken


def encode(value: Value) -> bytes:
    """Writes an NDList.

    Args:
        value: An array, or a list or mapping of arrays.

    Returns:
        The list.

    Raises:
        NotAcceptableError: An array is of more than 2 GiB, or holds something that is no number, bool or short string.
    """
    parts = parts_of(value)
    pieces: list[bytes | memoryview] = [len(parts).to_bytes(4, "big")]
    for name, array in parts:
        dtype = _DTYPES.get(dtype_name(array))
        if dtype is None:
            raise cannot_hold(MEDIA_TYPE, array)
        pieces += [_MAGIC, VERSION.to_bytes(4, "big")]
        pieces += [b"\x00"] if name is None else [b"\x01", _utf(name)]
        pieces += [_utf("DENSE"), _utf(dtype), _shape(array)]
        pieces += _strings(array) if dtype == "STRING" else _contents(array)
    return b"".join(pieces)


def _shape(array: Array) -> bytes:
    axes = array.ndim
    return struct.pack(f">i{axes}qi", axes, *array.shape, axes) + b"\x00?" * axes


def _contents(array: Array) -> list[bytes | memoryview]:
    if array.nbytes > _MAX_CONTENTS:
        raise NotAcceptableError(f"{MEDIA_TYPE} holds arrays of up to 2 GiB, the result has one of {array.nbytes} bytes")
    return [b"<", array.nbytes.to_bytes(4, "big"), contents(array).data]


def _strings(array: Array) -> list[bytes | memoryview]:
    items = array.reshape(-1).tolist()
    if not all(isinstance(item, str) for item in items):
        raise cannot_hold(MEDIA_TYPE, array)
    return [len(items).to_bytes(4, "big"), *map(_utf, items)]


def _utf(text: str) -> bytes:
    raw = to_java(text)
    if len(raw) > 0xFFFF:
        raise NotAcceptableError(f"{MEDIA_TYPE} holds strings of up to 65535 bytes, the result has one of {len(raw)}")
    return len(raw).to_bytes(2, "big") + raw
