"""Version 2 of KServe's protocol. Only the first request of a batch is seen, as in TorchServe."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ts.torch_handler.request_envelope.base import BaseEnvelope

_DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "object": "BYTES",
}


class KServev2Envelope(BaseEnvelope):
    """Rows are the inputs, `{"name", "shape", "datatype", "data"}`; each result is the output of the same place."""

    def __init__(self, handle_fn: Any) -> None:
        super().__init__(handle_fn)
        self._names: list[str] = []
        self._id: str | None = None

    def parse_input(self, data: Any) -> Any:
        """The inputs of the first request, their data in their shapes."""
        given = data[0].get("data") or data[0].get("body")
        if isinstance(given, bytes | bytearray):
            given = json.loads(given)
        inputs = [{**one, "data": _shaped(one)} for one in given["inputs"]]
        self._names = [one["name"] for one in inputs]
        given_id = given.get("id")
        self._id = given_id if given_id and given_id.strip() else None
        return inputs

    def format_output(self, data: Any) -> Any:
        """The answer to the first request."""
        model = self.context.manifest.get("model", {})
        outputs = [_output(name, result) for name, result in zip(self._names, data, strict=False)]
        if len(outputs) < len(data):
            raise IndexError(f"{len(data)} results for {len(outputs)} inputs")
        return [
            {
                "id": self._id or self.context.get_request_id(0),
                "model_name": model.get("modelName"),
                "model_version": model.get("modelVersion"),
                "outputs": outputs,
            }
        ]


def _shaped(given: dict[str, Any]) -> Any:
    if given["datatype"] == "BYTES":
        return given["data"][0]
    return np.array(given["data"]).reshape(tuple(given["shape"])).tolist()


def _output(name: str, result: Any) -> dict[str, Any]:
    flat = np.array(result).flatten()
    datatype = "BYTES" if flat.dtype.kind in "US" else _DATATYPES[str(flat.dtype)]
    return {"name": name, "datatype": datatype, "data": flat.tolist(), "shape": list(flat.shape)}
