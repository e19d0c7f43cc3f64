"""Answers of handlers that come in pieces."""

from __future__ import annotations

from flowyard.engines.base import Stream
from flowyard.schemas.messages import DATA, Message
from flowyard.schemas.values import Value


class MessageStream(Stream):
    """A stream whose first piece is a message, status and properties of the answer, and whose others are bytes of its body."""

    def collect(self) -> Value:
        """The answer as one message."""
        head, *pieces = self
        return Message(head.code, head.reason, head.properties, ((DATA, b"".join([head.data, *pieces])),))
