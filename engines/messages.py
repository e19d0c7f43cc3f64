"""Answers of handlers that come in pieces."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from flowyard.engines.base import Call, Outcome, Stream
from flowyard.schemas.errors import FlowyardError, HandlerError
from flowyard.schemas.messages import DATA, Message
from flowyard.schemas.values import Value

#: Pieces of an answer that is wanted whole.
MOST_COLLECTED = 100_000
#: Computes one call, beside others: its answer, or the pieces of it.
Answering: TypeAlias = Callable[[Call], Awaitable[Outcome | AsyncGenerator[Value]]]


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
    """The answer of an asynchronous model as one message.

    Raises:
        HandlerError: It has too many pieces: nobody says when the next is the last one.
        FlowyardError: What its generator raises.
    """
    made: list[bytes] = []
    async with contextlib.aclosing(pieces):
        head = await anext(pieces)
        async for piece in pieces:
            if len(made) == MOST_COLLECTED:
                raise HandlerError(f"an answer that is wanted whole has over {MOST_COLLECTED} pieces", status=503)
            made.append(piece)
    return joined(head, made)


async def whole_answers(answering: Answering, batch: Sequence[Call]) -> list[Outcome]:
    """Answers calls at the same time, each as a whole, also where it comes in pieces."""

    async def whole(call: Call) -> Outcome:
        answer = await answering(call)
        if not isinstance(answer, AsyncGenerator):
            return answer
        try:
            return await collected(answer)
        except FlowyardError as error:
            return error

    return await asyncio.gather(*map(whole, batch))
