"""What the tensor formats share: element types, views of a body, limits, and what a list of arrays is as a value."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from flowyard.schemas.errors import InvalidInputError, NotAcceptableError
from flowyard.schemas.values import Value

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Body: TypeAlias = bytes | memoryview
#: The arrays of a body in order; one without a name has `None`.
Parts: TypeAlias = Sequence[tuple[str | None, Array]]

#: Most arrays in one body.
MAX_ARRAYS = 1024
#: Most axes of an array: what every reader of ours can index.
MAX_AXES = 32
#: Most elements the axes of an empty array may stand for, and most empty lists it may become in JSON: an empty array of shape
#: (1000000000, 0) takes no byte of the body, and gigabytes as nested lists.
MAX_EMPTY_AXES = 2**31
MAX_EMPTY_LISTS = 1024
MAX_NAME_BYTES = 1024
_IS_LITTLE = sys.byteorder == "little"

BFLOAT16 = "bfloat16"
STRING = "string"
#: numpy's names of the element types that are numbers, in any format.
NUMERIC = (
    "bool",
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
    *("complex64", "complex128"),
)


class Element(NamedTuple):
    """How the elements of an array are stored.

    Attributes:
        name: numpy's name, or `bfloat16`.
        stored: The dtype in which the body is read.
        as_is: Whether the view of the body is the array, with nothing to convert or check.
    """

    name: str
    stored: np.dtype[Any]
    as_is: bool


def _element(name: str, order: str) -> Element:
    stored = np.dtype("uint16" if name == BFLOAT16 else name).newbyteorder(order)  # type: ignore[arg-type]
    return Element(name, stored, stored.isnative and name not in (BFLOAT16, "bool"))


#: Every element type by name, little-endian and big-endian.
LITTLE = {name: _element(name, "<") for name in (*NUMERIC, BFLOAT16)}
BIG = {name: _element(name, ">") for name in (*NUMERIC, BFLOAT16)}


def view(body: Body, element: Element, shape: tuple[int, ...], offset: int, length: int, *, fortran: bool = False) -> Array:
    """Reads an array out of a body, without a copy where its elements are stored as this machine has them.

    Args:
        body: The body.
        element: How the elements are stored.
        shape: Size per axis.
        offset: Where the contents begin.
        length: How many bytes they are said to have.
        fortran: Whether the first axis is the one that varies fastest.

    Returns:
        The array, read-only.

    Raises:
        InvalidInputError: The shape is none, does not make these many bytes, or the body ends before.
    """
    expected = count(shape) * element.stored.itemsize
    if expected != length:
        raise InvalidInputError(f"expected {expected} bytes for {render(element.name, shape)}, got {length} at byte {offset}")
    if offset + length > len(body):
        raise InvalidInputError(f"expected {length} bytes at byte {offset}, got a body that ends at byte {len(body)}")
    array: Array = np.ndarray(shape, element.stored, body, offset, order="F" if fortran else "C")
    return array if element.as_is else _converted(array, element, offset)


def _converted(array: Array, element: Element, offset: int) -> Array:
    if element.name == "bool":
        _check_bools(array, offset)
        return array
    if element.name == BFLOAT16:
        wide = array.astype(np.uint32)
        wide <<= 16
        array = wide.view(np.float32)
    else:
        array = array.astype(element.stored.newbyteorder("="))
    array.flags.writeable = False
    return array


def _check_bools(array: Array, offset: int) -> None:
    numbers = array.view(np.uint8)
    if array.size and numbers.max() > 1:
        raise InvalidInputError(f"expected the bytes 0 and 1 for bool, got {numbers.max()} in the array at byte {offset}")


def count(shape: tuple[int, ...]) -> int:
    """How many elements a shape has.

    Raises:
        InvalidInputError: It has too many axes, a negative one, or is empty in a way that is out of all proportion.
    """
    if len(shape) > MAX_AXES:
        raise InvalidInputError(f"expected at most {MAX_AXES} axes, got {len(shape)}")
    if shape and min(shape) < 0:
        raise InvalidInputError(f"expected no negative axis, got the shape {_axes(shape)}")
    size = math.prod(shape)
    if not size:
        lists = math.prod(shape[: shape.index(0)])
        if lists > MAX_EMPTY_LISTS or math.prod(axis for axis in shape if axis) > MAX_EMPTY_AXES:
            raise InvalidInputError(f"expected an empty array of a reasonable shape, got {_axes(shape)}")
    return size


def render(name: str, shape: Sequence[int]) -> str:
    """An array as messages tell it: `float32[1, 784]`."""
    return f"{name}{_axes(shape)}"


def _axes(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def value_of(parts: Parts) -> Value:
    """What the arrays of a body are as a value.

    Args:
        parts: The arrays in order, with their names.

    Returns:
        One unnamed array as itself, several as a list; named ones as a mapping. `arr_0`, `arr_1`, ... are the names that numpy
        and DJL give to unnamed arrays, and count as none where all arrays have them, in order. Where only some are named, the
        others get such names.

    Raises:
        InvalidInputError: Two have the same name.
    """
    if all(name is None or name == f"arr_{index}" for index, (name, _) in enumerate(parts)):
        return parts[0][1] if len(parts) == 1 else [array for _, array in parts]
    mapping: dict[str, Array] = {}
    unnamed = 0
    for given, array in parts:
        name = f"arr_{unnamed}" if given is None else given
        unnamed += given is None
        if name in mapping:
            raise InvalidInputError(f"expected a name of its own for every array, got {name[:100]!r} twice")
        mapping[name] = array
    return mapping


def is_tensors(value: Value) -> bool:
    """Whether a value is an array, or a list or mapping of nothing but arrays."""
    if isinstance(value, np.ndarray):
        return True
    items: Iterable[Value] = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return bool(items) and all(isinstance(item, np.ndarray) for item in items)


def parts_of(value: Value) -> Parts:
    """The arrays of a value for which `is_tensors` holds: the reverse of `value_of`.

    Raises:
        NotAcceptableError: There are too many, or one has a name that cannot be written.
    """
    if isinstance(value, np.ndarray):
        return [(None, value)]
    if len(value) > MAX_ARRAYS:
        raise NotAcceptableError(f"the result holds {len(value)} arrays; tensor content types take {MAX_ARRAYS}")
    if not isinstance(value, dict):
        return [(None, array) for array in value]
    for name in value:
        _check_name(name)
    return list(value.items())


def _check_name(name: Any) -> None:
    try:
        fine = isinstance(name, str) and 0 < len(name.encode()) <= MAX_NAME_BYTES and "\0" not in name
    except UnicodeEncodeError:
        fine = False
    if not fine:
        raise NotAcceptableError(f"the result holds an array named {str(name)[:50]!r}, which tensor content types cannot tell")


def named(parts: Parts) -> list[tuple[str, Array]]:
    """The arrays with names for all of them, for the formats that have no unnamed ones."""
    return [(f"arr_{index}" if name is None else name, array) for index, (name, array) in enumerate(parts)]


def dtype_name(array: Array) -> str:
    """The dtype by numpy's name, and `string` for strings."""
    return STRING if array.dtype.kind in "OUS" else array.dtype.name


def contents(array: Array) -> Array:
    """The array as it is written: little-endian and contiguous."""
    if array.flags.c_contiguous and array.dtype.isnative and _IS_LITTLE:
        return array
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def cannot_hold(media_type: str, array: Array) -> NotAcceptableError:
    """The error for an array of a dtype that a format does not have."""
    return NotAcceptableError(f"{media_type} cannot hold {dtype_name(array)} arrays; ask for another content type with Accept")
