"""From the values a call brings to the arrays a tensor model takes: order, dtype and shape, strictly.

Numbers are converted where nothing but precision is lost (int to float, float64 to float32, int64 to int32 in range); what
would change a number is refused, and the message says what was expected and what came.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

import msgspec
import numpy as np

from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.tensors import TensorSpec
from flowyard.schemas.values import Value

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

#: Float dtypes, and the letter `struct` has for them; it refuses a number out of range, as we do.
FLOATS: dict[str, tuple[str, np.dtype[Any]]] = {
    "float16": ("e", np.dtype("float16")),
    "float32": ("f", np.dtype("float32")),
    "float64": ("d", np.dtype("float64")),
}
#: Keys under which DJL's JSON forms put the inputs.
WRAPPERS = ("inputs", "instances", "data")
#: Up to here every integer has a float64 of its own.
_EXACT_INTEGER = 2**53


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """The arrays of one call.

    Attributes:
        arrays: One array per input, in signature order.
        rows: Size of the first dimension of all of them, `None` when they do not share one.
        added: Whether that dimension was added because the caller sent a single row.
    """

    arrays: tuple[Array, ...]
    rows: int | None
    added: bool


def prepare(args: Sequence[Value], inputs: Sequence[TensorSpec] | None) -> Prepared:
    """Makes the arrays of one call.

    Args:
        args: The arguments: values in signature order, or one mapping by name.
        inputs: The inputs of the model, `None` when not even their number is known.

    Returns:
        The arrays, converted to the dtypes of the signature.

    Raises:
        InvalidInputError: An argument does not fit; the message says what was expected and what came.
    """
    specs = [TensorSpec(name=f"argument {n}") for n in range(1, len(args) + 1)] if inputs is None else inputs
    fitted = [_fit(value, spec) for value, spec in zip(_in_order(args, specs), specs, strict=True)]
    arrays = tuple(array for array, _ in fitted)
    sizes = {array.shape[0] if array.ndim else -1 for array in arrays}
    rows = sizes.pop() if len(sizes) == 1 else -1
    return Prepared(arrays, rows if rows > 0 else None, any(added for _, added in fitted))


def _in_order(args: Sequence[Value], inputs: Sequence[TensorSpec]) -> Sequence[Value]:
    """The arguments in signature order, whichever of the accepted forms they came in."""
    if len(args) == 1:
        value = _unwrapped(args[0], inputs)
        if isinstance(value, dict):
            return _by_name(value, inputs)
        listed = len(inputs) > 1 and isinstance(value, (list, tuple)) and len(value) == len(inputs)
        args = value if listed else [value]
    if len(args) != len(inputs):
        raise InvalidInputError(
            f"expected {_count(len(inputs), 'input')} ({_names(inputs)}), got {_count(len(args), 'argument')}"
        )
    return args


def _unwrapped(value: Value, inputs: Sequence[TensorSpec]) -> Value:
    if not isinstance(value, dict) or any(spec.name in value for spec in inputs):
        return value
    present = [key for key in WRAPPERS if key in value]
    return value[present[0]] if len(present) == 1 else value


def _by_name(value: dict[str, Value], inputs: Sequence[TensorSpec]) -> list[Value]:
    names = [spec.name for spec in inputs]
    missing = [spec for spec in inputs if spec.name not in value]
    unknown = [key for key in value if key not in names]
    if missing or unknown:
        wrong = f"without {_names(missing)}" if missing else f"with the unknown key {unknown[0]!r}"
        raise InvalidInputError(f"expected a mapping with {_names(inputs)}, got one {wrong}")
    return [value[name] for name in names]


def _names(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f'"{spec.name}"' for spec in inputs)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _fit(value: Value, spec: TensorSpec) -> tuple[Array, bool]:
    quick = floats(value, spec) if type(value) is list else None
    if quick is not None:
        return quick
    natural = _natural(value, spec)
    array, added = _fit_shape(natural, spec)
    return _fit_dtype(array, natural, spec, listed=not isinstance(value, np.ndarray)), added


def floats(value: list[Value], spec: TensorSpec) -> tuple[Array, bool] | None:
    """Reads nested lists of numbers, several times quicker than numpy does.

    Args:
        value: The lists.
        spec: The input that they are for.

    Returns:
        The array, and whether its first dimension was added; `None` for all but lists of numbers that fit a float input.
    """
    shape = spec.shape
    if shape is None or spec.dtype not in FLOATS:
        return None
    letter, dtype = FLOATS[spec.dtype]
    sizes: list[int] = []
    level: list[Value] = [value]
    while type(level[0]) is list:
        size = len(level[0])
        if len(level) == 1:
            level = level[0]
        elif all(type(item) is list and len(item) == size for item in level):
            level = list(itertools.chain.from_iterable(level))
        else:
            return None
        if not size:
            return None
        sizes.append(size)
    added = len(sizes) == len(shape) - 1
    full = (1, *sizes) if added else tuple(sizes)
    if not fits(full, shape):
        return None
    try:
        packed = struct.pack(f"={len(level)}{letter}", *level)
    except (struct.error, OverflowError):
        return None
    return np.frombuffer(packed, dtype).reshape(full), added


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether an array of that shape may be given where one of the other is wanted, in which negative sizes are open."""
    return len(shape) == len(wanted) and all(want < 0 or want == got for want, got in zip(wanted, shape, strict=True))


