"""Which steps are fused, and how a run goes that has some."""

from __future__ import annotations

from typing import Any

import pytest

from flowyard.schemas.errors import NodeError, WorkerDiedError
from flowyard.schemas.payload import Payload
from flowyard.workflows.check import compile_workflow
from flowyard.workflows.fusing import Fused, fuse
from flowyard.workflows.instructions import Answer, AnswerError, CancelCall, StartCall
from flowyard.workflows.plan import Plan
from flowyard.workflows.run import Run

HEAD = "name: w\nmodels: {m: m.pt, n: n.pt, big: big.pt}\nfunctions: {f: s:f, g: s:g}\n"
DIGITS = "image: [f, in]\na: [m, image]\nb: [n, image]\nout: [merge, a, b]"


def planned(nodes: str, top: str = "") -> Plan:
    indented = "".join(f"  {line}\n" for line in nodes.splitlines())
    return compile_workflow(f"{HEAD}{top}workflow:\n{indented}".encode(), "w.yaml", None)


def fused_names(nodes: str, top: str = "") -> list[str]:
    plan = planned(nodes, top)
    fused = fuse(plan, {"m", "n"})
    return [plan.steps[step].name for step in fused.steps] if fused else []


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        (DIGITS, ["image", "a", "b"]),
        ("x: [f, in]\na: [m, x]\nb: [n, x]\nout: [ensemble, a, b, {value: vote}]", ["x", "a", "b", "out"]),
        ("x: [f, in]\nout: [ensemble, x, in]", []),
        ("x: [f, in]\na: [m, x]\nout: {call: [ensemble, x, a], fallback: x}", ["x", "a"]),
        ("out: [g, [m, [f, in]]]", ["out[1][1]", "out[1]", "out"]),
        ("a: [f, in]\nb: [f, in]\nout: [merge, a, b]", ["a", "b"]),
        # A model that is not small waits for its own worker; what needs its result comes later than the rest.
        ("x: [f, in]\na: [m, x]\nb: [big, x]\nc: [g, b]\nd: [m, c]\ne: [n, c]\nout: [merge, a, d, e]", ["c", "d", "e"]),
        # A path into a value is followed in the server.
        ("x: [f, in]\na: [m, x.image]\nb: [n, x.image]\nc: [g, x]\nout: [merge, a, b, c]", ["x", "c"]),
        # What may not be needed is not computed.
        ("x: [f, in]\ny: [f, x]\na: {call: [m, x], when: y}\nout: [merge, x, a]", ["x", "y"]),
        ("x: [f, in]\na: [m, x]\nout: [switch, in.k, {a: a, default: x}]", []),
        # What may be tried again, replaced, given up or remembered is called by itself.
        ("x: [f, in]\na: {call: [m, x], retries: 1}\nb: {call: [n, x], timeout: 1s}\nout: [merge, a, b]", []),
        ("x: [f, in]\na: {call: [m, x], fallback: [n, x]}\nb: {call: [n, x], cache: true}\nout: [merge, a, b]", []),
        ("out: {call: [m, [f, [g, in]]], timeout: 1s}", []),
        ("out: {call: [m, [f, [g, in]]], retries: 1}", ["out[1][1]", "out[1]"]),
        ("a: [m, in]\nb: [n, a]\nout: [merge, a, b]", ["a", "b"]),
        ("x: [f, in]\nout: [id, x]", []),
        ("out: [map, f, [g, in]]", []),
    ],
)
def test_fused_are_plain_calls_that_every_run_needs_at_the_same_moment(nodes: str, names: list[str]) -> None:
    assert fused_names(nodes) == names


def test_functions_are_computed_by_their_own_workers_and_models_alone_by_those_of_the_first() -> None:
    for nodes, host in ((DIGITS, ""), ("a: [n, in]\nout: [m, a]", "n"), ("a: [n, in]\nout: [f, a]", "")):
        fused = fuse(planned(nodes), {"m", "n"})
        assert fused is not None
        assert fused.host == host


def test_nothing_is_fused_where_failures_are_passed_on() -> None:
    assert fused_names(DIGITS, "on_error: pass\n") == []


def test_what_comes_from_outside_is_brought_along_once_and_what_is_wanted_outside_given_back() -> None:
    plan = planned("x: [f, in]\ny: [g, in, x, in.query.q, {value: 1}]\na: [m, y]\nout: [merge, x, a]")
    fused = fuse(plan, {"m"})
    assert fused is not None
    assert [plan.steps[step].name for step in fused.steps] == ["x", "y", "a"]
    assert fused.args == ((-1,), (-1, 0, -2, -3), (1,))
    assert len(fused.operands) == 3
    assert fused.given == (0, 2)


