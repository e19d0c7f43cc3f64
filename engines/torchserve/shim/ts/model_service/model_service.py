"""The base classes of services of the kind of MMS 0.x: preprocess, inference, postprocess, one request at a time."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any


class ModelService:
    """A service that a manifest of MMS 0.x names."""

    def __init__(self, model_name: str, model_dir: str, manifest: Any, gpu: int | None = None) -> None:
        del model_name, model_dir, manifest, gpu
        self.ctx = None
        self._context: Any = None
        self._signature: Any = None

    def initialize(self, context: Any) -> None:
        """Reads the signature that the manifest names.

        Raises:
            ValueError: There is none.
        """
        self._context = context
        file = Path(context.system_properties["model_dir"], context.manifest["Model"]["Signature"])
        if not file.is_file():
            raise ValueError("Signature file is not found.")
        self._signature = json.loads(file.read_bytes())

    def inference(self, data: Any) -> Any:
        """Computes the answer to one request; derived classes say how."""
        raise NotImplementedError

    def ping(self) -> Any:
        """What the service says of its health."""
        return None

    def signature(self) -> Any:
        """Names and shapes of inputs and outputs."""
        return self._signature

    def handle(self, data: Any, context: Any) -> list[Any]:
        """Hands the first request's input over, under the name that the signature has for it."""
        del context
        name = self._signature["inputs"][0]["data_name"]
        row = data[0]
        given = next((row[key] for key in (name, "body", "data") if row.get(key) is not None), None)
        if self._signature["input_type"] == "application/json" and isinstance(given, bytes | bytearray):
            given = ast.literal_eval(given.decode())
        result = self.inference([given])
        return result if isinstance(result, list) else [result]


class SingleNodeService(ModelService):
    """A service in three steps."""

    def inference(self, data: Any) -> Any:
        """Runs the steps."""
        return self._postprocess(self._inference(self._preprocess(data)))

    def _preprocess(self, data: Any) -> Any:
        return data

    def _inference(self, data: Any) -> Any:
        return data

    def _postprocess(self, data: Any) -> Any:
        return data
