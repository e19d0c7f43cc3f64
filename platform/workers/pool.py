"""One model's worker groups, alive: carries out what the scheduler decides."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import structlog

from flowyard.platform.telemetry.measures import CANCELLED, DeviceMeasures, PoolMeasures
from flowyard.platform.workers.adapters import Adapters, refusal
from flowyard.platform.workers.alarm import Alarm
from flowyard.platform.workers.costs import CallCost
from flowyard.platform.workers.crew import Crew, WorkerView
from flowyard.platform.workers.groups import Group
from flowyard.platform.workers.instructions import (
    Abandon,
    Answer,
    Closed,
    Configure,
    Dispatch,
    Instruction,
    Kill,
    Retire,
    Spawn,
    Started,
    StartFailed,
)
from flowyard.platform.workers.jobs import FOREVER, Job
from flowyard.platform.workers.messages import as_messages, in_sequence
from flowyard.platform.workers.notes import CallNote, CallNotes
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.platform.workers.process import Outcome
from flowyard.platform.workers.room import UNKNOWN_WORKER_BYTES, Wanted
from flowyard.platform.workers.scheduler import Scheduler
from flowyard.platform.workers.sequence_scheduler import SequenceScheduler
from flowyard.platform.workers.tasks import Task
from flowyard.platform.workers.watchers import Watchers
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError, NotReadyError
from flowyard.schemas.frames import Results, Sample
from flowyard.schemas.fusion import FUSED
from flowyard.schemas.payload import Payload
from flowyard.schemas.tensors import Signature

log = structlog.stdlib.get_logger(__name__)

#: Of the largest batch that a model may ask for.
MAX_BATCH_BITS = 16

#: Numbers workers through the life of the server, as DJL does.
WORKER_IDS = itertools.count(1)


class ModelPool:
    """Queue and worker groups of one model. Every method belongs to the event loop's thread."""

    def __init__(self, spec: PoolSpec, version: str = "", watchers: Watchers | None = None) -> None:
        self.spec = spec
        self._watchers = watchers or Watchers()
        self.measures = PoolMeasures(map(str, spec.devices))
        self.signature: Signature | None = None
        #: Why the last worker could not load the model, `None` once one has.
        self.load_error: FlowyardError | None = None
        self._failing_since = 0.0
        self.cost = CallCost()
        #: Whether somebody has asked for other numbers of workers than the model was registered with.
        self.numbers_changed = False
        #: Is told of a batch with so many calls of fused nodes; says how many seconds, and seconds of the processor, are ours.
        self.on_fused: Callable[[Results, int], tuple[float, float]] | None = None
        #: Batches sent to workers, by the number of bits of one less than their size: 1, 2, up to 4, up to 8 …
        self.batches = [0] * (MAX_BATCH_BITS + 1)
        #: Seconds by which a request is answered, where it is told so; with a `timeout_error` they are counted otherwise.
        self._limit_s = FOREVER if spec.policy.timeout_error else spec.policy.timeout_s
        #: Axes of the model's only input, where its first one is rows.
        self._axes = 0
        self._loop = asyncio.get_running_loop()
        groups = [Group(device, spec.min_workers, spec.max_workers) for device in spec.devices]
        self._scheduler = _scheduler_of(spec.policy, groups)
        self._crew = Crew(spec, version, self._watchers, self, self._on_start_failed)
        self._measured: dict[int, DeviceMeasures] = {}
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._closed = asyncio.Event()
        self._changed = asyncio.Event()
        self._incoming: list[Job] = []
        self._streams: dict[Job, Callable[[], None]] = {}
        #: By worker: a call that every worker has to make and that this one makes, and its batch.
        self._configuring: dict[int, tuple[int, Task]] = {}
        self.adapters = Adapters(spec.name, self, dynamic=bool(spec.spec.dynamic_adapters))
        self._todo: deque[Instruction] = deque()
        self._notes = CallNotes()
        self._acting = False
        self._alarm = Alarm(self._loop, self._on_time)

    # ---- for those who use the model ----

    async def start(self) -> None:
        """Starts the minimum of workers and waits until they have loaded the model.

        Raises:
            FlowyardError: The model cannot be loaded; no worker is left behind.
        """
        started = time.monotonic()
        self._act(self._scheduler.start(started))
        try:
            await asyncio.shield(self._started)
        except BaseException:
            await self.close(0)
            raise
        self.measures.load_s = time.monotonic() - started

    def submit(self, task: Task) -> Job:
        """Queues a job. `task.on_done` gets its one outcome, possibly before this returns.

        Args:
            task: What to compute and whom to tell.

        Returns:
            The job, for `cancel`.
        """
        deadline = limit = time.monotonic() + self._limit_s
        if task.deadline is not None and task.deadline < limit:
            deadline = task.deadline
        job = Job(task, deadline, task.priority, self._rows(task))
        try:
            if self.spec.handlers:
                self._make_messages(task, job)
            for payload in task.args:
                payload.encoded()
        except FlowyardError as error:
            job.answered = True
            self.measures.failed(error.code)
            task.on_done(error)
            return job
        # Requests that the loop finds in one round go out as one batch.
        if not self._incoming:
            self._loop.call_soon(self._take_incoming)
        self._incoming.append(job)
        return job

    def _make_messages(self, task: Task, job: Job) -> None:
        """Makes of the arguments what handlers take.

        Raises:
            FlowyardError: They cannot be made, or ask for what is not there.
        """
        task.args = as_messages(task.args, self.spec.handlers, task.headers, task.request_id)
        if self.spec.handlers == "djl" and not task.callee:
            self.adapters.check(task.args[0])
        if self.spec.policy.sequences is not None:
            task.args, job.sequence = in_sequence(task.args, self.spec.policy.sequences.headers)

    def submit_noted(self, task: Task, note: CallNote) -> Job:
        """Queues a job as `submit` does, and writes down what becomes of it."""
        tell = task.on_done
        job: Job | None = None

        def on_done(outcome: Outcome) -> None:
            if job is not None:
                self._notes.drop(job)
            tell(outcome)

        task.on_done = on_done
        job = self.submit(task)
        if not job.answered:
            self._notes.take(job, note, time.monotonic())
        return job

    def _rows(self, task: Task) -> int:
        """Rows that a request brings, as far as that can be seen without decoding it: a tensor body is an array already."""
        if task.alone:
            return self.spec.policy.batch_size
        if not self._axes or len(task.args) != 1:
            return 1
        shape = task.args[0].shape
        return shape[0] or 1 if shape is not None and len(shape) == self._axes else 1

    def _take_incoming(self) -> None:
        jobs, self._incoming = self._incoming, []
        self._act(self._scheduler.submit([job for job in jobs if not job.answered], time.monotonic()))

    def cancel(self, job: Job) -> None:
        """Takes a job back. Nobody is told; one that is computing is left to end."""
        if not job.answered:
            self._notes.drop(job)
            job.item.on_done = _nobody
            job.item.on_chunk = None
            if job in self._incoming:
                job.answered = True
                self.measures.failed(CANCELLED)
            else:
                self._act(self._scheduler.cancel(job, time.monotonic()))

    def spread(self, key: str, order: Task, standing: Task | None, done_by: int = 0) -> None:
        """Has every worker make a call before it takes another request.

        Args:
            key: What the call is about.
            order: The call.
            standing: The call that workers make which start later, `None` for none.
            done_by: The worker that has made it already.
        """
        self._act(self._scheduler.spread(key, order, standing, time.monotonic(), done_by))

    def scale(self, min_workers: int, max_workers: int, device: Device | None = None) -> None:
        """Changes the number of workers; takes effect on its own."""
        self._act(self._scheduler.scale(min_workers, max_workers, time.monotonic(), device))
        low, high = self.spec.min_workers, self.spec.max_workers
        self.numbers_changed = any(group.min != low or group.max != high for group in self.groups)

    def more_workers(self, low: int, device: Device) -> Wanted:
        """The workers that would have to be started on a device for so many, and what each of them takes."""
        there = next((group.staying() for group in self.groups if group.device == device), 0)
        taken = [worker.memory_bytes() for worker in self.workers()]
        return Wanted(low - there, max([UNKNOWN_WORKER_BYTES * self.spec.processes, *taken]))

    async def settled(self) -> None:
        """Waits until every group has the workers it should have at least.

        Raises:
            NotReadyError: They cannot be started.
        """
        while not self.healthy:
            if self._scheduler.start_failing or self._scheduler.phase != "serving":
                raise NotReadyError(f"Model is not ready: {self.spec.name}") from self.load_error
            self._changed.clear()
            await self._changed.wait()

    async def quiet(self) -> None:
        """Waits until no call waits or is computed."""
        while self._incoming or self.queue_length or any(worker.state == "busy" for worker in self._scheduler.workers):
            self._changed.clear()
            await self._changed.wait()

    def keeps(self, sequence: str) -> bool:
        """Whether a sequence is open here, or its state was lost here a short time ago."""
        return self._scheduler.keeps(sequence)

    @property
    def failing(self) -> bool:
        """Whether workers that there should be cannot be started."""
        return self._scheduler.start_failing

    def failing_s(self, now: float) -> float:
        """Seconds since workers began to fail, without one that has loaded the model since; 0 where they do not."""
        return now - self._failing_since if self._failing_since else 0.0

    def end_leaving(self, reason: str) -> None:
        """Ends the workers that are on their way out, whatever they compute."""
        self._act(self._scheduler.end_leaving(reason))

    async def close(self, drain_s: float) -> None:
        """Finishes what was accepted, for `drain_s` seconds at most, answers the rest with 503 and ends all workers."""
        # What came in before this is accepted.
        self._take_incoming()
        now = time.monotonic()
        self._act(self._scheduler.drain(now + drain_s, now))
        if drain_s <= 0:
            self._act(self._scheduler.tick(now))
        await self._await_close()
        self._alarm.cancel()

    async def _await_close(self) -> None:
        if self._scheduler.phase != "closed":
            await self._closed.wait()
        await self._crew.all_ended()

    @property
    def queue_length(self) -> int:
        """Jobs that wait."""
        return self._scheduler.queue_length

    @property
    def groups(self) -> Iterable[Group]:
        """The worker groups."""
        return self._scheduler.groups.values()

    @property
    def healthy(self) -> bool:
        """Whether there are as many ready workers as there should be."""
        return all(group.ready() >= group.min for group in self.groups)

    def shared_bytes(self) -> int:
        """Bytes of the memory shared with the workers that hold arguments or results now."""
        return self._crew.shared_bytes()

    def workers(self) -> list[WorkerView]:
        """All workers, by number."""
        return self._crew.views(self._scheduler.workers)

    # ---- what the workers report ----

    def on_ready(self, worker: int, signature: Signature | None, load_s: float) -> None:
        """A worker has loaded the model."""
        if self.signature is None and signature is not None:
            self.signature = signature
            self._axes = _axes_of(signature)
        self.load_error = None
        self._failing_since = 0.0
        self._crew.ready(worker, load_s)
        self._act(self._scheduler.worker_ready(worker, time.monotonic()))

    def on_load_failed(self, worker: int, error: FlowyardError) -> None:
        """A worker could not load the model."""
        log.error("worker could not load the model", model=self.spec.name, worker=worker, error=str(error))
        self.load_error = error
        self._act(self._scheduler.worker_failed(worker, error, time.monotonic()))

    def on_results(self, worker: int, results: Results, outcomes: Sequence[Outcome]) -> None:
        """A worker has computed a batch."""
        batch = results.batch_id
        if worker in self._configuring and self._configuring[worker][0] == batch:
            self._on_configured(worker, batch, self._configuring.pop(worker)[1], outcomes)
            return
        now = time.monotonic()
        self._measure(worker, results)
        if self._notes:
            self._notes.received(worker, batch, results.compute_s, now)
        self._act(self._scheduler.batch_done(worker, batch, outcomes, now))

    def _measure(self, worker: int, results: Results) -> None:
        """Notes a batch before the scheduler forgets what was in it."""
        jobs = self._scheduler.computing(worker, results.batch_id)
        if jobs:
            compute_s, cpu_s = results.compute_s, results.cpu_s
            if results.times and self.on_fused is not None:
                compute_s, cpu_s = self.on_fused(results, sum([job.item.callee == FUSED for job in jobs]))
            self.cost.note(len(jobs), compute_s, cpu_s)
            measured = self._measured[worker]
            measured.compute.observe(compute_s)
            measured.rows.observe(sum([job.rows for job in jobs]))
            self.measures.waits.observe_all([job.dispatched - job.submitted for job in jobs])

    def note_elsewhere(self, calls: int, compute_s: float, cpu_s: float) -> None:
        """Notes a batch that the model has computed in another worker than its own, where nothing waited for it."""
        if calls:
            self.cost.note(calls, compute_s, cpu_s)
            self.batches[(calls - 1).bit_length()] += 1
            self.measures.waits.observe_all([0.0] * calls)
            measured = self.measures.on(str(self.spec.devices[0]))
            measured.compute.observe(compute_s)
            measured.rows.observe(calls)

    def _on_configured(self, worker: int, batch: int, order: Task, outcomes: Sequence[Outcome]) -> None:
        """A worker has made, or refused, a call that every worker has to make."""
        now = time.monotonic()
        failure = refusal(order, outcomes)
        if failure is None:
            self._act(self._scheduler.configured(worker, batch, now))
        else:
            log.error("worker could not be configured", model=self.spec.name, worker=worker, error=str(failure))
            self._act(self._scheduler.configuring_failed(worker, batch, failure, now))

    def on_chunk(self, worker: int, batch: int, place: int, piece: Payload) -> None:
        """A piece of a result has come."""
        job = self._scheduler.chunk(worker, batch, place, time.monotonic())
        process = self._crew.process_of(worker)
        if process is None:
            return
        if job is None or job.item.on_chunk is None:
            # Answered before its first piece came: a worker that waited to send more would wait in vain.
            process.stop(batch, place)
            return
        self._streams[job] = functools.partial(process.stop, batch, place)
        job.item.on_chunk(piece, functools.partial(process.grant, batch, place, 1))

    def on_step(self, worker: int, ended: Sequence[str]) -> None:
        """What a worker computes side by side goes on with another step; some sequences have ended with this one."""
        self._act(self._scheduler.step_done(worker, ended, time.monotonic()))

    def on_metrics(self, worker: int, samples: Sequence[Sample]) -> None:
        """Handlers have measured something."""
        self.measures.of_handlers.take(samples)
        self._watchers.measured(self._crew.name_of(worker), samples)

    def on_exit(self, worker: int, reason: str) -> None:
        """A worker process has ended."""
        self._measured.pop(worker, None)
        self._configuring.pop(worker, None)
        meant = next((one.retiring for one in self._scheduler.workers if one.id == worker), True)
        self._crew.ended(worker, reason, meant=meant)
        if not self.healthy and not self._failing_since:
            self._failing_since = time.monotonic()
        self._act(self._scheduler.worker_died(worker, reason, time.monotonic()))

    # ---- carrying out ----

    def _act(self, instructions: list[Instruction]) -> None:
        """Carries out instructions in order. Those that follow from carrying out one are appended, not nested."""
        self._todo.extend(instructions)
        if self._acting:
            return
        self._acting = True
        try:
            while self._todo:
                self._carry_out(self._todo.popleft())
        finally:
            self._acting = False
        self._changed.set()
        self._alarm.set(self._scheduler.wake_at)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Answer(job, outcome):
                self._answer(job, outcome)
            case Dispatch():
                self._dispatch(instruction)
            case Configure(worker, batch, order):
                self._configuring[worker] = (batch, order)
                self._crew.send(worker, batch, (order,))
            case Abandon(worker, batch, place):
                self._crew.stop(worker, batch, place)
            case Spawn(worker, device):
                self._measured[worker] = self.measures.on(str(device))
                self._crew.spawn(worker, device)
            case Retire(worker):
                self._crew.retire(worker)
            case Kill(worker, reason):
                self._crew.kill(worker, reason)
            case Started():
                self._end_start(None)
            case StartFailed(error):
                self._end_start(error)
                self._closed.set()
            case Closed():
                self._closed.set()

    def _answer(self, job: Job, outcome: Outcome) -> None:
        if job.streamed:
            self._end_stream(job)
        if isinstance(outcome, FlowyardError):
            self.measures.failed(CANCELLED if job.item.on_done is _nobody else outcome.code)
        job.item.on_done(outcome)

    def _end_start(self, error: FlowyardError | None) -> None:
        if self._started.done():
            return
        if error is None:
            self._started.set_result(None)
        else:
            self._started.set_exception(error)

    def _end_stream(self, job: Job) -> None:
        """Tells a worker that may still be sending pieces that they are not wanted."""
        stop = self._streams.pop(job, None)
        if stop is not None:
            stop()

    def _dispatch(self, dispatch: Dispatch) -> None:
        self.batches[(len(dispatch.jobs) - 1).bit_length()] += 1
        self._crew.send(dispatch.worker, dispatch.batch, [job.item for job in dispatch.jobs])
        if self._notes:
            device = next(worker.device for worker in self._scheduler.workers if worker.id == dispatch.worker)
            self._notes.dispatched(dispatch.jobs, dispatch.batch, dispatch.worker, str(device), time.monotonic())

    def _on_start_failed(self, worker: int, error: FlowyardError) -> None:
        """The process of a worker could not be started."""
        self._measured.pop(worker, None)
        self._act(self._scheduler.worker_failed(worker, error, time.monotonic()))

    def _on_time(self) -> None:
        self._act(self._scheduler.tick(time.monotonic()))


def _axes_of(signature: Signature) -> int:
    """Number of axes of the only input of a model, 0 where there are several or it is not known."""
    shape = signature.inputs[0].shape if len(signature.inputs) == 1 else None
    return len(shape) if shape else 0


def _scheduler_of(policy: Policy, groups: list[Group]) -> Scheduler:
    if policy.sequences is None:
        return Scheduler(policy, groups, WORKER_IDS)
    return SequenceScheduler(policy, policy.sequences, groups, WORKER_IDS)


def _nobody(outcome: Outcome) -> None:
    """Takes the answer of a cancelled job."""
