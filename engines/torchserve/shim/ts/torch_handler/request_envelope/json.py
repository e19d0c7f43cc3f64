"""JSON as TensorFlow Serving has it: `{"instances": [...]}` and `{"predictions": [...]}`."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

from ts.torch_handler.request_envelope.base import BaseEnvelope


class JSONEnvelope(BaseEnvelope):
    """The instances of all requests of a batch are one batch for the handler."""

    def __init__(self, handle_fn: Any) -> None:
        super().__init__(handle_fn)
        self._lengths: list[int] = []

    def parse_input(self, data: Any) -> Any:
        """The instances, with `{"b64": "..."}` decoded."""
        batches = [self._from_json(row) for row in data]
        self._lengths = [len(batch) for batch in batches]
        return [instance for batch in batches for instance in batch]

    def format_output(self, data: Any) -> Any:
        """The results of each request."""
        left = iter(data)
        return [json.dumps({"predictions": [next(left) for _ in range(length)]}) for length in self._lengths]

    def _from_json(self, row: Any) -> list[Any]:
        given = row.get("data") or row.get("body") or row
        return [_decoded(instance) for instance in given["instances"]]


def _decoded(instance: Any) -> Any:
    if not isinstance(instance, dict):
        return instance
    if list(instance) == ["b64"]:
        return b64decode(instance["b64"])
    return {
        key: _decoded(value) if isinstance(value, dict) and list(value) == ["b64"] else value for key, value in instance.items()
    }
