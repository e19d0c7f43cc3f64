"""A run that remembers what became of each of its calls."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from flowyard.platform.calls import Asked, OnAnswer
from flowyard.platform.execution import Execution
from flowyard.platform.registry.deployment import Deployment, Lookup
from flowyard.platform.telemetry.traces import MAX_CALLS, CallTrace, NodeTrace, Trace
from flowyard.platform.workers.jobs import Job
from flowyard.platform.workers.notes import CallNote
from flowyard.platform.workers.pool import ModelPool
from flowyard.platform.workers.tasks import OnChunk, Task
from flowyard.workflows.instructions import StartCall, StepTime


class TracedExecution(Execution):
    """Runs a workflow once, as `Execution` does, for a request that asks for its timeline.

    None of its nodes are fused: each has a line of its own there.

    Args:
        deployment: What runs.
        asked: The request.
        lookup: Finds registered models.
        on_answer: Gets the one answer.
        on_chunk: Gets its pieces.
        arrived: When the request came, monotonic seconds.
    """

    __slots__ = ("_arrived", "_body_at", "_calls")

    def __init__(
        self, deployment: Deployment, asked: Asked, lookup: Lookup, on_answer: OnAnswer, on_chunk: OnChunk | None, arrived: float
    ) -> None:
        super().__init__(deployment, asked, lookup, on_answer, on_chunk)
        self._arrived = arrived
        self._body_at = time.monotonic()
        #: By node: its calls with the number of the attempt.
        self._calls: defaultdict[str, list[tuple[CallNote, int]]] = defaultdict(list)

    def trace(self, status: int) -> Trace:
        """What the run has done.

        Args:
            status: Of the answer.

        Returns:
            The trace so far.
        """
        plan = self._deployment.plan
        nodes = tuple(
            self._node(entry, ", ".join(callee.name for callee in step.callees))
            for entry, step in zip(self.timeline, plan.steps, strict=True)
        )
        return Trace(
            request_id=self._asked.request_id,
            workflow=self._deployment.name,
            version=self._deployment.version,
            status=status,
            body_ms=self._ms(self._body_at),
            total_ms=self._ms(time.monotonic()),
            nodes=nodes,
        )

    def _pool(self, call: StartCall) -> tuple[Any, str]:
        pool, callee = super()._pool(call)
        note = CallNote()
        self._calls[call.step].append((note, self._run.attempt(call.call_id) + 1))
        return _NotedPool(pool, note), callee

    def _node(self, entry: StepTime, callee: str) -> NodeTrace:
        calls = [self._call(note, attempt) for note, attempt in self._calls.get(entry.name, ())]
        last = calls[-1] if calls else CallTrace(start_ms=0)
        return NodeTrace(
            name=entry.name,
            status=entry.state,
            callee=callee,
            start_ms=None if entry.started is None else self._ms(entry.started),
            end_ms=None if entry.ended is None else self._ms(entry.ended),
            attempts=max((call.attempt for call in calls), default=0),
            queue_ms=last.queue_ms,
            transfer_ms=last.transfer_ms,
            compute_ms=last.compute_ms,
            batch_size=last.batch_size,
            worker=last.worker,
            device=last.device,
            call_count=len(calls),
            calls=tuple(calls[:MAX_CALLS]) if len(calls) > 1 else (),
        )

    def _call(self, note: CallNote, attempt: int) -> CallTrace:
        submitted = note.submitted or self._arrived
        if note.dispatched is None:
            return CallTrace(start_ms=self._ms(submitted), attempt=attempt)
        queue_ms = round((note.dispatched - submitted) * 1000, 3)
        if note.received is None:
            return CallTrace(
                start_ms=self._ms(submitted),
                attempt=attempt,
                queue_ms=queue_ms,
                batch_size=note.batch_size,
                worker=note.worker,
                device=note.device,
            )
        return CallTrace(
            start_ms=self._ms(submitted),
            end_ms=self._ms(note.received),
            attempt=attempt,
            queue_ms=queue_ms,
            transfer_ms=round(max(0.0, note.received - note.dispatched - note.compute_s) * 1000, 3),
            compute_ms=round(note.compute_s * 1000, 3),
            batch_size=note.batch_size,
            worker=note.worker,
            device=note.device,
        )

    def _ms(self, at: float) -> float:
        return round((at - self._arrived) * 1000, 3)


class _NotedPool:
    """A pool that writes down what becomes of one call."""

    __slots__ = ("_note", "_real", "spec")

    def __init__(self, pool: ModelPool, note: CallNote) -> None:
        self._real = pool
        self._note = note
        self.spec = pool.spec

    def submit(self, task: Task) -> Job:
        """As the pool's, noted."""
        return self._real.submit_noted(task, self._note)

    def cancel(self, job: Job) -> None:
        """As the pool's."""
        self._real.cancel(job)
