"""Continuous batching: one step after another with all requests that have not ended (TorchServe reference §2.4).

Between two steps those that have ended, or that nobody waits for any more, leave, and others join, as many as there is room for.
Of a sequence only one joins at a time: the next has its first step after the first step of the one before, whose later steps it
may share. What a step does is given; nothing is known of handlers here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from flowyard.engines.base import Outcome
from flowyard.engines.failures import describe, log
from flowyard.engines.torchserve.answers import PendingAnswer
from flowyard.schemas.errors import HandlerError, ShutDownError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value


class Member:
    """A request, from when it comes until it has left.

    Attributes:
        message: What is asked.
        answer: What becomes of it; a step that ends it is its last.
        is_alone: Whether it is computed with no other.
        sequence: The sequence that it belongs to, empty for none.
        steps: How many steps it has been through.
        is_wanted: Whether somebody waits for it.
        left: It is in no step any more.
    """

    def __init__(self, message: Message, answer: PendingAnswer, *, is_alone: bool = False, sequence: str = "") -> None:
        """Takes a request, and where its answer goes."""
        self.message = message
        self.answer = answer
        self.is_alone = is_alone
        self.sequence = sequence
        self.steps = 0
        self.is_wanted = True
        self.left = asyncio.Event()


class RollingBatch:
    """The requests of one worker.

    Args:
        loop: Where answers are awaited.
        most: Most requests of a step.
        step: Computes the next piece, or the end, of each, and says which sequences are over; called in a thread of its own,
            always the same.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, step: Callable[[Sequence[Member]], Collection[str]]) -> None:
        self._loop = loop
        self._most = most
        self._step = step
        self._thread = ThreadPoolExecutor(1, "handler")
        #: Only the loop's thread uses these.
        self._waiting: deque[Member] = deque()
        self._members: list[Member] = []
        self._driver: asyncio.Task[None] | None = None

    async def answer(self, message: Message, *, is_alone: bool = False, sequence: str = "") -> Outcome | AsyncGenerator[Value]:
        """Has a request join.

        Args:
            message: The request.
            is_alone: Whether it is to be computed with no other: it waits for all to end, and others wait for it.
            sequence: The sequence that it belongs to, if any.

        Returns:
            The answer, or its pieces. Who does not want it any more cancels this, or closes the pieces; either returns when no
            step computes it any more.
        """
        member = Member(message, PendingAnswer(self._loop), is_alone=is_alone, sequence=sequence)
        self._waiting.append(member)
        if self._driver is None or self._driver.done():
            self._driver = self._loop.create_task(self._drive())
        try:
            outcome = await member.answer.outcome()
        except asyncio.CancelledError:
            await self._leave(member)
            raise
        return self._pieces(member, outcome) if isinstance(outcome, AsyncGenerator) else outcome

    def close(self) -> None:
        """Computes no further step."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _pieces(self, member: Member, pieces: AsyncGenerator[Value]) -> AsyncGenerator[Value]:
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    yield piece
        finally:
            await self._leave(member)

    async def _leave(self, member: Member) -> None:
        member.is_wanted = False
        if member in self._waiting:
            self._waiting.remove(member)
        else:
            await member.left.wait()

    async def _drive(self) -> None:
        while self._waiting:
            self._join()
            while self._members:
                ended: Collection[str] = ()
                try:
                    ended = await self._loop.run_in_executor(self._thread, self._step, tuple(self._members))
                except Exception as error:  # noqa: BLE001 - a defect of a step fails its requests, and holds up none
                    log(error)
                    for member in self._members:
                        member.answer.end(HandlerError(describe(error), status=500))
                self._part()
                self._refuse(ended)
                self._join()

    def _part(self) -> None:
        """Those that have ended, or that nobody waits for, leave."""
        for member in self._members:
            member.steps += 1
            if member.answer.ended or not member.is_wanted:
                member.left.set()
        self._members = [member for member in self._members if not member.left.is_set()]

    def _refuse(self, ended: Collection[str]) -> None:
        """Those that wait to go on with a sequence that is over are told so: its state is gone."""
        for member in [member for member in self._waiting if member.sequence in ended]:
            self._waiting.remove(member)
            member.left.set()
            member.answer.end(ShutDownError(f'Sequence "{member.sequence:.50}" is closed: its handler has ended it'))

    def _join(self) -> None:
        """Those that wait join, in order, as long as there is room; of each sequence one."""
        joined: set[str] = set()
        for member in tuple(self._waiting):
            if len(self._members) == self._most or (self._members and (member.is_alone or self._members[0].is_alone)):
                return
            if member.sequence in joined:
                continue
            self._waiting.remove(member)
            self._members.append(member)
            if member.sequence:
                joined.add(member.sequence)
