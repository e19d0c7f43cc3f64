"""One run of a workflow, alive: carries out what the run core decides, on the pools of a deployment.

`Execution` runs any plan. `SingleCall` runs the plan that every single model has, `out: [model, in]`, where there is nothing to
decide: it answers the same at less cost. `execute` chooses.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Mapping

import msgspec

from flowyard.platform.registry.deployment import FUNCTIONS, Deployment, Lookup, registered_pool
from flowyard.platform.workers.pool import ModelPool, Task
from flowyard.platform.workers.process import Outcome
from flowyard.platform.workers.scheduler import Job
from flowyard.schemas.errors import FlowyardError, InternalError
from flowyard.schemas.values import Payload
from flowyard.workflows.execution import named
from flowyard.workflows.instructions import Answer, AnswerError, CancelCall, Instruction, StartCall, StepTime, WakeAt
from flowyard.workflows.run import Run

OnAnswer = Callable[[Outcome], None]


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a run is to know of its request.

    Attributes:
        payload: The body.
        headers: Request headers, names in lower case.
        query: Query parameters.
        request_id: For logs and handlers.
        deadline: When the answer must be there, monotonic seconds, `None` without a limit.
        priority: 0 to 9, lower is served first.
    """

    payload: Payload
    headers: dict[str, str]
    query: Mapping[str, str]
    request_id: str
    deadline: float | None
    priority: int


def execute(deployment: Deployment, asked: Asked, lookup: Lookup, on_answer: OnAnswer) -> Execution | SingleCall:
    """Prepares a run.

    Args:
        deployment: What runs.
        asked: The request.
        lookup: Finds registered models, for nodes that call one.
        on_answer: Gets the one answer, possibly before `start` returns.

    Returns:
        The run, to be started.
    """
    if deployment.single is not None:
        return SingleCall(deployment, deployment.single, asked, on_answer)
    return Execution(deployment, asked, lookup, on_answer)


class SingleCall:
    """Calls the one model of a plan with the request's body."""

    __slots__ = ("_asked", "_deployment", "_ended", "_job", "_on_answer", "_pool", "_started")

    def __init__(self, deployment: Deployment, pool: ModelPool, asked: Asked, on_answer: OnAnswer) -> None:
        self._deployment = deployment
        self._pool = pool
        self._asked = asked
        self._on_answer = on_answer
        self._job: Job | None = None
        self._started = 0.0
        self._ended: float | None = None

    def start(self) -> None:
        """Queues the call."""
        asked = self._asked
        self._started = time.monotonic()
        deadline = asked.deadline
        timeout_s = self._deployment.plan.timeout_s
        if timeout_s is not None:
            deadline = min(self._started + timeout_s, deadline or math.inf)
        task = Task(
            (asked.payload,),
            self._done,
            request_id=asked.request_id,
            headers=asked.headers,
            deadline=deadline,
            priority=asked.priority,
        )
        self._job = self._pool.submit(task)

    def cancel(self) -> None:
        """Nobody waits for the answer any more: takes the call back."""
        if self._job is not None:
            self._pool.cancel(self._job)

    @property
    def timeline(self) -> tuple[StepTime, ...]:
        """When the call began and ended."""
        state = "running" if self._ended is None else "done"
        return (StepTime(self._deployment.plan.steps[0].name, self._started, self._ended, state),)

    def _done(self, outcome: Outcome) -> None:
        self._ended = time.monotonic()
        if isinstance(outcome, FlowyardError):
            outcome = named(outcome, self._deployment.plan.steps[0].name)
        self._on_answer(outcome)


class Execution:
    """Runs a workflow once. Every method belongs to the event loop's thread.

    Args:
        deployment: What runs.
        asked: The request.
        lookup: Finds registered models, for nodes that call one.
        on_answer: Gets the one answer, possibly before `start` returns.
    """

    __slots__ = (
        "_acting",
        "_asked",
        "_deployment",
        "_jobs",
        "_lookup",
        "_on_answer",
        "_run",
        "_timer",
        "_timer_at",
        "_todo",
    )

    def __init__(self, deployment: Deployment, asked: Asked, lookup: Lookup, on_answer: OnAnswer) -> None:
        self._deployment = deployment
        self._asked = asked
        self._run = Run(deployment.plan, asked.payload, asked.headers, asked.query, asked.deadline)
        self._lookup = lookup
        self._on_answer = on_answer
        self._jobs: dict[int, tuple[ModelPool, Job]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._todo: list[Instruction] = []
        self._acting = False

    def start(self) -> None:
        """Starts the run."""
        self._act(self._run.start(time.monotonic()))

    def cancel(self) -> None:
        """Nobody waits for the answer any more: takes back what is queued. `on_answer` may still be called."""
        self._act(self._run.cancel())

    @property
    def timeline(self) -> tuple[StepTime, ...]:
        """What every node has done so far."""
        return self._run.timeline

    def _act(self, instructions: list[Instruction]) -> None:
        """Carries out instructions in order. Those that follow from carrying out one are appended, not nested."""
        self._todo.extend(instructions)
        if self._acting:
            return
        self._acting = True
        try:
            for instruction in self._todo:
                self._carry_out(instruction)
        finally:
            self._todo.clear()
            self._acting = False

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case StartCall():
                self._start_call(instruction)
            case CancelCall(call_id):
                pool, job = self._jobs.pop(call_id, (None, None))
                if pool is not None and job is not None:
                    pool.cancel(job)
            case Answer(payload):
                self._end(payload)
            case AnswerError(error):
                self._end(error)
            case WakeAt(at):
                self._set_timer(at)

    def _start_call(self, call: StartCall) -> None:
        try:
            pool, callee = self._pool(call)
        except FlowyardError as error:
            self._done(call.call_id, error)
            return
        asked = self._asked
        task = Task(
            call.args,
            functools.partial(self._done, call.call_id),
            callee=callee,
            request_id=asked.request_id,
            headers=asked.headers,
            deadline=call.timeout_at,
            priority=asked.priority,
        )
        job = pool.submit(task)
        if not job.answered:
            self._jobs[call.call_id] = (pool, job)

    def _pool(self, call: StartCall) -> tuple[ModelPool, str]:
        """Where a node's call is computed, and what it is called there."""
        if call.kind == "function":
            return self._deployment.pools[FUNCTIONS], call.callee
        pool = self._deployment.pools.get(call.callee)
        if pool is not None:
            return pool, ""
        spec = self._deployment.plan.models.get(call.callee)
        if spec is None or not spec.model:
            raise InternalError(f"no workers for {call.callee}")
        return registered_pool(self._lookup, spec.model), ""

    def _done(self, call_id: int, outcome: Outcome) -> None:
        self._jobs.pop(call_id, None)
        now = time.monotonic()
        if isinstance(outcome, FlowyardError):
            self._act(self._run.failed(call_id, outcome, now))
        else:
            self._act(self._run.done(call_id, outcome, now))

    def _end(self, outcome: Outcome) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._on_answer(outcome)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        delay_s = max(0.0, at - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._act(self._run.tick(time.monotonic()))
