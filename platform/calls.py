"""Runs with nothing to decide: one call, whose result is the answer. They answer as `Execution` would, at less cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.workers.jobs import Job
from flowyard.platform.workers.pool import ModelPool
from flowyard.platform.workers.process import REFUSED, Outcome, Several
from flowyard.platform.workers.tasks import OnChunk, Task
from flowyard.schemas.errors import DeadlineError, FlowyardError, InternalError, NodeError
from flowyard.schemas.fusion import FUSED
from flowyard.schemas.payload import Payload
from flowyard.workflows.execution import named
from flowyard.workflows.fusing import Fused
from flowyard.workflows.instructions import StepTime

OnAnswer: TypeAlias = Callable[[Outcome], None]
#: Name of a node, when it began and when it ended; monotonic seconds.
NodeTime: TypeAlias = tuple[str, float | None, float | None]


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a run is to know of its request.

    Attributes:
        payload: The body.
        headers: Request headers, names in lower case.
        query: Query parameters.
        request_id: For logs and handlers.
        deadline: When the answer must be there, monotonic seconds, `None` without a limit.
        priority: 0 to 9, lower is served first.
        depth: How many workflows have called each other to get here.
        alone: Whether the call of a single model shares its batch with no other.
        is_copy: Whether it is the copy of a request for a shadow version.
    """

    payload: Payload
    headers: dict[str, str]
    query: Mapping[str, str]
    request_id: str
    deadline: float | None
    priority: int
    depth: int = 0
    alone: bool = False
    is_copy: bool = False


class Running(Protocol):
    """A run of a workflow."""

    def start(self) -> None:
        """Starts it."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more: takes back what is queued."""

    @property
    def timeline(self) -> tuple[StepTime, ...]:
        """What every node has done so far."""

    def times(self) -> Sequence[NodeTime]:
        """The same without words."""

    @property
    def queued_s(self) -> float:
        """How long its only call waited for a worker, once it is over; 0 where it has several."""


class SingleCall:
    """Calls the one model of a plan with the request's body."""

    __slots__ = ("_asked", "_deployment", "_ended", "_job", "_on_answer", "_on_chunk", "_pool", "_started", "queued_s")

    def __init__(
        self, deployment: Deployment, pool: ModelPool, asked: Asked, on_answer: OnAnswer, on_chunk: OnChunk | None
    ) -> None:
        self._deployment = deployment
        self._pool = pool
        self._asked = asked
        self._on_answer = on_answer
        self._on_chunk = on_chunk
        self._job: Job | None = None
        self._started = 0.0
        self._ended: float | None = None
        #: How long the call waited for a worker, once it has been answered.
        self.queued_s = 0.0

    def start(self) -> None:
        """Queues the call."""
        self._started = time.monotonic()
        task = _task(self._deployment, self._asked, self._started, self._done, self._on_chunk)
        task.alone = self._asked.alone
        job = self._pool.submit(task)
        if not job.answered:
            self._job = job

    def cancel(self) -> None:
        """Nobody waits for the answer any more: takes the call back."""
        job, self._job = self._job, None
        if job is not None:
            self._pool.cancel(job)

    @property
    def timeline(self) -> tuple[StepTime, ...]:
        """When the call began and ended."""
        state = "running" if self._ended is None else "done"
        return (StepTime(self._deployment.plan.steps[0].name, self._started, self._ended, state),)

    def times(self) -> Sequence[NodeTime]:
        """The same without words."""
        return ((self._deployment.plan.steps[0].name, self._started, self._ended),)

    def _done(self, outcome: Outcome) -> None:
        self._ended = time.monotonic()
        if self._job is not None and self._job.dispatched:
            self.queued_s = self._job.dispatched - self._job.submitted
        self._job = None
        # Clients of DJL know the texts of models of its kind, without a node's name before them.
        if isinstance(outcome, FlowyardError) and self._pool.spec.handlers != "djl":
            outcome = named(outcome, self._deployment.plan.steps[0].name)
        self._on_answer(outcome)


