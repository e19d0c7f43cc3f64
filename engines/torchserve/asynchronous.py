"""Handlers that are awaited (`asyncCommunication`): one call per request, many at the same time. Only imported in a worker."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import time
from collections.abc import AsyncGenerator
from typing import Any

from flowyard.engines.background import Background, is_cancelled
from flowyard.engines.base import Call, ModelSource, Outcome
from flowyard.engines.torchserve import handler
from flowyard.engines.torchserve.answers import PendingAnswer
from flowyard.engines.torchserve.handler import HandlerCall, HandlerModel, leave, message_of
from flowyard.engines.torchserve.requests import request_of, row_of
from flowyard.engines.torchserve.side_by_side import Receiver, SideBySideModel
from flowyard.schemas.devices import Device
from flowyard.schemas.values import Value


def load(source: ModelSource, device: Device) -> HandlerModel:
    """Loads a handler, as `handler.load` does; it may use the loop that will await it already while it is initialised."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return handler.load(source, device, functools.partial(AwaitedModel, loop=loop))
    except BaseException:
        loop.close()
        raise
    finally:
        asyncio.set_event_loop(None)


class AwaitedModel(SideBySideModel):
    """A handler that is awaited, for many requests at the same time; each gets a row and a context of its own."""

    def __init__(self, *args: Any, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        """Takes an entry point, as its base does, and the loop that it was initialised with."""
        super().__init__(*args, background=Background(loop), **kwargs)

    async def answer(self, call: Call) -> Outcome | AsyncGenerator[Value]:
        """Awaits the handler. Who does not want the answer any more cancels this, or closes the pieces; so is the handler."""
        message = message_of(call)
        pending = PendingAnswer(self.loop)
        request_id, processor = request_of(message)
        row = row_of(message, decode=self.decode)
        requests = [(request_id, processor)]
        awaited = AwaitedCall(self, self._entries[""], [row], requests, Receiver([pending], [processor]))
        task = self.loop.create_task(awaited.fill(pending))
        try:
            outcome = await pending.outcome()
        except asyncio.CancelledError:
            await _end(task)
            raise
        return _pieces(task, outcome) if isinstance(outcome, AsyncGenerator) else outcome


async def _pieces(task: asyncio.Task[None], pieces: AsyncGenerator[Value]) -> AsyncGenerator[Value]:
    try:
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece
    finally:
        await _end(task)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancels a handler, and waits until it has ended."""
    task.cancel()
    await asyncio.wait([task])


class AwaitedCall(HandlerCall):
    """One call of such a handler."""

    def __init__(self, *args: Any) -> None:
        """Takes a request, as its base does."""
        super().__init__(*args)
        # Others are under way.
        self.context = copy.copy(self.context)
        self._metrics = copy.copy(self._metrics)

    async def fill(self, pending: PendingAnswer) -> None:
        """Awaits the handler, and ends the answer with what it returns or raises."""
        started = time.monotonic()
        try:
            self.tell()
            (result,) = self.settled(await self._entry(self._rows, self.context), started)
        except SystemExit as leaving:
            leave(leaving)
        except BaseException as error:
            if is_cancelled():
                raise
            (result,) = self.failed(error)
        pending.end(result)
