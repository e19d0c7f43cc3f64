"""The data without the name that it came under."""

from __future__ import annotations

from typing import Any

from ts.torch_handler.request_envelope.base import BaseEnvelope


class BodyEnvelope(BaseEnvelope):
    """A row is the request's `data` or `body`."""

    def parse_input(self, data: Any) -> Any:
        """The data of a batch."""
        return [row.get("data") or row.get("body") for row in data]

    def format_output(self, data: Any) -> Any:
        """The results as they are."""
        return data
