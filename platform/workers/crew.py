"""The processes of one model's workers, by the number of the worker: started, sent what they are to compute, ended."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec
import structlog

from flowyard.platform.workers.groups import Worker
from flowyard.platform.workers.memory import Parcel
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.platform.workers.process import WorkerEvents, WorkerProcess, resident_bytes
from flowyard.platform.workers.tasks import Task
from flowyard.platform.workers.watchers import Watchers, WorkerName
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError, UnavailableError
from flowyard.schemas.frames import Context, Load, WireCall

log = structlog.stdlib.get_logger(__name__)

NO_CONTEXT = Context()


class WorkerView(msgspec.Struct, frozen=True):
    """A worker as `describe` shows it; `others` are the process ids of its ranks but the first."""

    id: int
    device: Device
    started: datetime
    state: str
    pid: int | None
    leaving: bool
    others: tuple[int, ...] = ()

    def memory_bytes(self) -> int:
        """What its processes have in RAM, what they share counted for each."""
        return sum(map(resident_bytes, (self.pid, *self.others))) if self.pid is not None else 0


class _Member:
    """One process.

    Attributes:
        started: When it was started.
        start_timer: Ends it where it is not ready in time.
        is_ready: Whether it has loaded the model.
    """

    __slots__ = ("is_ready", "process", "start_timer", "started")

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.started = datetime.now(UTC)
        self.start_timer: asyncio.TimerHandle | None = None
        self.is_ready = False


class Crew:
    """The processes.

    Args:
        spec: What they serve.
        version: The version that is told to who watches.
        watchers: Are told what happens to them.
        events: Is told what they report.
        on_failed: Is told of one that could not be started, and why.
    """

    def __init__(
        self,
        spec: PoolSpec,
        version: str,
        watchers: Watchers,
        events: WorkerEvents,
        on_failed: Callable[[int, FlowyardError], None],
    ) -> None:
        self._spec = spec
        self._version = version
        self._watchers = watchers
        self._events = events
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._members: dict[int, _Member] = {}
        self._starts: set[asyncio.Task[None]] = set()
        self._tells_context = spec.tells_context
        self._environ = spec.confinement.environment(os.environ, spec.threads)
        if spec.packages:
            further = self._environ.get("PYTHONPATH")
            self._environ["PYTHONPATH"] = os.pathsep.join((spec.packages, *([further] if further else [])))

    # ---- their lives ----

    def spawn(self, worker: int, device: Device) -> None:
        """Starts a process, which loads the model on a device."""
        spec = self._spec
        load = Load(
            spec.engine,
            spec.root,
            spec.path,
            device,
            spec.spec,
            spec.functions,
            spec.threads,
            spec.handlers,
            spec.properties,
            spec.fusion,
            ranks=spec.ranks_on(device),
        )
        process = WorkerProcess(
            worker,
            load,
            self._events,
            self._environ,
            confinement=spec.confinement,
            arena_bytes=spec.arena_bytes,
            silent_limit_s=spec.silent_limit_s,
            outputs=self._watchers.outputs_of(self.name_of(worker)),
        )
        self._members[worker] = _Member(process)
        self._watchers.worker_started(self.name_of(worker))
        start = self._loop.create_task(self._start(process))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)

    async def _start(self, process: WorkerProcess) -> None:
        worker = process.worker
        try:
            await process.start()
        except OSError as error:
            self._members.pop(worker, None)
            told = f"cannot start a worker process: {error.strerror or type(error).__name__}"
            self._on_failed(worker, UnavailableError(told))
            return
        member = self._members.get(worker)
        if member is not None:
            timeout_s = self._spec.startup_timeout_s
            member.start_timer = self._loop.call_later(timeout_s, process.kill, f"not ready within {timeout_s:g} s")

    def ready(self, worker: int, load_s: float) -> None:
        """A process has loaded the model."""
        log.info("worker ready", model=self._spec.name, worker=worker)
        member = self._members.get(worker)
        if member is not None:
            member.is_ready = True
            _stop(member.start_timer)
        self._watchers.worker_ready(self.name_of(worker), load_s)

    def ended(self, worker: int, reason: str, *, meant: bool) -> None:
        """A process has ended.

        Args:
            worker: The worker that it was.
            reason: Why.
            meant: Whether it was to.
        """
        member = self._members.pop(worker, None)
        if member is not None:
            _stop(member.start_timer)
        log.info("worker ended", model=self._spec.name, worker=worker, reason=reason)
        was_ready = member is not None and member.is_ready
        self._watchers.worker_ended(self.name_of(worker), reason, was_ready=was_ready, meant=meant)

    def retire(self, worker: int) -> None:
        """Asks a process to end."""
        self._members[worker].process.retire()

    def kill(self, worker: int, reason: str) -> None:
        """Ends a process at once."""
        member = self._members.get(worker)
        if member is not None:
            log.warning("killing worker", model=self._spec.name, worker=worker, reason=reason)
            member.process.kill(reason)

    async def all_ended(self) -> None:
        """Waits until all have ended, those that are just being started, too."""
        while self._starts:
            await asyncio.wait(self._starts)
        for member in list(self._members.values()):
            await member.process.ended.wait()

    # ---- what they compute ----

    def send(self, worker: int, batch: int, tasks: Iterable[Task]) -> None:
        """Sends a batch to a process that is ready."""
        process = self._members[worker].process
        parcel = process.parcel()
        now = time.monotonic()
        try:
            calls = tuple([_wire_call(task, parcel, now, self._tells_context) for task in tasks])
        except BaseException:
            parcel.discard()
            raise
        process.send(batch, calls, parcel)

    def stop(self, worker: int, batch: int, place: int) -> None:
        """Tells a process that nobody waits any more for a job that it computes beside others."""
        self._members[worker].process.stop(batch, place)

    def process_of(self, worker: int) -> WorkerProcess | None:
        """The process of a worker, `None` where it is gone."""
        member = self._members.get(worker)
        return None if member is None else member.process

    # ---- what is the case ----

    def name_of(self, worker: int) -> WorkerName:
        """What who watches calls a worker."""
        return WorkerName(worker, self._spec.name, self._version, self._spec.handlers)

    def shared_bytes(self) -> int:
        """Bytes of the memory shared with them that hold arguments or results now."""
        return sum(member.process.shared_bytes for member in self._members.values())

    def views(self, workers: Iterable[Worker]) -> list[WorkerView]:
        """Workers as `describe` shows them."""
        return [self._view(worker) for worker in workers]

    def _view(self, worker: Worker) -> WorkerView:
        member = self._members.get(worker.id)
        leaving = worker.retiring or worker.killed
        if member is None:
            return WorkerView(worker.id, worker.device, datetime.now(UTC), worker.state, None, leaving)
        process = member.process
        return WorkerView(worker.id, worker.device, member.started, worker.state, process.pid, leaving, process.others)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _wire_call(task: Task, parcel: Parcel, now: float, tells_context: bool) -> WireCall:
    values = tuple([parcel.add(payload.encoded()) for payload in task.args])
    context = NO_CONTEXT
    if tells_context:
        context = Context(task.request_id, task.headers, None if task.deadline is None else task.deadline - now)
    return WireCall(task.callee, values, context, task.on_chunk is not None)
