"""Tensors of the Open Inference Protocol: JSON data, flat or nested, and the binary extension."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.tensors import TensorSpec
from flowyard.schemas.values import NOT_JSON, to_jsonable

Array: TypeAlias = np.ndarray[Any, Any]

STRINGS = "BYTES"
#: Datatype -> numpy's name. BF16 has no dtype in numpy.
DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
DATATYPES = {dtype: datatype for datatype, dtype in DTYPES.items()} | {"string": STRINGS}
MAX_AXES = 32
_LENGTH = struct.Struct("<I")
_FLAT: dict[str, msgspec.json.Decoder[list[Any]]] = {
    "b": msgspec.json.Decoder(list[bool]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
    "f": msgspec.json.Decoder(list[float]),
    "O": msgspec.json.Decoder(list[str]),
}


class Tensor(msgspec.Struct, frozen=True):
    """A named array; strings have dtype object."""

    name: str
    array: Array

    @property
    def datatype(self) -> str:
        """The protocol's name of its dtype."""
        return STRINGS if self.array.dtype.kind in "OUS" else DATATYPES[self.array.dtype.name]


def read_json(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw) -> Array:
    """Reads an input tensor's `data`.

    Args:
        name: Of the tensor, for messages.
        datatype: The protocol's name.
        shape: Size per axis.
        data: JSON: the elements in row-major order, flat or nested.

    Returns:
        The array.

    Raises:
        InvalidInputError: An unknown datatype, elements that are not of it, or not as many as the shape has room for.
    """
    dtype = _dtype(name, datatype)
    count = _count(name, shape)
    flat = _flat(name, datatype, dtype, data)
    if len(flat) != count:
        raise InvalidInputError(f"input {name!r}: {len(flat)} elements, but shape {list(shape)} holds {count}")
    try:
        return np.array(flat, dtype=dtype).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise InvalidInputError(f"input {name!r}: not all elements are of datatype {datatype}: {error}") from None


def _flat(name: str, datatype: str, dtype: np.dtype[Any], data: msgspec.Raw) -> list[Any]:
    decoder = _FLAT[dtype.kind]
    try:
        try:
            return decoder.decode(data)
        except msgspec.ValidationError:
            # Nested, then, or wrong.
            elements = list(_elements(msgspec.json.decode(data)))
        return decoder.decode(msgspec.json.encode(elements))
    except NOT_JSON as error:
        raise InvalidInputError(f"input {name!r}: not all elements are of datatype {datatype}: {error}") from None


def _elements(data: Any) -> Iterator[Any]:
    """The elements of nested lists, in order, without recursion."""
    stack = [iter(data if isinstance(data, list) else [data])]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            yield item
        else:
            stack.pop()


def read_binary(name: str, datatype: str, shape: Sequence[int], content: memoryview) -> Array:
    """Reads an input tensor of the binary extension: little endian, strings with their length in front; errors as `read_json`."""
    dtype = _dtype(name, datatype)
    count = _count(name, shape)
    if dtype.kind == "O":
        strings = list(_strings(name, content))
        if len(strings) != count:
            raise InvalidInputError(f"input {name!r}: {len(strings)} strings, but shape {list(shape)} holds {count}")
        return np.array(strings, dtype=object).reshape(shape)
    if len(content) != count * dtype.itemsize:
        raise InvalidInputError(
            f"input {name!r}: {len(content)} bytes, but {datatype} of shape {list(shape)} has {count * dtype.itemsize}"
        )
    return np.frombuffer(content, dtype=dtype.newbyteorder("<")).reshape(shape)


def _strings(name: str, content: memoryview) -> Iterator[str]:
    at = 0
    while at < len(content):
        if len(content) - at < _LENGTH.size:
            raise InvalidInputError(f"input {name!r}: the length of a string is cut off")
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        if len(content) - at < length:
            raise InvalidInputError(f"input {name!r}: a string of {length} bytes reaches past the end")
        try:
            yield str(content[at : at + length], "utf-8")
        except UnicodeDecodeError:
            raise InvalidInputError(f"input {name!r}: a string is not UTF-8") from None
        at += length


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    if datatype == STRINGS:
        return np.dtype(object)
    if datatype not in DTYPES:
        raise InvalidInputError(f"input {name!r}: datatype {datatype[:20]!r} is not one of {', '.join([*DTYPES, STRINGS])}")
    return np.dtype(DTYPES[datatype])


def _count(name: str, shape: Sequence[int]) -> int:
    if len(shape) > MAX_AXES or any(size < 0 for size in shape):
        raise InvalidInputError(f"input {name!r}: a shape has at most {MAX_AXES} axes, of sizes from 0 on")
    return math.prod(shape)


def write_json(tensor: Tensor) -> dict[str, Any]:
    """Tells an output tensor in JSON, its elements flat; NaN and infinities become null."""
    flat = tensor.array.reshape(-1).tolist()
    if tensor.array.dtype.kind == "f":
        flat = to_jsonable(flat)
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.array.shape), "data": flat}


def write_binary(tensor: Tensor) -> tuple[dict[str, Any], bytes]:
    """Tells an output tensor in the binary extension: what stands in the JSON, and the bytes behind it."""
    array = tensor.array
    if tensor.datatype == STRINGS:
        encoded = [str(item).encode() for item in array.reshape(-1).tolist()]
        content = b"".join(_LENGTH.pack(len(item)) + item for item in encoded)
    else:
        content = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
    head = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(content)},
    }
    return head, content


def told(spec: TensorSpec) -> dict[str, Any]:
    """An input or output of a model's metadata; -1 stands for an axis that varies."""
    return {"name": spec.name, "datatype": DATATYPES.get(spec.dtype, spec.dtype), "shape": list(spec.shape or [-1])}
