"""Who is told what workers do, measure and print."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from flowyard.platform.workers.output import OutputReader
from flowyard.schemas.frames import Sample
from flowyard.schemas.messages import Handlers

Output: TypeAlias = Literal["stdout", "stderr"]

#: Time that is left for what workers have printed at their end.
READ_LIMIT_S = 2.0


class WorkerName(msgspec.Struct, frozen=True):
    """A worker, as those outside of the pools know it.

    Attributes:
        id: Its number.
        model: The name of its model; of one in a workflow `WORKFLOW:MODEL`.
        version: The version, empty for none.
        handlers: Whose handlers it runs.
    """

    id: int
    model: str
    version: str
    handlers: Handlers = ""


class Watcher(Protocol):
    """Is told what workers do. It must not take long: requests wait meanwhile."""

    @property
    def wants_output(self) -> bool:
        """Whether it wants to be told what workers print."""

    def worker_started(self, worker: WorkerName, /) -> None:
        """A process has been started."""

    def worker_ready(self, worker: WorkerName, load_s: float, /) -> None:
        """It has loaded its model."""

    def worker_ended(self, worker: WorkerName, reason: str, *, was_ready: bool, meant: bool) -> None:
        """It has ended, as it was meant to or not."""

    def measured(self, worker: WorkerName, samples: Sequence[Sample], /) -> None:
        """Its handlers have measured something."""

    def printed(self, worker: WorkerName, output: Output, line: bytes, /) -> None:
        """It has printed a line. Called by a thread of its own."""


class Watchers:
    """Passes on to all of them what one is told.

    Attributes:
        all: Who they are; those that want output are there before a worker is started.
    """

    def __init__(self, *watchers: Watcher) -> None:
        self.all: list[Watcher] = list(watchers)
        self._reader: OutputReader | None = None

    def outputs_of(self, worker: WorkerName) -> Callable[[], tuple[int, int]] | None:
        """What opens the pipes of a worker's output and errors, `None` where nobody wants to be told what it prints."""
        if not any(watcher.wants_output for watcher in self.all):
            return None
        return functools.partial(self._open, worker)

    def _open(self, worker: WorkerName) -> tuple[int, int]:
        if self._reader is None:
            self._reader = OutputReader()
        output, errors = (self._reader.open(functools.partial(self.printed, worker, output)) for output in ("stdout", "stderr"))
        return output, errors

    def close(self) -> None:
        """All workers have ended."""
        if self._reader is not None:
            self._reader.close(READ_LIMIT_S)

    def worker_started(self, worker: WorkerName) -> None:
        """See `Watcher`."""
        for watcher in self.all:
            watcher.worker_started(worker)

    def worker_ready(self, worker: WorkerName, load_s: float) -> None:
        """See `Watcher`."""
        for watcher in self.all:
            watcher.worker_ready(worker, load_s)

    def worker_ended(self, worker: WorkerName, reason: str, *, was_ready: bool, meant: bool) -> None:
        """See `Watcher`."""
        for watcher in self.all:
            watcher.worker_ended(worker, reason, was_ready=was_ready, meant=meant)

    def measured(self, worker: WorkerName, samples: Sequence[Sample]) -> None:
        """See `Watcher`."""
        for watcher in self.all:
            watcher.measured(worker, samples)

    def printed(self, worker: WorkerName, output: Output, line: bytes) -> None:
        """See `Watcher`."""
        for watcher in self.all:
            watcher.printed(worker, output, line)
