"""Random workflows and random orders of events: what must hold for every run."""

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowyard.schemas.errors import NodeError, WorkerDiedError
from flowyard.schemas.payload import Payload
from flowyard.workflows.cache import NodeCache, key_of, make_caches
from flowyard.workflows.check import compile_workflow
from flowyard.workflows.fusing import Fused, fuse
from flowyard.workflows.instructions import Answer, AnswerError, CancelCall, Instruction, StartCall
from flowyard.workflows.plan import CALL, FROM_STEP, Plan
from flowyard.workflows.run import Run

HEAD = "name: w\nmodels: {m: m.pt}\nfunctions: {f: s:f}\nworkflow:\n"


@st.composite
def workflows(draw: st.DrawFn) -> str:
    """A file whose nodes take from the request and from nodes before them, written in any order."""
    count = draw(st.integers(1, 8))
    lines = []
    for at in range(count):
        reference = st.sampled_from(["in", *(f"n{before}" for before in range(at))])
        args = draw(st.lists(reference, min_size=1, max_size=3))
        if at == count - 1:
            args.append("in")
        lines.append(f"  {'out' if at == count - 1 else f'n{at}'}: {draw(expressions(args, reference))}\n")
    return HEAD + "".join(draw(st.permutations(lines)))


@st.composite
def expressions(draw: st.DrawFn, args: list[str], reference: st.SearchStrategy[str]) -> str:
    listed = ", ".join(args)
    call = draw(st.sampled_from([f"[m, {listed}]", f"[f, {listed}]", f"[id, {args[-1]}]", f"[m, [f, {listed}], [m, in]]",
                                 f"[m, {listed}, [f, in]]",
                                 f"[switch, {args[0]}, {{'1': {args[-1]}, default: [f, {args[0]}]}}]",
                                 f"[map, m, {args[-1]}]", f"[{{workflow: v}}, {args[-1]}]", f"[map, {{workflow: v}}, {args[-1]}]",
                                 f"[functionsApply, [m, f], {args[-1]}]"]))  # fmt: skip
    if not draw(st.booleans()):
        return call
    options = [f"call: {call}"]
    if draw(st.booleans()):
        options += [f'when: "{draw(reference)}"'] + ([f"else: {draw(reference)}"] if draw(st.booleans()) else [])
    if draw(st.booleans()):
        options.append(f"fallback: {draw(st.sampled_from([args[0], '[m, in]', f'[f, {listed}]', '{value: 0}']))}")
    if draw(st.booleans()):
        options.append("cache: true")
    options += [f"retries: {draw(st.integers(0, 2))}", f"timeout: {draw(st.sampled_from(['1s', '3s']))}"]
    return "{" + ", ".join(options) + "}"


class Watched:
    """Applies random events to a run and checks what it instructs."""

    def __init__(self, plan: Plan, deadline: float | None, caches: dict[int, NodeCache]) -> None:
        self.plan = plan
        self.caches = caches
        self.run = Run(plan, Payload.of([1, 0]), {}, {}, deadline, caches)
        self.open: dict[int, StartCall] = {}
        self.closed: list[int] = []
        self.answers = 0
        self.ended: dict[str, float | None] = {}

    def take(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, StartCall):
                assert not self.answers
                assert instruction.call_id not in self.open
                assert instruction.call_id not in self.closed
                self._check_inputs(instruction)
                self.open[instruction.call_id] = instruction
            elif isinstance(instruction, CancelCall):
                del self.open[instruction.call_id]
                self.closed.append(instruction.call_id)
            elif isinstance(instruction, (Answer, AnswerError)):
                self.answers += 1
        self._check_ends()
        if self.answers:
            assert self.run.finished
            assert not self.open

    def _check_inputs(self, call: StartCall) -> None:
        step = next(step for step in self.plan.steps if step.name == call.step)
        times = self.run.timeline
        assert all(times[operand[1]].ended is not None for operand in step.args if operand[0] == FROM_STEP)
        cache = self.caches.get(self.plan.steps.index(step))
        if cache is not None and step.kind == CALL:
            assert cache.get(key_of(call.args), 0.0) is None, "a call whose result is known"

    def _check_ends(self) -> None:
        """A step ends at most once: what has ended stays as it is."""
        for time in self.run.timeline:
            if self.ended.get(time.name) is not None:
                assert self.ended[time.name] == time.ended
            self.ended[time.name] = time.ended

    def event(self, data: st.DataObject, now: float) -> None:
        kind = data.draw(st.sampled_from(["done", "done", "done", "bug", "died", "tick", "late"]))
        if kind == "tick":
            self.take(self.run.tick(now))
        elif kind == "late" and self.closed:
            assert self.run.done(data.draw(st.sampled_from(self.closed)), Payload.of(1), now) == []
        elif self.open:
            call_id = data.draw(st.sampled_from(sorted(self.open)))
            del self.open[call_id]
            self.closed.append(call_id)
            self.take(self._end(kind, call_id, data, now))

    def _end(self, kind: str, call_id: int, data: st.DataObject, now: float) -> list[Instruction]:
        if kind in ("bug", "died"):
            return self.run.failed(call_id, NodeError("bug") if kind == "bug" else WorkerDiedError("died"), now)
        value: Any = data.draw(st.sampled_from([[1], [], 1, "1", None, [2, 3]]))
        return self.run.done(call_id, Payload.of(value), now)


