"""The pure core of a run: events in, instructions out; no clock, no event loop, no input or output.

A run takes each step of its plan through the phases that `steps` lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from flowyard.schemas.errors import DeadlineError, FlowyardError, InvalidInputError, NodeError
from flowyard.schemas.fusion import FUSED
from flowyard.schemas.payload import Payload
from flowyard.workflows import paths
from flowyard.workflows.cache import NodeCache, RunCache
from flowyard.workflows.execution import Fan, Inputs, branch_name, call_built_in, jobs_of, named
from flowyard.workflows.fusing import Fused
from flowyard.workflows.instructions import Answer, AnswerError, CancelCall, Instruction, StartCall, WakeAt
from flowyard.workflows.plan import (
    BUILT_IN,
    CALL,
    FROM_STEP,
    HAND_ON,
    SWITCH,
    Callee,
    CalleeKind,
    Guard,
    Operand,
    Plan,
    Step,
)
from flowyard.workflows.steps import BRANCH, CALLING, CANCELLED, COLLECTING, DONE, FAILED, GUARDED, IDLE, LAST, WANTED, Steps

_NULL = Payload.of(None)


class Run(Steps):
    """The state of one run of a plan.

    Every method that takes an event returns what is to be done about it. Exactly one `Answer` or `AnswerError` is among all
    instructions of a run that is not cancelled; no call is left running after it.

    Attributes:
        finished: Whether the answer has been given, or the run has been cancelled.
    """

    __slots__ = (
        "_cache", "_calls", "_chosen", "_deadline", "_fans", "_fused", "_fused_call", "_inputs", "_instructions", "_next_id",
        "_timers", "_wake", "finished",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan,
        request: Payload,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        deadline: float | None,
        caches: Mapping[int, NodeCache] | None = None,
        fused: Fused | None = None,
    ) -> None:
        """Prepares a run.

        Args:
            plan: The workflow.
            request: The body of the request.
            headers: Its headers, names in any case.
            query: Its query parameters.
            deadline: When the client gives up, on the clock that every `now` is read from.
            caches: From `make_caches(plan)`, the same for every run of the plan; without, no result is kept.
            fused: Steps of the plan that are to be computed in one call.
        """
        super().__init__(plan)
        self._inputs = Inputs(request, headers, query, len(plan.steps))
        self._cache = RunCache(caches) if caches else None
        self._deadline = inf if deadline is None else deadline
        #: By step: the operand awaited in BRANCH and LAST; the calls of MAP and APPLY.
        self._chosen: dict[int, Operand] = {}
        self._fans: dict[int, Fan] = {}
        #: By call: its step, its slot among the calls of the step, its attempt.
        self._calls: dict[int, tuple[int, int, int]] = {}
        self._timers: dict[int, float] = {}
        self._instructions: list[Instruction] = []
        self._next_id = 0
        self._fused = fused
        #: The call of the fused steps, 0 before it.
        self._fused_call = 0
        self._wake = inf
        self.finished = False

    # Events.

    def start(self, now: float) -> list[Instruction]:
        """Begins the run.

        Args:
            now: The time.

        Returns:
            Instructions, in order.
        """
        if self.finished:
            return []
        if self._plan.timeout_s is not None:
            self._deadline = min(self._deadline, now + self._plan.timeout_s)
        if not self._begin(now):
            return self._taken()
        self._wake_at(self._deadline)
        self._want(self._plan.out)
        return self._settle()

    def done(self, call_id: int, value: Payload, now: float) -> list[Instruction]:
        """A call has given its result.

        Args:
            call_id: The call; one that is not open any more is ignored.
            value: The result.
            now: The time.

        Returns:
            Instructions, in order.
        """
        call = self._closed(call_id)
        if call is None or not self._begin(now):
            return self._taken()
        step, slot, _ = call
        if self._plan.steps[step].kind == CALL:
            if self._cache is not None:
                self._cache.keep(step, value, now)
            self._finish(step, value)
        else:
            self._take_result(step, slot, value)
        return self._settle()

    def failed(self, call_id: int, error: FlowyardError, now: float) -> list[Instruction]:
        """A call has failed; arguments and result as for `done`."""
        call = self._closed(call_id)
        if call is None or not self._begin(now):
            return self._taken()
        step, slot, attempt = call
        fused = self._fused.steps if self._fused is not None and call_id == self._fused_call else ()
        if 0 <= error.fused_node < len(fused):
            self._fail(fused[error.fused_node], error)
        elif self._may_retry(error) and attempt < self._plan.steps[step].retries:
            self._restart(step, slot, attempt + 1)
        else:
            self._fail(step, error)
        return self._settle()

    def fused_done(self, call_id: int, results: Sequence[Payload], ends: Sequence[float], now: float) -> list[Instruction]:
        """The call of the fused steps has given its results.

        Args:
            call_id: The call; one that is not open any more is ignored.
            results: One for each of `Fused.given`.
            ends: When each of the fused steps ended, as far as that is known; on the clock of `now`.
            now: The time.

        Returns:
            Instructions, in order.
        """
        fused = self._fused
        if self._closed(call_id) is None or fused is None or not self._begin(now):
            return self._taken()
        given = dict(zip(fused.given, results, strict=True))
        for step in fused.steps:
            # None of them waits for another of them any more.
            self._state[step] = DONE
        for place, step in enumerate(fused.steps):
            began = self._started[step]
            if began is None:
                began = max([self._ended[dep] or 0.0 for dep in self._plan.steps[step].deps], default=now)
                self._started[step] = began
            # A worker's own words, which may be anything.
            ended = ends[place] if place < len(ends) else now
            self._now = ended if began <= ended <= now else now
            self._finish(step, given.get(place, _NULL))
        self._now = now
        return self._settle()

    def fused_refused(self, call_id: int, now: float) -> list[Instruction]:
        """Nothing of the call of the fused steps has been computed, and cannot be: they are called one by one."""
        fused = self._fused
        if self._closed(call_id) is None or fused is None or not self._begin(now):
            return self._taken()
        self._fused = None
        for step in fused.steps:
            if self._state[step] == CALLING:
                self._state[step] = COLLECTING
                self._ready.append(step)
        return self._settle()

    def _may_retry(self, error: FlowyardError) -> bool:
        """TorchServe tries a node again whatever went wrong (`retry-attempts`); elsewhere only what may go better then."""
        return error.retryable or (self._plan.spelling == "torchserve" and isinstance(error, NodeError))

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed: nodes past their timeout fail, and so does the run past its deadline.

        Args:
            now: The time.

        Returns:
            Instructions, in order.
        """
        if self.finished or not self._begin(now):
            return self._taken()
        for step in [step for step, at in self._timers.items() if at <= now]:
            if step in self._timers and not self.finished:
                self._time_out(step)
        self._wake = inf
        self._settle_ready()
        self._wake_at(min([self._deadline, *self._timers.values()]))
        return self._taken()

    def attempt(self, call_id: int) -> int:
        """Which attempt an open call is, 0 for the first."""
        call = self._calls.get(call_id)
        return 0 if call is None else call[2]

    def cancel(self) -> list[Instruction]:
        """Nobody wants the answer any more: open calls are cancelled, and no answer is given."""
        if not self.finished:
            self._end()
        return self._taken()

    # Around every event.

    def _begin(self, now: float) -> bool:
        """Notes the time; past the deadline the run ends here."""
        self._now = now
        if now < self._deadline:
            return True
        self._answer_error(DeadlineError("the request was not done in time"))
        return False

    def _closed(self, call_id: int) -> tuple[int, int, int] | None:
        """Forgets an open call that has ended."""
        return self._calls.pop(call_id, None)

    def _settle(self) -> list[Instruction]:
        self._settle_ready()
        return self._taken()

    def _settle_ready(self) -> None:
        ready = self._ready
        while ready:
            self._advance(ready.popleft())

    def _taken(self) -> list[Instruction]:
        taken, self._instructions = self._instructions, []
        return taken

    def _wake_at(self, at: float) -> None:
        if at < self._wake and not self.finished:
            self._wake = at
            self._instructions.append(WakeAt(at))

    # Phases.

    def _advance(self, step: int) -> None:
        """Takes a step that waits for nothing into its next phase."""
        phase = self._state[step]
        spec = self._plan.steps[step]
        try:
            if phase < COLLECTING:
                if spec.guard is not None and not self._passes(step, spec, phase):
                    return
                self._state[step] = phase = COLLECTING
                if not self._wait(step, spec.deps):
                    return
            if phase == COLLECTING:
                self._execute(step, spec)
            elif phase in (BRANCH, LAST):
                self._finish(step, self._inputs.payload(self._chosen[step]))
        except FlowyardError as error:
            self._fail(step, error)

    def _passes(self, step: int, spec: Step, phase: int) -> bool:
        """Whether the condition of a step is known and holds; where it does not hold, the step is skipped."""
        assert spec.guard is not None
        if phase == WANTED:
            self._state[step] = GUARDED
            if not self._wait(step, spec.guard.deps):
                return False
        if self._holds(spec.guard):
            return True
        self._skip(step, spec)
        return False

    def _holds(self, guard: Guard) -> bool:
        scope = {name: self._inputs.payload(operand).value() for name, operand in guard.names}
        return paths.is_true(paths.search(guard.path, scope))

    def _skip(self, step: int, spec: Step) -> None:
        self._notes[step] = "skipped"
        self._started[step] = self._now
        if spec.otherwise is None:
            self._finish(step, _NULL)
        else:
            self._substitute(step, spec.otherwise, LAST)

    def _substitute(self, step: int, operand: Operand, phase: int) -> None:
        """Makes a step yield the value of an operand."""
        self._state[step] = phase
        self._chosen[step] = operand
        if self._wait(step, (operand[1],) if operand[0] == FROM_STEP else ()):
            self._ready.append(step)

    # Executing.

    def _execute(self, step: int, spec: Step) -> None:
        """Does what a step is for, its arguments being there."""
        self._started[step] = self._now
        kind = spec.kind
        if kind == HAND_ON:
            self._finish(step, self._inputs.payload(spec.args[0]))
        elif kind == BUILT_IN:
            function = spec.callees[0].function
            assert function is not None
            self._finish(step, call_built_in(function, [self._inputs.payload(operand) for operand in spec.args]))
        elif self._cache is None or spec.cache is None or not self._recall(step, spec, self._cache):
            self._set_timer(step, spec)
            if kind == CALL:
                self._state[step] = CALLING
                if self._fused is None or step not in self._fused.steps or not self._call_fused(step, self._fused):
                    self._call(step, spec.callees[0], tuple([self._inputs.payload(operand) for operand in spec.args]), 0, 0)
            elif kind == SWITCH:
                self._choose(step, spec)
            else:
                self._call_several(step, spec)

    def _recall(self, step: int, spec: Step, cache: RunCache) -> bool:
        """Takes the result of a step from the cache, if it is there."""
        found = cache.find(step, tuple(self._inputs.payload(operand) for operand in spec.args), self._now)
        if found is None:
            return False
        self._notes[step] = "cached"
        self._finish(step, found)
        return True

    def _set_timer(self, step: int, spec: Step) -> None:
        if spec.timeout_s is not None:
            at = self._now + spec.timeout_s
            self._timers[step] = at
            self._wake_at(at)

    def _call(self, step: int, callee: Callee, args: tuple[Payload, ...], slot: int, attempt: int) -> None:
        self._next_id = call_id = self._next_id + 1
        self._calls[call_id] = (step, slot, attempt)
        at = min(self._deadline, self._timers.get(step, inf))
        name = self._plan.steps[step].name
        kind: CalleeKind = callee.kind  # type: ignore[assignment]  # a built-in is never called outside
        self._instructions.append(StartCall(call_id, name, kind, callee.name, args, None if at == inf else at))

    def _call_fused(self, step: int, fused: Fused) -> bool:
        """Sees to it that the fused steps are called; false where one of them still lacks what comes from outside."""
        if self._fused_call:
            return True
        values = self._inputs.values
        if any(kind == FROM_STEP and values[target] is None for kind, target, _ in fused.operands):
            self._fused = None
            return False
        args = tuple([self._inputs.payload(operand) for operand in fused.operands])
        self._next_id = self._fused_call = call_id = self._next_id + 1
        self._calls[call_id] = (step, 0, 0)
        at = None if self._deadline == inf else self._deadline
        self._instructions.append(StartCall(call_id, self._plan.steps[step].name, "fused", FUSED, args, at))
        return True

    def _choose(self, step: int, spec: Step) -> None:
        name = branch_name(self._inputs.payload(spec.args[0]).value())
        branch = spec.branches.get(name) or spec.branches.get("default")
        if branch is None:
            raise InvalidInputError(f'no branch "{name[:80]}" and no default')
        self._substitute(step, branch, BRANCH)

    def _call_several(self, step: int, spec: Step) -> None:
        self._state[step] = CALLING
        jobs = jobs_of(spec, self._inputs.payload(spec.args[0]))
        fan = self._fans[step] = Fan(jobs)
        outside = []
        for slot, (callee, arg) in enumerate(jobs):
            if callee.function is None:
                outside.append(slot)
            else:
                fan.results[slot] = call_built_in(callee.function, [arg]).value()
        fan.left = len(outside)
        for slot in outside:
            callee, arg = jobs[slot]
            self._call(step, callee, (arg,), slot, 0)
        if not outside:
            self._finish(step, Payload.of(fan.results))

    def _take_result(self, step: int, slot: int, value: Payload) -> None:
        fan = self._fans[step]
        try:
            fan.results[slot] = value.value()
        except FlowyardError as error:
            self._fail(step, error)
            return
        fan.left -= 1
        if not fan.left:
            results = Payload.of(fan.results)
            if self._cache is not None:
                self._cache.keep(step, results, self._now)
            self._finish(step, results)

    def _restart(self, step: int, slot: int, attempt: int) -> None:
        spec = self._plan.steps[step]
        if spec.kind == CALL:
            self._set_timer(step, spec)
            self._call(step, spec.callees[0], tuple(self._inputs.payload(operand) for operand in spec.args), slot, attempt)
        else:
            callee, arg = self._fans[step].jobs[slot]
            self._call(step, callee, (arg,), slot, attempt)

    # Ending.

    def _finish(self, step: int, value: Payload) -> None:
        self._inputs.values[step] = value
        self._state[step] = DONE
        self._ended[step] = self._now
        if self._timers:
            self._timers.pop(step, None)
        if step == self._plan.out:
            self._instructions_for_end(Answer(value))
            return
        waiters = self._waiters[step]
        if waiters is not None:
            self._waiters[step] = None
            waiting, state = self._waiting, self._state
            for waiter in waiters:
                waiting[waiter] -= 1
                if not waiting[waiter] and state[waiter] < DONE:
                    self._ready.append(waiter)

    def _time_out(self, step: int) -> None:
        """An attempt has taken too long: it is tried again, or the step has failed."""
        spec = self._plan.steps[step]
        calls = [call for call in self._calls.values() if call[0] == step]
        if calls and all(attempt < spec.retries for _, _, attempt in calls):
            self._drop_calls(step)
            self._set_timer(step, spec)
            for _, slot, attempt in calls:
                self._restart(step, slot, attempt + 1)
        else:
            self._fail(step, DeadlineError(f'node "{spec.name}": not done in {spec.timeout_s:g} s', spec.name))

    def _fail(self, step: int, error: FlowyardError) -> None:
        """A step has failed: a substitute takes its place, or the call it is nested in fails, or the run does."""
        error = named(error, self._plan.steps[step].name)
        while True:
            spec = self._plan.steps[step]
            caught = self._state[step] < LAST
            self._leave(step)
            if caught and self._recover(step, spec, error):
                return
            self._end_as(step, FAILED)
            if spec.parent < 0:
                self._answer_error(error)
                return
            step = spec.parent

    def _recover(self, step: int, spec: Step, error: FlowyardError) -> bool:
        substitute = spec.fallback if spec.fallback is not None else spec.otherwise
        if substitute is not None:
            self._notes[step] = "fallback"
            self._substitute(step, substitute, LAST)
            return True
        if not self._plan.pass_errors or step == self._plan.out or not isinstance(error, NodeError):
            return False
        if not spec.callees or spec.callees[0].kind != "model":
            return False
        self._notes[step] = "failed"
        self._finish(step, Payload.of({"code": 424, "message": error.message}))
        return True

    def _leave(self, step: int) -> None:
        """Drops everything that a step has started or waits for, calls nested in it included."""
        self._drop_calls(step)
        self._timers.pop(step, None)
        self._stop_waiting(step)
        for child in self._plan.steps[step].children:
            if IDLE < self._state[child] < DONE:
                self._leave(child)
                self._end_as(child, CANCELLED)

    def _drop_calls(self, step: int) -> None:
        for call_id in [call_id for call_id, call in self._calls.items() if call[0] == step]:
            del self._calls[call_id]
            self._instructions.append(CancelCall(call_id))

    def _answer_error(self, error: FlowyardError) -> None:
        self._instructions_for_end(AnswerError(error))

    def _instructions_for_end(self, answer: Instruction) -> None:
        self._end()
        self._instructions.append(answer)

    def _end(self) -> None:
        """Cancels what is still running; nothing happens after this."""
        self.finished = True
        if self._calls:
            self._instructions.extend([CancelCall(call_id) for call_id in self._calls])
            self._calls.clear()
        self._timers.clear()
        self._cancel_steps()
