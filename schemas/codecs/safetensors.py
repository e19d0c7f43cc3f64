"""safetensors: a JSON header with dtype, shape and place of every array, and their contents."""

from __future__ import annotations

from typing import Annotated

import msgspec

from flowyard.schemas.codecs.arrays import (
    BFLOAT16,
    LITTLE,
    MAX_ARRAYS,
    Array,
    cannot_hold,
    contents,
    dtype_name,
    named,
    parts_of,
    value_of,
    view,
)
from flowyard.schemas.errors import InvalidInputError, NotAcceptableError
from flowyard.schemas.values import Value

MEDIA_TYPE = "tensor/safetensors"
MAX_HEADER_BYTES = 2**20
_METADATA = "__metadata__"
_ALIGNMENT = 8
_NAMES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "BF16": BFLOAT16,
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
_DTYPES = {name: spelled for spelled, name in _NAMES.items()}
_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array in the header.

    Attributes:
        dtype: Its dtype, as safetensors spells it.
        shape: Size per axis.
        data_offsets: Where its contents begin and end, counted from the end of the header.
    """

    dtype: str
    shape: tuple[_Natural, ...]
    data_offsets: tuple[_Natural, _Natural]


_decode_header = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_entry = msgspec.json.Decoder(Entry).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


def decode(body: bytes) -> Value:
    """Reads a safetensors file.

    Args:
        body: The file.

    Returns:
        The arrays in the header's order, see `value_of`; views of the body, except that bfloat16 becomes float32.

    Raises:
        InvalidInputError: It is no safetensors file: the header cannot be read, or the contents of the arrays are not one run
            without gaps that ends with the body.
    """
    size = int.from_bytes(body[:8], "little")
    if len(body) < 8 or size > min(MAX_HEADER_BYTES, len(body) - 8):
        raise InvalidInputError(
            f"expected a safetensors header of at most {MAX_HEADER_BYTES} bytes at byte 8, got a length of {size} "
            f"in a body of {len(body)} bytes"
        )
    start = 8 + size
    entries = _entries(body[8:start])
    _check_offsets(entries, len(body) - start)
    return value_of([(name, _array(body, start, name, entry)) for name, entry in entries.items()])


def _entries(text: bytes) -> dict[str, Entry]:
    if not text.startswith(b"{"):
        raise InvalidInputError(f"expected a JSON object as safetensors header at byte 8, got {text[:10]!r}")
    name = ""
    try:
        header = _decode_header(text)
        metadata = header.pop(_METADATA, None)
        if metadata is not None:
            _decode_metadata(metadata)
        if len(header) > MAX_ARRAYS:
            raise InvalidInputError(f"expected at most {MAX_ARRAYS} arrays in safetensors, got {len(header)}")
        entries: dict[str, Entry] = {}
        for name, raw in header.items():
            entries[name] = _decode_entry(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"safetensors header{_at(name)}: {error}") from None
    return entries


def _check_offsets(entries: dict[str, Entry], length: int) -> None:
    """The contents must cover the rest of the body, one after the other."""
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != place or end < begin:
            raise InvalidInputError(f"safetensors header{_at(name)}: expected data_offsets from {place}, got [{begin}, {end}]")
        place = end
    if place != length:
        raise InvalidInputError(f"expected {place} bytes behind the safetensors header, got {length}")


def _array(body: bytes, start: int, name: str, entry: Entry) -> Array:
    element = LITTLE.get(_NAMES.get(entry.dtype, ""))
    if element is None:
        raise InvalidInputError(
            f"safetensors header{_at(name)}: expected a dtype of {', '.join(_NAMES)}, got {entry.dtype[:50]!r}"
        )
    begin, end = entry.data_offsets
    try:
        return view(body, element, entry.shape, start + begin, end - begin)
    except InvalidInputError as error:
        raise InvalidInputError(f"safetensors array{_at(name)}: {error.message}") from None


def _at(name: str) -> str:
    return f" {name[:100]!r}" if name else ""


def encode(value: Value) -> bytes:
    """Writes a safetensors file.

    Args:
        value: An array, or a list or mapping of arrays; unnamed ones are written as `arr_0`, `arr_1`, ...

    Returns:
        The file.

    Raises:
        NotAcceptableError: There is an array of strings or of complex128, or one with the format's reserved name.
    """
    header: dict[str, Entry] = {}
    buffers: list[memoryview] = []
    place = 0
    for name, array in named(parts_of(value)):
        dtype = _DTYPES.get(dtype_name(array))
        if dtype is None:
            raise cannot_hold(MEDIA_TYPE, array)
        if name == _METADATA:
            raise NotAcceptableError(f"{MEDIA_TYPE} cannot hold an array named {_METADATA}")
        header[name] = Entry(dtype, array.shape, (place, place + array.nbytes))
        buffers.append(contents(array).data)
        place += array.nbytes
    text = msgspec.json.encode(header)
    text = text.ljust(-(-len(text) // _ALIGNMENT) * _ALIGNMENT)
    return b"".join((len(text).to_bytes(8, "little"), text, *buffers))