class Running:
    """A run whose fused steps are computed in one call."""

    def __init__(self, nodes: str, body: Any = None) -> None:
        self.plan = planned(nodes)
        fused = fuse(self.plan, {"m", "n"})
        assert fused is not None
        self.fused: Fused = fused
        self.run = Run(self.plan, Payload.of(body), {}, {}, None, None, fused)

    def states(self) -> dict[str, str]:
        return {time.name: time.state for time in self.run.timeline}


def test_one_call_takes_the_place_of_several_and_each_has_its_own_time() -> None:
    running = Running(DIGITS, "png")
    (call,) = running.run.start(1.0)
    assert isinstance(call, StartCall)
    assert (call.kind, call.step, [arg.value() for arg in call.args]) == ("fused", "image", ["png"])
    (answer,) = running.run.fused_done(call.call_id, [Payload.of([1.0]), Payload.of([3.0])], [1.5, 2.0, 2.5], 3.0)
    assert isinstance(answer, Answer)
    assert answer.payload.value() == [1.0, 3.0]
    times = {time.name: (time.started, time.ended) for time in running.run.timeline}
    assert times == {"image": (1.0, 1.5), "a": (1.5, 2.0), "b": (1.5, 2.5), "out": (3.0, 3.0)}


@pytest.mark.parametrize("ends", [[], [0.0, -1.0, float("nan")], [9.0, 9.0, 9.0], [float("inf")]])
def test_times_that_cannot_be_are_not_believed(ends: list[float]) -> None:
    running = Running(DIGITS)
    (call,) = running.run.start(1.0)
    assert isinstance(call, StartCall)
    running.run.fused_done(call.call_id, [Payload.of(1.0), Payload.of(3.0)], ends, 3.0)
    assert all(time.started is not None and time.ended in (1.0, 3.0) for time in running.run.timeline)


def test_the_answer_may_be_fused_too() -> None:
    running = Running("out: [g, [m, [f, in]]]")
    (call,) = running.run.start(0.0)
    assert isinstance(call, StartCall)
    (answer,) = running.run.fused_done(call.call_id, [Payload.of("yes")], [], 1.0)
    assert isinstance(answer, Answer)
    assert set(running.states().values()) == {"done"}


def test_a_failure_is_that_of_the_node_that_failed() -> None:
    running = Running(DIGITS)
    (call,) = running.run.start(0.0)
    assert isinstance(call, StartCall)
    error = NodeError("ValueError: no")
    error.fused_node = 1
    (answer,) = running.run.failed(call.call_id, error, 1.0)
    assert isinstance(answer, AnswerError)
    assert answer.error.message == 'node "a": ValueError: no'
    assert running.states()["a"] == "failed"


def test_a_failure_of_no_node_ends_the_run_and_an_unknown_node_is_the_first() -> None:
    for error, node in ((WorkerDiedError("gone"), -1), (NodeError("x"), 99)):
        running = Running(DIGITS)
        (call,) = running.run.start(0.0)
        assert isinstance(call, StartCall)
        error.fused_node = node
        (answer,) = running.run.failed(call.call_id, error, 1.0)
        assert isinstance(answer, AnswerError)
        assert running.states()["image"] == "failed"


def test_when_the_call_is_refused_every_node_is_called_by_itself() -> None:
    running = Running("a: [f, in]\nb: [g, in]\nc: [m, a]\nout: [merge, b, c]", 1)
    (call,) = running.run.start(0.0)
    assert isinstance(call, StartCall)
    calls = running.run.fused_refused(call.call_id, 1.0)
    assert [(one.step, one.kind) for one in calls if isinstance(one, StartCall)] == [("a", "function"), ("b", "function")]
    assert running.run.fused_refused(call.call_id, 1.0) == []


def test_when_something_from_outside_is_late_every_node_is_called_by_itself() -> None:
    nodes = "b: [big, in]\nx: [f, in]\ns: [g, b]\nt: [f, s, x]\nout: [id, t]"
    for order, kind in (("xb", "fused"), ("bx", "function")):
        running = Running(nodes)
        assert [running.plan.steps[step].name for step in running.fused.steps] == ["s", "t"]
        calls = {one.step: one.call_id for one in running.run.start(0.0) if isinstance(one, StartCall)}
        started: list[Any] = []
        for name in order:
            started += running.run.done(calls[name], Payload.of(1), 1.0)
        assert [(one.step, one.kind) for one in started] == [("s", kind)]


def test_a_cancelled_run_takes_the_call_back() -> None:
    running = Running(DIGITS)
    (call,) = running.run.start(0.0)
    assert isinstance(call, StartCall)
    assert running.run.cancel() == [CancelCall(call.call_id)]
    assert running.run.fused_done(call.call_id, [Payload.of(1.0), Payload.of(1.0)], [], 1.0) == []
    assert running.run.fused_refused(call.call_id, 1.0) == []