def _natural(value: Value, spec: TensorSpec) -> Array:
    """The value as an array of the dtype that numpy sees in it."""
    if isinstance(value, np.ndarray):
        return _checked(value, spec)
    if isinstance(value, (bytes, bytearray, memoryview)):
        fix = "send JSON or a tensor content type, or put a function that decodes the bytes before the model"
        _refuse(spec, f"{len(value)} bytes", fix)
    if isinstance(value, dict):
        _refuse(spec, f"a mapping with the keys {', '.join(map(repr, list(value)[:5]))}")
    if value is None:
        _refuse(spec, "null")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        _refuse(spec, "a ragged list", "its items differ in length or depth")
    # numpy turns the numbers of a mixed list into strings; the items themselves tell whether they all were.
    return _checked(np.asarray(value, dtype=object) if array.dtype.kind in "US" else array, spec)


def _checked(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind != "O":
        return array
    for item in array.flat:
        if not isinstance(item, str):
            _refuse(spec, _item_name(item))
    return array


def _item_name(item: object) -> str:
    if item is None:
        return "a list with null"
    if isinstance(item, int) and item.bit_length() > 63:
        return "a list with an integer of more than 64 bits"
    if isinstance(item, dict):
        return "a list of mappings"
    return f"a list with other items than strings: one of type {type(item).__name__}"


def _fit_shape(array: Array, spec: TensorSpec) -> tuple[Array, bool]:
    if spec.shape is None:
        return array, False
    added = array.ndim == len(spec.shape) - 1
    shape = (1, *array.shape) if added else array.shape
    if not fits(shape, spec.shape):
        _refuse(spec, _render(array))
    return array.reshape(shape) if added else array, added


def _fit_dtype(array: Array, natural: Array, spec: TensorSpec, *, listed: bool) -> Array:
    """Converts to the dtype of the input, or to a usual one when the model does not say."""
    wanted = spec.dtype or (_usual(array) if listed else array.dtype.name)
    strings = array.dtype.kind in "OU"
    if strings and spec.dtype == "string":
        return array.astype(object)
    if listed and not array.size:
        return array.astype(object if wanted == "string" else wanted)
    if strings or wanted == "string":
        _refuse(spec, _render(natural))
    try:
        return _convert(array, np.dtype(wanted), listed=listed)
    except ValueError as error:
        _refuse(spec, _render(natural), str(error))


def _usual(array: Array) -> str:
    return "float32" if array.dtype.kind == "f" else array.dtype.name


def _convert(array: Array, wanted: np.dtype[Any], *, listed: bool) -> Array:
    """Converts without changing a number by more than rounding; a ValueError says what would change."""
    if np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted, copy=False)
    kinds = array.dtype.kind, wanted.kind
    if wanted.kind in "fc" and kinds != ("c", "f"):
        return _to_float(array, wanted)
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        return _to_integer(array, wanted)
    if listed and array.dtype.kind == "f" and wanted.kind in "iu":
        if not (np.abs(array) <= _EXACT_INTEGER).all() or not (array == np.trunc(array)).all():
            raise ValueError("not all of its numbers are integers")
        return _to_integer(array.astype(np.int64), wanted)
    raise ValueError("")


def _to_float(array: Array, wanted: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        converted = array.astype(wanted)
    if not np.isfinite(converted).all() and np.isfinite(array[~np.isfinite(converted)]).any():
        raise ValueError(f"a number is out of the range of {wanted.name}")
    return converted


def _to_integer(array: Array, wanted: np.dtype[Any]) -> Array:
    limits = np.iinfo(wanted)
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise ValueError(f"a number is out of the range of {wanted.name}")
    return array.astype(wanted)


def _render(array: Array) -> str:
    name = "string" if array.dtype.kind in "OUS" else array.dtype.name
    return f"{name}[{', '.join(map(str, array.shape))}]"


def _refuse(spec: TensorSpec, got: str, hint: str = "") -> NoReturn:
    known = spec.dtype or spec.shape is not None
    expected = str(spec)[len(spec.name) + 2 :] if known else "numbers"
    raise InvalidInputError(f'input "{spec.name}": expected {expected}, got {got}{f" ({hint})" if hint else ""}')
