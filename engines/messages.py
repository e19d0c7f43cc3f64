"""Answers of handlers that come in pieces."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable

from flowyard.engines.base import Stream
from flowyard.schemas.messages import DATA, Message
from flowyard.schemas.values import Value


class MessageStream(Stream):
    """A stream whose first piece is a message, status and properties of the answer, and whose others are bytes of its body."""

    def collect(self) -> Value:
        """The answer as one message."""
        head, *pieces = self
        return joined(head, pieces)


def joined(head: Message, pieces: Iterable[bytes]) -> Message:
    """An answer in pieces as one message."""
    return Message(head.code, head.reason, head.properties, ((DATA, b"".join([head.data, *pieces])),))


async def collected(pieces: AsyncGenerator[Value]) -> Message:
    """The answer of an asynchronous model as one message; raises what its generator does."""
    async with contextlib.aclosing(pieces):
        head = await anext(pieces)
        return joined(head, [piece async for piece in pieces])
