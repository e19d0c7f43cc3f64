"""Requests that are tensors: what DJL does where no translator is named (`NoopServingTranslator`, DJL §2.10)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import (
    JSON_TYPE,
    Input,
    NamedArray,
    Reading,
    Translator,
    content_type,
    json_bytes,
)
from flowyard.engines.inputs import Array
from flowyard.schemas.codecs import registry
from flowyard.schemas.codecs.content import media_type
from flowyard.schemas.errors import InvalidInputError, NodeError
from flowyard.schemas.messages import DATA, Message
from flowyard.schemas.values import Value, decode_json

NDLIST_TYPE = "tensor/ndlist"
CSV_TYPE = "text/csv"
BATCHIFIERS = ("none", "stack", "padding")
_CODECS = {NDLIST_TYPE: registry.NDLIST, "tensor/npz": registry.NPZ, "tensor/safetensors": registry.SAFETENSORS}
_NO_NDLIST = "Input is not a NDList data type"
_NO_JSON = "Input is not a supported json format"
#: What DJL takes for a number when it looks for a header of column names.
_NUMERIC = re.compile(r"[0-9.eE+-]+")


class TensorTranslator(Translator):
    """Tensors in JSON, CSV or a binary format, in and out."""

    def __init__(self, arguments: Arguments) -> None:
        batchifier = arguments.choice("batchifier", "none", BATCHIFIERS)
        self._adds_rows = batchifier != "none"
        self.pads = batchifier == "padding"
        self.is_plain = not self._adds_rows

    def read(self, message: Message) -> Reading:
        """Reads arrays; with a batchifier they get an axis for the rows."""
        arrays = _read_arrays(message)
        return Reading(tuple(Input(name, array[None] if self._adds_rows else array) for name, array in arrays))

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, message: Message) -> Message:
        """Writes what `Accept` names, else what the request came in, else an NDList."""
        if self._adds_rows:
            outputs = [NamedArray(name, array[0]) for name, array in outputs]
        kind = _answer_type(message)
        if kind == JSON_TYPE:
            return Message(contents=(("predictions", json_bytes({"predictions": _predictions(outputs)})),))
        body = _csv(outputs) if kind == CSV_TYPE else _CODECS[kind].encode(_value(outputs))
        return Message(properties=(("Content-Type", kind),), contents=((DATA, body),))


def _read_arrays(message: Message) -> list[tuple[str, Array]]:
    kind = content_type(message)
    if kind == JSON_TYPE:
        return [("", _json_array(message.data))]
    if kind == CSV_TYPE:
        return [("", _csv_array(message.data))]
    try:
        value = registry.NDLIST.decode(message.data)
    except InvalidInputError:
        raise InvalidInputError(_NO_NDLIST) from None
    if isinstance(value, dict):
        return list(value.items())
    return [("", array) for array in (value if isinstance(value, list) else [value])]


def _json_array(body: bytes) -> Array:
    """A bare array, or that of `inputs` or `instances`: one or two axes of numbers, as float32."""
    value = decode_json(body)
    if isinstance(value, dict):
        value = value.get("inputs", value.get("instances"))
    if not isinstance(value, list) or not value:
        raise InvalidInputError(_NO_JSON)
    if not _is_numbers(value):
        raise InvalidInputError(_NO_JSON)
    try:
        with np.errstate(over="ignore"):
            array = np.array(value, np.float32)
    except (ValueError, OverflowError):
        raise InvalidInputError(_NO_JSON) from None
    if array.ndim > 2:
        raise InvalidInputError(_NO_JSON)
    return array


def _is_numbers(value: list[Value]) -> bool:
    """Whether lists hold nothing but numbers; numpy takes truth values, null and some texts for numbers, too."""
    kinds = set(map(type, value))
    return kinds <= {int, float} or (kinds == {list} and all(map(_is_numbers, value)))


def _csv_array(body: bytes) -> Array:
    try:
        rows = [row for row in csv.reader(io.StringIO(body.decode(), newline=""), escapechar="\\", strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"the body is no CSV: {error}") from None
    if rows and not any(_NUMERIC.fullmatch(cell.strip()) for cell in rows[0]):
        del rows[0]
    if not rows:
        raise InvalidInputError("CSV data is empty")
    uneven = next((number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])), 0)
    if uneven:
        raise InvalidInputError(f"Row {uneven} has {len(rows[uneven - 1])} columns, expected {len(rows[0])}")
    numbers = [[_cell(cell, row, column) for column, cell in enumerate(cells)] for row, cells in enumerate(rows)]
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float32)


def _cell(cell: str, row: int, column: int) -> float:
    try:
        return float(cell) if cell.strip() else float("nan")
    except ValueError:
        raise InvalidInputError(f"Non-numeric value {cell[:50]!r} at row {row + 1}, column {column}") from None


def _answer_type(message: Message) -> str:
    known = (*_CODECS, JSON_TYPE, CSV_TYPE)
    accepted = [media_type(entry) for entry in message.get("Accept").split(",")]
    wanted = [kind for kind in (*accepted, content_type(message)) if kind in known]
    return wanted[0] if wanted else NDLIST_TYPE


def _predictions(outputs: Sequence[NamedArray]) -> Value:
    if len(outputs) == 1:
        return np.atleast_1d(outputs[0].array)
    return [({"key": name} if name else {}) | {"value": np.atleast_1d(array)} for name, array in outputs]


def _value(outputs: Sequence[NamedArray]) -> Value:
    if len(outputs) == 1 and not outputs[0].name:
        return outputs[0].array
    names = [name or f"arr_{place}" for place, (name, _) in enumerate(outputs)]
    return dict(zip(names, (array for _, array in outputs), strict=True))


def _csv(outputs: Sequence[NamedArray]) -> bytes:
    array = outputs[0].array
    if len(outputs) > 1 or array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
        raise NodeError(f"text/csv can tell one output of 1 or 2 axes of numbers, got {len(outputs)} ({array.ndim} axes)")
    rows = array.astype(np.float32).reshape(-1 if array.ndim == 2 else 1, array.shape[-1])
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
