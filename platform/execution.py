"""One run of a workflow, alive: carries out what the run core decides, on the pools of a deployment.

`Execution` runs any plan. Where there is nothing to decide, as in the plan that every single model has, `out: [model, in]`, the
runs of `calls.py` answer the same at less cost. `execute` chooses.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence

import msgspec

from flowyard.platform.calls import Asked, FusedCall, NodeTime, OnAnswer, Running, SingleCall
from flowyard.platform.registry.deployment import FUNCTIONS, Deployment, Lookup, registered_pool
from flowyard.platform.workers.pool import ModelPool
from flowyard.platform.workers.process import REFUSED, Outcome, Several
from flowyard.platform.workers.tasks import OnChunk, Task
from flowyard.schemas.errors import AnsweredError, FlowyardError, HandlerError, InternalError, InvalidRequestError, NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload
from flowyard.workflows.fusing import Fused
from flowyard.workflows.instructions import Answer, AnswerError, CancelCall, Instruction, StartCall, StepTime, WakeAt
from flowyard.workflows.run import Run

#: Workflows that may call each other, one inside the other; a circle of them would have no end.
MAX_DEPTH = 16


def execute(
    deployment: Deployment, asked: Asked, lookup: Lookup, on_answer: OnAnswer, on_chunk: OnChunk | None = None
) -> Running:
    """Prepares a run.

    Args:
        deployment: What runs.
        asked: The request.
        lookup: Finds registered models, for nodes that call one.
        on_answer: Gets the one answer, possibly before `start` returns.
        on_chunk: Gets the pieces of an answer that comes in pieces, and `on_answer` then `STREAMED`; without, they are collected.

    Returns:
        The run, to be started.
    """
    if deployment.single is not None:
        return SingleCall(deployment, deployment.single, asked, on_answer, on_chunk)
    fused = None if deployment.fusing is None else deployment.fusing.current()
    if fused is not None and deployment.fuses_all:
        otherwise = functools.partial(Execution, deployment, asked, lookup, on_answer, on_chunk)
        return FusedCall(deployment, fused, asked, on_answer, on_chunk, otherwise)
    return Execution(deployment, asked, lookup, on_answer, on_chunk, fused)


class Execution:
    """Runs a workflow once. Every method belongs to the event loop's thread.

    Args:
        deployment: What runs.
        asked: The request.
        lookup: Finds registered models, for nodes that call one.
        on_answer: Gets the one answer, possibly before `start` returns.
        on_chunk: Gets its pieces, where it comes in pieces.
        fused: Steps that are computed in one call, `None` for none.
    """

    __slots__ = (
        "_acting",
        "_asked",
        "_deployment",
        "_fused",
        "_held_bytes",
        "_lookup",
        "_on_answer",
        "_on_chunk",
        "_open",
        "_over",
        "_run",
        "_timer",
        "_timer_at",
        "_todo",
    )

    def __init__(
        self,
        deployment: Deployment,
        asked: Asked,
        lookup: Lookup,
        on_answer: OnAnswer,
        on_chunk: OnChunk | None,
        fused: Fused | None = None,
    ) -> None:
        self._deployment = deployment
        self._asked = asked
        plan, caches = deployment.plan, deployment.caches or None
        self._fused = fused
        self._run = Run(plan, asked.payload, asked.headers, asked.query, asked.deadline, caches, self._fused)
        self._lookup = lookup
        self._on_answer = on_answer
        self._on_chunk = on_chunk
        #: What takes a call back, by call.
        self._open: dict[int, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._todo: list[Instruction] = []
        self._acting = False
        self._over = True
        #: What the nodes have given so far.
        self._held_bytes = 0

    def start(self) -> None:
        """Starts the run."""
        self._over = False
        self._deployment.run_began()
        self._act(self._run.start(time.monotonic()))

    def cancel(self) -> None:
        """Nobody waits for the answer any more: takes back what is queued. `on_answer` may still be called."""
        self._act(self._run.cancel())
        self._stop()

    @property
    def queued_s(self) -> float:
        """Nothing: nodes wait one after the other, and at the same time."""
        return 0.0

    @property
    def timeline(self) -> tuple[StepTime, ...]:
        """What every node has done so far."""
        return self._run.timeline

    def times(self) -> Sequence[NodeTime]:
        """The same without words."""
        return [(entry.name, entry.started, entry.ended) for entry in self._run.timeline]

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
                take_back = self._open.pop(call_id, None)
                if take_back is not None:
                    take_back()
            case Answer(payload):
                self._end(payload)
            case AnswerError(error):
                self._end(error)
            case WakeAt(at):
                self._set_timer(at)

    def _start_call(self, call: StartCall) -> None:
        try:
            if self._held_bytes:
                # Results cannot be refused once they are here; that they wait for another node can.
                self._deployment.held.check()
            if call.kind == "workflow":
                self._start_workflow(call)
                return
            pool, callee = self._pool(call)
            if pool.spec.policy.sequences is not None:
                self._check_sequence(call, pool)
        except FlowyardError as error:
            self._done(call.call_id, error)
            return
        asked = self._asked
        streams = call.step == self._deployment.streaming_step or (call.kind == "fused" and self._answers_fused())
        task = Task(
            call.args,
            functools.partial(self._fused_done if call.kind == "fused" else self._done, call.call_id),
            callee=callee,
            request_id=asked.request_id,
            headers=asked.headers,
            deadline=call.timeout_at,
            priority=asked.priority,
            on_chunk=self._on_chunk if streams else None,
        )
        if pool.spec.handlers and not self._deployment.plan.pass_errors:
            task.on_done = functools.partial(self._message_done, call)
        job = pool.submit(task)
        if not job.answered:
            self._open[call.call_id] = functools.partial(pool.cancel, job)

    def _start_workflow(self, call: StartCall) -> None:
        """A node that is a run of another workflow, with what the node gets as the request's body."""
        asked = self._asked
        if asked.depth >= MAX_DEPTH:
            raise NodeError(f"more than {MAX_DEPTH} workflows call each other")
        name, _, version = call.callee.partition(":")
        inner = msgspec.structs.replace(asked, payload=call.args[0], deadline=call.timeout_at, depth=asked.depth + 1)
        deployment = self._lookup(name, version or None, asked.headers)
        if deployment.single is not None and deployment.stateful:
            self._check_sequence(call, deployment.single)
        run = execute(deployment, inner, self._lookup, functools.partial(self._inner_done, call.call_id))
        self._open[call.call_id] = run.cancel
        run.start()

    def _inner_done(self, call_id: int, outcome: Outcome) -> None:
        # A failed node of the inner workflow is told behind the name of the node that called it.
        if isinstance(outcome, HandlerError):
            outcome = HandlerError(outcome.message, status=outcome.status, detail=outcome.detail)
        elif isinstance(outcome, NodeError):
            outcome = NodeError(outcome.message)
        self._done(call_id, outcome)

    def _pool(self, call: StartCall) -> tuple[ModelPool, str]:
        """Where a node's call is computed, and what it is called there."""
        if call.kind == "fused" and self._deployment.fusing is not None:
            return self._deployment.fusing.host, call.callee
        if call.kind == "function":
            return self._deployment.pools[FUNCTIONS], call.callee
        pool = self._deployment.pools.get(call.callee)
        if pool is not None:
            return pool, ""
        spec = self._deployment.plan.models.get(call.callee)
        if spec is None or not spec.model:
            raise InternalError(f"no workers for {call.callee}")
        return registered_pool(self._lookup, spec.model, self._asked.headers), ""

    def _check_sequence(self, call: StartCall, pool: ModelPool) -> None:
        """A node that keeps the state of sequences gets requests of which their clients say to which one they belong.

        Raises:
            InvalidRequestError: This one does not: a sequence that the node began would be nobody's.
            NodeError: It is a copy for a shadow, which would change the state of somebody's sequence.
        """
        if self._asked.is_copy:
            raise NodeError(f'node "{call.step}" keeps the state of sequences, and gets no copies of requests')
        header = pool.spec.sequence_header
        if not self._asked.headers.get(header):
            told = f'node "{call.step}" keeps the state of sequences; a request to its workflow names the one that it belongs to'
            raise InvalidRequestError(f"Header {header} is required: {told}.")

    def _message_done(self, call: StartCall, outcome: Outcome) -> None:
        """A handler may answer that it failed: so has its node, and the answer is the run's unless something catches it."""
        if isinstance(outcome, Payload):
            message = outcome.message()
            if message is not None and self._deployment.plan.spelling == "torchserve":
                # There, status and headers of a node's answer are of no account (TorchServe, DagExecutor).
                outcome = Payload.of(Message(contents=message.contents, types=message.types))
            elif message is not None and message.is_failure:
                told = f'node "{call.step}": {message.reason or message.code}'
                outcome = AnsweredError(told, call.step, message)
        self._done(call.call_id, outcome)

    def _done(self, call_id: int, outcome: Outcome) -> None:
        self._open.pop(call_id, None)
        now = time.monotonic()
        if isinstance(outcome, FlowyardError):
            self._act(self._run.failed(call_id, outcome, now))
        else:
            self._hold(outcome)
            self._act(self._run.done(call_id, outcome, now))

    def _hold(self, result: Payload) -> None:
        """Counts a result, which is there until the run is over."""
        if not self._over:
            size_bytes = result.size_bytes
            self._held_bytes += size_bytes
            self._deployment.held.keep(size_bytes)

    def _answers_fused(self) -> bool:
        """Whether the last of the fused steps gives the answer."""
        return self._fused is not None and self._fused.steps[-1] == self._deployment.plan.out

    def _fused_done(self, call_id: int, outcome: Outcome) -> None:
        fused = self._fused
        assert fused is not None
        self._open.pop(call_id, None)
        now = time.monotonic()
        if isinstance(outcome, Several) and len(outcome.results) == len(fused.given):
            for result in outcome.results:
                self._hold(result)
            self._act(self._run.fused_done(call_id, outcome.results, outcome.ends, now))
        elif outcome is REFUSED:
            self._act(self._run.fused_refused(call_id, now))
        elif isinstance(outcome, FlowyardError):
            if isinstance(outcome, NodeError) and outcome.fused_node < 0:
                # The result itself could not be passed on.
                outcome.fused_node = len(fused.steps) - 1
            self._act(self._run.failed(call_id, outcome, now))
        elif self._answers_fused() and not isinstance(outcome, Several):
            # A result in pieces, sent or collected.
            self._act(self._run.fused_done(call_id, (outcome,), (), now))
        else:
            self._act(self._run.failed(call_id, InternalError("a worker gave other results than it was asked for"), now))

    def _end(self, outcome: Outcome) -> None:
        self._stop()
        self._on_answer(outcome)

    def _stop(self) -> None:
        if not self._over:
            self._over = True
            self._deployment.held.give_back(self._held_bytes)
            self._deployment.run_ended()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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
