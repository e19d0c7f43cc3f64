"""What envelopes have in common."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any


class BaseEnvelope(abc.ABC):
    """Stands between the server and a handler's `handle`."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        """Takes the data out of a batch's requests, and puts the results into their answers."""
        self.context = context
        results = self._handle_fn(self.parse_input(data) if data else data, context)
        return self.format_output(results) if results else results

    def _is_explain(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "explain") == "True"

    @abc.abstractmethod
    def parse_input(self, data: Any) -> Any:
        """The data of a batch."""

    @abc.abstractmethod
    def format_output(self, data: Any) -> Any:
        """The answers of a batch."""
