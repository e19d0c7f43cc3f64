"""Answers of handlers that compute requests side by side: made in any thread, read on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from flowyard.engines.base import Outcome
from flowyard.schemas.errors import FlowyardError, HandlerError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value

#: Pieces that a handler may be ahead of who takes them where waiting for one would hold up the others.
MOST_AHEAD = 10_000


class PendingAnswer:
    """What becomes of one request.

    Attributes:
        ended: Whether there is nothing more to come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins without anything.

        Args:
            loop: Where it is read.
        """
        self.ended = False
        self._loop = loop
        self._is_stream = False
        self._made: deque[Message | FlowyardError | bytes | None] = deque()
        self._there = asyncio.Event()

    def add(self, piece: Message) -> None:
        """Hands on a piece: its data, and of the first one also status and headers. Nothing happens after the end.

        A client that is too far behind loses its answer: waiting for it would hold up the others.
        """
        if self.ended:
            return
        if len(self._made) >= MOST_AHEAD:
            self.end(HandlerError(f"{MOST_AHEAD} pieces wait for a client that does not read them", status=503))
            return
        if not self._is_stream:
            self._is_stream = True
            self._put(Message(piece.code, "", piece.properties))
        if piece.data:
            self._put(piece.data)

    def end(self, result: Message | FlowyardError) -> None:
        """Ends with a result: the whole answer, the last piece where others came before it, or what it fails with."""
        if self.ended:
            return
        self.ended = True
        if isinstance(result, FlowyardError) or not self._is_stream:
            self._put(result)
        elif result.data:
            self._put(result.data)
        self._put(None)

    def _put(self, made: Message | FlowyardError | bytes | None) -> None:
        self._made.append(made)
        self._loop.call_soon_threadsafe(self._there.set)

    async def _next(self) -> Message | FlowyardError | bytes | None:
        while not self._made:
            self._there.clear()
            if not self._made:
                await self._there.wait()
        return self._made.popleft()

    async def outcome(self) -> Outcome | AsyncGenerator[Value]:
        """Waits for the whole answer, or for the first of its pieces."""
        first = await self._next()
        return self._pieces(first) if self._is_stream and not isinstance(first, FlowyardError) else first

    async def _pieces(self, head: Value) -> AsyncGenerator[Value]:
        yield head
        while (piece := await self._next()) is not None:
            if isinstance(piece, FlowyardError):
                raise piece
            yield piece
