"""Calls with many requests of sequences: each is begun once there is something of the answer before (StreamPredictions2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from flowyard.platform.rpc.messages import Message

#: Requests of one call that are under way at a time; the next waits for the end of one of them.
MOST_OPEN = 16

Send: TypeAlias = Callable[[Message], Awaitable[None]]


class Following:
    """The requests of one call that are under way.

    A request is begun when the one before it has been answered, or the first piece of its answer has been sent: who streams can
    be told something else meanwhile, such as to end. Where answers come whole, one comes after the other.

    Args:
        send: Sends an answer, or a piece of one.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sending = asyncio.Lock()
        self._open: set[asyncio.Task[None]] = set()

    async def begin(self, answering: Callable[[Send], Awaitable[None]]) -> None:
        """Begins to answer a request, and waits for the first that comes of it.

        Args:
            answering: Answers it, through what it is given.

        Raises:
            Exception: What one that is under way has raised.
        """
        has_begun = asyncio.Event()

        async def send(reply: Message) -> None:
            async with self._sending:
                await self._send(reply)
            has_begun.set()

        async def answer() -> None:
            try:
                await answering(send)
            finally:
                has_begun.set()

        self._open.add(asyncio.ensure_future(answer()))
        await has_begun.wait()
        await self._leave_open(MOST_OPEN - 1)

    async def end(self) -> None:
        """Waits until all are answered; raises what `begin` does."""
        await self._leave_open(0)

    async def cancel(self) -> None:
        """Takes back those that are under way."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _leave_open(self, most: int) -> None:
        """Waits until so many are under way at most."""
        while True:
            for task in [task for task in self._open if task.done()]:
                self._open.discard(task)
                task.result()
            if len(self._open) <= most:
                return
            await asyncio.wait(self._open, return_when=asyncio.FIRST_COMPLETED)
