"""The inputs and outputs of an ONNX file, read from its graph without loading it: no weights, no ONNX Runtime.

The file is a protobuf message; only the fields that name tensors are looked at, everything else is skipped over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.tensors import Signature, TensorSpec

#: Numbers of fields, by message (onnx.proto).
_GRAPH = 7
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12
_INITIALIZER_NAME = 8
_NAME, _TYPE = 1, 2
_TENSOR_TYPE = 1
_ELEMENT, _SHAPE = 1, 2
_DIMENSION = 1
_SIZE = 1
#: TensorProto.DataType.
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
}
_MOST_BYTES = 1 << 20
_VARINT, _FIXED64, _BLOCK, _FIXED32 = 0, 1, 2, 5


def read_signature(file: Path) -> Signature:
    """Reads what a model takes and gives.

    Args:
        file: An ONNX file.

    Returns:
        Its inputs, without those that have a value in the file, and its outputs.

    Raises:
        InvalidModelError: It is no ONNX file, or a broken one.
    """
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            begin, end = next((span for number, span in _blocks(opened, 0, size) if number == _GRAPH), (0, 0))
            return _graph(opened, begin, end)
    except (ValueError, EOFError) as error:
        raise InvalidModelError(f"{file.name} is no ONNX model, or a broken one: {error}") from None


def _graph(file: BinaryIO, begin: int, end: int) -> Signature:
    given: set[str] = set()
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for number, span in _blocks(file, begin, end):
        if number == _INITIALIZER:
            given.add(_text(file, span, _INITIALIZER_NAME))
        elif number == _INPUT:
            inputs.append(_tensor(file, span))
        elif number == _OUTPUT:
            outputs.append(_tensor(file, span))
    return Signature(inputs=tuple(item for item in inputs if item.name not in given), outputs=tuple(outputs))


def _tensor(file: BinaryIO, span: tuple[int, int]) -> TensorSpec:
    name = _text(file, span, _NAME)
    kinds = [inner for number, inner in _blocks(file, *span) if number == _TYPE]
    tensors = [inner for kind in kinds for number, inner in _blocks(file, *kind) if number == _TENSOR_TYPE]
    if not tensors:
        return TensorSpec(name=name)
    element = next((value for number, value in _varints(file, *tensors[0]) if number == _ELEMENT), 0)
    shapes = [inner for number, inner in _blocks(file, *tensors[0]) if number == _SHAPE]
    shape = tuple(_size(file, inner) for number, inner in _blocks(file, *shapes[0]) if number == _DIMENSION) if shapes else None
    return TensorSpec(name=name, dtype=_DTYPES.get(element, ""), shape=shape)


def _size(file: BinaryIO, span: tuple[int, int]) -> int:
    return next((value for number, value in _varints(file, *span) if number == _SIZE), -1)


def _text(file: BinaryIO, span: tuple[int, int], wanted: int) -> str:
    for number, (begin, end) in _blocks(file, *span):
        if number == wanted:
            if end - begin > _MOST_BYTES:
                raise ValueError("a name of more than a mebibyte")
            file.seek(begin)
            return file.read(end - begin).decode("utf-8", "replace")
    return ""


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """The fields with a length, as number and where their content is."""
    for number, kind, value, after in _fields(file, begin, end):
        if kind == _BLOCK:
            yield number, (value, after)


def _varints(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The fields that are numbers."""
    for number, kind, value, _ in _fields(file, begin, end):
        if kind == _VARINT:
            yield number, value


def _fields(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, the value of a number or the place of a block, and where the field ends."""
    at = begin
    while at < end:
        file.seek(at)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        value = 0
        if kind == _VARINT:
            value = _varint(file)
            at = file.tell()
        elif kind == _BLOCK:
            length = _varint(file)
            value = file.tell()
            at = value + length
        elif kind in (_FIXED64, _FIXED32):
            at = file.tell() + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError("a field of an unknown kind")
        if at > end:
            raise ValueError("a field is longer than what it is in")
        yield number, kind, value, at


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends in the middle of a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than ten bytes")
