"""Work that goes on whatever becomes of its caller, and fetches, which can be cut short."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Container, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from flowyard.platform.registry.entries import Entry
from flowyard.schemas.errors import ShutDownError

T = TypeVar("T")


class Tasks:
    """All that is under way."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._scheduled: set[asyncio.Task[Any]] = set()
        self._fetches: dict[asyncio.Task[Any], Entry | None] = {}

    def schedule(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts work that nobody waits for, until the server stops."""
        _ = self.start(work)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The same, for those who may want to wait later."""
        task = asyncio.get_running_loop().create_task(work)
        for tasks in (self._running, self._scheduled):
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return task

    async def unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs work to its end even when the caller goes away in the middle of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    @contextlib.contextmanager
    def fetching(self, entry: Entry | None) -> Iterator[None]:
        """Lets whoever unregisters the entry, or stops the server, cut a fetch short.

        Args:
            entry: What is fetched for; `None` where nothing is registered yet.

        Raises:
            ShutDownError: It was cut short.
        """
        task = asyncio.current_task()
        assert task is not None
        self._fetches[task] = entry
        try:
            yield
        except asyncio.CancelledError:
            if task in self._fetches:
                raise
            task.uncancel()
            raise ShutDownError("the fetch was cut short: unregistered, or the server is stopping") from None
        finally:
            self._fetches.pop(task, None)

    def stop_fetching(self) -> None:
        """Cuts short what somebody waits for, who is told so. What nobody waits for ends with `stop`; a start takes it up."""
        self._cut_short(set(self._fetches) - self._scheduled)

    def stop_fetching_for(self, entries: Container[Entry | None]) -> None:
        """Cuts short what is fetched for some entries."""
        self._cut_short([task for task, entry in self._fetches.items() if entry in entries])

    async def stop(self) -> None:
        """Ends what nobody waits for, and all fetches."""
        unfinished = set(self._scheduled)
        for task in unfinished:
            task.cancel()
        self.stop_fetching()
        await asyncio.gather(*unfinished, return_exceptions=True)

    async def finish(self) -> None:
        """Waits for what somebody waits for."""
        if self._running:
            await asyncio.wait(self._running)

    def _cut_short(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            del self._fetches[task]
            task.cancel()
