"""Answers of asynchronous handlers: whole, or piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from djl_python.outputs import Output


def create_non_stream_output(
    data: str | Mapping[str, Any],
    properties: Mapping[str, Any] | None = None,
    error: str | None = None,
    code: int | None = None,
) -> Output:
    """A whole answer in JSON."""
    return _output(data, "application/json", properties or {}, last=True, error=error, code=code)


def create_stream_chunk_output(
    data: str | Mapping[str, Any], last_chunk: bool, error: str | None = None, code: int | None = None
) -> Output:
    """A piece of an answer in lines of JSON."""
    return _output(data, "application/jsonlines", {}, last=last_chunk, error=error, code=code)


def _output(
    data: str | Mapping[str, Any],
    content_type: str,
    properties: Mapping[str, Any],
    *,
    last: bool,
    error: str | None,
    code: int | None,
) -> Output:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    parts: dict[str, Any] = {"data": text + "\n", "last": last}
    parts |= {name: value for name, value in (("error", error), ("code", code)) if value}
    output = Output()
    for key, value in {"Content-Type": content_type, **properties}.items():
        output.add_property(key, value)
    return output.add(Output.binary_encode(parts))