@pytest.mark.timeout(600)  # so many runs that a busy machine takes minutes
@settings(max_examples=400, deadline=None)
@given(text=workflows(), data=st.data())
def test_every_run_ends_with_one_answer_and_nothing_running(text: str, data: st.DataObject) -> None:
    plan = compile_workflow(text.encode(), "w.yaml", None)
    caches = make_caches(plan)
    for _ in range(2):
        one_run(Watched(plan, data.draw(st.sampled_from([None, 5.0])), caches), data)


def one_run(watched: Watched, data: st.DataObject) -> None:
    watched.take(watched.run.start(0.0))
    now = 0.0
    for _ in range(200):
        if watched.run.finished:
            break
        assert watched.open, "a run that waits for nothing"
        now += data.draw(st.sampled_from([0.0, 0.1, 1.0]))
        watched.event(data, now)
    else:
        now += 1.0
        while not watched.run.finished:
            watched.take(watched.run.done(next(iter(watched.open)), Payload.of(None), now) if watched.open else [])
    assert watched.answers == 1
    for call_id in watched.closed:
        assert watched.run.done(call_id, Payload.of(1), now) == []
    assert watched.run.tick(now + 100) == []


@settings(max_examples=100, deadline=None)
@given(text=workflows())
def test_the_order_of_the_file_means_nothing(text: str) -> None:
    head, _, nodes = text.partition("workflow:\n")
    lines = sorted(nodes.splitlines(keepends=True))
    plans = [compile_workflow((head + "workflow:\n" + "".join(order)).encode(), "w", None) for order in (lines, lines[::-1])]
    assert {step.name: step.retries for step in plans[0].steps} == {step.name: step.retries for step in plans[1].steps}


@settings(max_examples=100, deadline=None)
@given(text=workflows())
def test_a_step_comes_after_those_it_takes_a_value_from(text: str) -> None:
    plan = compile_workflow(text.encode(), "w", None)
    for at, step in enumerate(plan.steps):
        assert all(dep < at for dep in step.deps)


def _answer(plan: Plan, fused: Fused | None, data: st.DataObject) -> Any:
    """The answer of a run whose calls give what depends on nothing but callee and arguments; `None` when it fails."""
    run = Run(plan, Payload.of([1, 0]), {}, {}, None, None, fused)
    left = run.start(0.0)
    opened: list[StartCall] = []
    while True:
        for instruction in left:
            if isinstance(instruction, (Answer, AnswerError)):
                return instruction.payload.value() if isinstance(instruction, Answer) else None
            if isinstance(instruction, StartCall):
                opened.append(instruction)
            elif isinstance(instruction, CancelCall):
                opened = [call for call in opened if call.call_id != instruction.call_id]
        call = opened.pop(data.draw(st.integers(0, len(opened) - 1)))
        args = [arg.value() for arg in call.args]
        if call.kind == "fused":
            assert fused is not None
            left = _computed_together(run, plan, fused, call, args)
        else:
            result = _result(call.callee, args)
            left = run.failed(call.call_id, result, 0.0) if isinstance(result, NodeError) else run.done(call.call_id, result, 0.0)


def _computed_together(run: Run, plan: Plan, fused: Fused, call: StartCall, args: list[Any]) -> list[Instruction]:
    results: list[Payload] = []
    for place, step in enumerate(fused.steps):
        own = [results[source].value() if source >= 0 else args[-1 - source] for source in fused.args[place]]
        result = _result(plan.steps[step].callees[0].name, own)
        if isinstance(result, NodeError):
            result.fused_node = place
            return run.failed(call.call_id, result, 0.0)
        results.append(result)
    return run.fused_done(call.call_id, [results[place] for place in fused.given], [], 0.0)


def _result(callee: str, args: list[Any]) -> Payload | NodeError:
    seen = zlib.crc32(repr((callee, args)).encode())
    return NodeError("bug") if seen % 11 == 0 else Payload.of([seen % 7, seen % 3])


@settings(max_examples=300, deadline=None)
@given(text=workflows(), data=st.data())
def test_fused_or_not_a_run_gives_the_same_answer(text: str, data: st.DataObject) -> None:
    plan = compile_workflow(text.encode(), "w.yaml", None)
    fused = fuse(plan, {"m"})
    if fused is not None:
        assert _answer(plan, fused, data) == _answer(plan, None, data)
