"""Reading requests and writing predictions by content type."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output

_NAMED_COLUMNS = ("question", "context", "inputs")


def decode_csv(inputs: Input, require_headers: bool = True) -> Any:
    """Reads CSV: rows by column name under `inputs`, or, without a header line, an array of numbers.

    Raises:
        ValueError: No column that says what it is, or something that is no number.
    """
    text = inputs.get_as_string()
    if not require_headers:
        import numpy as np  # noqa: PLC0415 - only tables of numbers need numpy

        numbers = np.genfromtxt(io.StringIO(text), delimiter=",")
        if np.isnan(numbers).any():
            raise ValueError("the CSV holds something that is no number")
        return numbers
    rows = list(csv.DictReader(io.StringIO(text)))
    header = text.partition("\n")[0].lower()
    if not rows or not any(name in header for name in _NAMED_COLUMNS):
        raise ValueError(f"the CSV needs a header line with one of the columns {', '.join(_NAMED_COLUMNS)}, and rows below it")
    return {"inputs": [row["inputs"] for row in rows] if "inputs" in rows[0] else rows}


def encode_csv(content: Iterable[dict[str, Any]]) -> str:
    """Writes rows as CSV with a header line."""
    rows = list(content)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def decode(inputs: Input, content_type: str | None, key: str | None = None, require_csv_headers: bool = True) -> Any:
    """Reads a request as its content type says; what is no JSON or CSV stands under `inputs`."""
    kind = content_type or ""
    if not kind:
        return inputs.get_as_json(key) if inputs.get_as_bytes(key) else {"inputs": ""}
    if "application/json" in kind:
        return inputs.get_as_json(key)
    if "text/csv" in kind:
        return decode_csv(inputs, require_csv_headers)
    return {"inputs": _read(inputs, kind, key)}


def _read(inputs: Input, kind: str, key: str | None) -> Any:
    if "text/plain" in kind:
        return [inputs.get_as_string(key)]
    if kind.startswith("image/"):
        return inputs.get_as_image(key)
    if "tensor/npz" in kind:
        return inputs.get_as_npz(key)
    if kind in ("tensor/ndlist", "application/x-npy"):
        return inputs.get_as_numpy(key)
    if kind == "application/x-www-form-urlencoded":
        return inputs.get_as_string(key)
    return inputs.get_as_bytes(key)


def encode(outputs: Output, prediction: Any, content_type: str | None, key: str | None = None) -> None:
    """Writes a prediction into an answer as the caller accepts it: JSON, CSV, npz, else an NDList."""
    kind = content_type or ""
    if not kind or "application/json" in kind:
        outputs.add_as_json(prediction, key)
        outputs.add_property("Content-Type", "application/json")
    elif "text/csv" in kind:
        outputs.add(encode_csv(prediction), key)
        outputs.add_property("Content-Type", "text/csv")
    elif "tensor/npz" in kind:
        outputs.add_as_npz(prediction, key)
        outputs.add_property("Content-Type", "tensor/npz")
    else:
        outputs.add_as_numpy(prediction, key)
        outputs.add_property("Content-Type", "tensor/ndlist")