class FusedCall:
    """Makes the one call of a run whose nodes are all computed in it (`workflows/fusing.py`).

    Args:
        deployment: What runs.
        fused: Its fused steps: they take nothing but the request's body, and give nothing but the answer.
        asked: The request.
        on_answer: Gets the one answer, possibly before `start` returns.
        on_chunk: Gets its pieces, where it comes in pieces.
        otherwise: Makes the run that answers where the worker cannot compute the nodes in one call.
    """

    __slots__ = (
        "_asked",
        "_deadline",
        "_deployment",
        "_ended",
        "_ends",
        "_fused",
        "_job",
        "_on_answer",
        "_on_chunk",
        "_otherwise",
        "_over",
        "_pool",
        "_run",
        "_started",
    )

    def __init__(
        self,
        deployment: Deployment,
        fused: Fused,
        asked: Asked,
        on_answer: OnAnswer,
        on_chunk: OnChunk | None,
        otherwise: Callable[[], Running],
    ) -> None:
        assert deployment.fusing is not None
        self._deployment = deployment
        self._pool = deployment.fusing.host
        self._fused = fused
        self._asked = asked
        self._on_answer = on_answer
        self._on_chunk = on_chunk
        self._otherwise = otherwise
        self._run: Running | None = None
        self._job: Job | None = None
        self._over = True
        self._deadline = math.inf
        self._started = 0.0
        self._ended: float | None = None
        #: When each of the steps ended.
        self._ends: Sequence[float] = ()

    def start(self) -> None:
        """Queues the call."""
        self._over = False
        self._deployment.run_began()
        self._started = time.monotonic()
        task = _task(self._deployment, self._asked, self._started, self._done, self._on_chunk)
        task.callee = FUSED
        if task.deadline is not None:
            self._deadline = task.deadline
        job = self._pool.submit(task)
        if not job.answered:
            self._job = job

    def cancel(self) -> None:
        """Nobody waits for the answer any more: takes the call back."""
        job, self._job = self._job, None
        if job is not None:
            self._pool.cancel(job)
        if self._run is not None:
            self._run.cancel()
        self._stop()

    @property
    def queued_s(self) -> float:
        """Nothing: what the nodes waited for is not told apart."""
        return 0.0

    @property
    def timeline(self) -> tuple[StepTime, ...]:
        """When the steps began and ended, by the worker's clock, which is the machine's."""
        if self._run is not None:
            return self._run.timeline
        state = "running" if self._ended is None else "done"
        return tuple([StepTime(name, began, ended, state) for name, began, ended in self.times()])

    def times(self) -> Sequence[NodeTime]:
        """The same without words."""
        if self._run is not None:
            return self._run.times()
        fused, steps, last = self._fused, self._deployment.plan.steps, self._ended
        if last is None:
            return [(steps[step].name, self._started, None) for step in fused.steps]
        times: list[tuple[str, float, float]] = []
        ends = [*self._ends, *[last] * len(fused.steps)]
        for step, args, end in zip(fused.steps, fused.args, ends, strict=False):
            began = self._started
            for arg in args:
                if arg >= 0 and times[arg][2] > began:
                    began = times[arg][2]
            # A worker's own words, which may be anything.
            times.append((steps[step].name, began, end if began <= end <= last else last))
        return times

    def _done(self, outcome: Outcome) -> None:
        self._job = None
        self._ended = time.monotonic()
        if outcome is REFUSED:
            self._run = self._otherwise()
            self._run.start()
            self._stop()
            return
        self._stop()
        self._on_answer(self._failure(outcome) if isinstance(outcome, FlowyardError) else self._result(outcome))

    def _result(self, outcome: Payload) -> Outcome:
        if not isinstance(outcome, Several):
            # A result in pieces, sent or collected.
            return outcome
        self._ends = outcome.ends
        if len(outcome.results) != 1:
            return InternalError("a worker gave other results than it was asked for")
        return outcome.results[0]

    def _failure(self, error: FlowyardError) -> FlowyardError:
        steps = self._fused.steps
        if isinstance(error, DeadlineError) and time.monotonic() >= self._deadline:
            return DeadlineError("the request was not done in time")
        if isinstance(error, NodeError) and error.fused_node < 0:
            # The result itself could not be passed on.
            error.fused_node = len(steps) - 1
        step = steps[error.fused_node] if 0 <= error.fused_node < len(steps) else steps[0]
        return named(error, self._deployment.plan.steps[step].name)

    def _stop(self) -> None:
        if not self._over:
            self._over = True
            self._deployment.run_ended()


def _task(deployment: Deployment, asked: Asked, now: float, on_done: OnAnswer, on_chunk: OnChunk | None) -> Task:
    """The call that such a run makes: with the request's body, by its deadline or the plan's."""
    deadline, timeout_s = asked.deadline, deployment.plan.timeout_s
    if timeout_s is not None:
        deadline = min(now + timeout_s, math.inf if deadline is None else deadline)
    return Task(
        (asked.payload,),
        on_done,
        request_id=asked.request_id,
        headers=asked.headers,
        deadline=deadline,
        priority=asked.priority,
        on_chunk=on_chunk,
    )
