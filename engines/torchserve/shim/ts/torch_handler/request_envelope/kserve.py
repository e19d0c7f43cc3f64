"""Version 1 of KServe's protocol. Only the first request of a batch is seen, as in TorchServe."""

from __future__ import annotations

import json
from typing import Any

from ts.torch_handler.request_envelope.base import BaseEnvelope


class KServeEnvelope(BaseEnvelope):
    """`{"instances": [...]}` and `{"predictions": [...]}`, or `{"explanations": [...]}`."""

    def parse_input(self, data: Any) -> Any:
        """The instances of the first request."""
        given = data[0].get("data") or data[0].get("body")
        if isinstance(given, bytes | bytearray):
            given = json.loads(given)
        return given.get("instances")

    def format_output(self, data: Any) -> Any:
        """The answer to the first request."""
        return [{"explanations" if self._is_explain() else "predictions": data}]
