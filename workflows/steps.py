"""The steps of one run: the phase of each, who waits for whom, when each began and ended.

Steps run on demand, from `out` backwards: a step that nobody waits for is never started. `_waiting` counts the steps that one
still waits for; when it reaches zero the step is ready for its next phase.
"""

from __future__ import annotations

from collections import deque

from flowyard.workflows.instructions import StepTime
from flowyard.workflows.plan import Plan

# Phases of a step. In BRANCH it waits for the value of a chosen branch, in LAST for that of its `else` or `fallback`.
IDLE, WANTED, GUARDED, COLLECTING, CALLING, BRANCH, LAST, DONE, FAILED, CANCELLED = range(10)
_STATES = ("idle", "waiting", "waiting", "waiting", "running", "running", "running", "done", "failed", "cancelled")


class Steps:
    """What a run knows of its steps. `Run` is built on it; nothing here starts or ends a call."""

    __slots__ = ("_ended", "_notes", "_now", "_plan", "_ready", "_started", "_state", "_waiters", "_waiting")

    def __init__(self, plan: Plan) -> None:
        """Begins with every step idle.

        Args:
            plan: The workflow.
        """
        count = len(plan.steps)
        self._plan = plan
        self._now = 0.0
        self._state = bytearray(count)
        self._waiting = [0] * count
        self._waiters: list[list[int] | None] = [None] * count
        self._started: list[float | None] = [None] * count
        self._ended: list[float | None] = [None] * count
        #: By step: how it came to be done.
        self._notes: dict[int, str] = {}
        self._ready: deque[int] = deque()

    @property
    def timeline(self) -> tuple[StepTime, ...]:
        """What every step of the plan has done so far."""
        return tuple(
            StepTime(step.name, self._started[at], self._ended[at], self._description(at))
            for at, step in enumerate(self._plan.steps)
        )

    def _description(self, step: int) -> str:
        phase = self._state[step]
        return self._notes.get(step, "done") if phase == DONE else _STATES[phase]

    def _want(self, step: int) -> None:
        if self._state[step] == IDLE:
            self._state[step] = WANTED
            self._ready.append(step)

    def _wait(self, step: int, deps: tuple[int, ...]) -> bool:
        """Makes a step wait for others; returns whether all are there already."""
        missing = 0
        for dep in deps:
            if self._state[dep] == DONE:
                continue
            missing += 1
            waiters = self._waiters[dep]
            if waiters is None:
                self._waiters[dep] = [step]
            else:
                waiters.append(step)
            self._want(dep)
        self._waiting[step] = missing
        return not missing

    def _stop_waiting(self, step: int) -> None:
        for waiters in self._waiters:
            if waiters is not None and step in waiters:
                waiters[:] = [waiter for waiter in waiters if waiter != step]
        self._waiting[step] = 0

    def _end_as(self, step: int, phase: int) -> None:
        self._state[step] = phase
        self._ended[step] = self._now

    def _cancel_steps(self) -> None:
        """Ends all steps that have begun and are not done."""
        self._ready.clear()
        for step, phase in enumerate(self._state):
            if IDLE < phase < DONE:
                self._end_as(step, CANCELLED)
