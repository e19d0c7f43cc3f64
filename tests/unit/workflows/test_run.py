"""The run core: events in, instructions out."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from flowyard.schemas.errors import DeadlineError, InvalidInputError, NodeError, QueueFullError, WorkerDiedError
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Encoded
from flowyard.workflows.instructions import Answer, StartCall
from flowyard.workflows.plan import single_model_plan
from flowyard.workflows.run import Run

Drive = Callable[..., Any]
DIGITS = """
image: [f, in]
a: [m, image]
b: [n, image]
scores: [ensemble, a, b]
out: [g, scores]
"""


def test_independent_nodes_start_at_once_and_the_rest_when_its_inputs_exist(drive: Drive) -> None:
    run = drive(DIGITS, "png")
    assert run.start() == [("image:f", "png")]
    assert run.done("image:f", 7) == [("a:m", 7), ("b:n", 7)]
    assert run.done("b:n", 1.0) == []
    assert run.done("a:m", 3.0) == [("out:g", 2.0)]
    assert run.done("out:g", "two") == [{"answer": "two"}]
    assert run.run.finished
    assert set(run.states().values()) == {"done"}


def test_only_what_out_needs_is_run(drive: Drive) -> None:
    run = drive("extra: [m, in]\nout: [f, in]", 1)
    assert run.start() == [("out:f", 1)]


def test_a_failed_node_fails_the_run_and_cancels_the_others(drive: Drive) -> None:
    run = drive(DIGITS)
    run.start()
    run.done("image:f")
    assert run.fail("a:m", NodeError("ValueError: bad")) == ["cancel b:n", {"error": 'NodeError: node "a": ValueError: bad'}]
    assert run.states() == {"image": "done", "a": "failed", "b": "cancelled", "scores": "cancelled", "out": "cancelled"}


def test_an_error_keeps_its_class_and_a_node_error_knows_its_node(drive: Drive) -> None:
    run = drive("out: [m, [f, in]]")
    run.start()
    assert run.fail("out[1]:f", QueueFullError("full")) == [{"error": "QueueFullError: full"}]
    run = drive("out: [m, in]")
    run.start()
    assert run.fail("out:m", InvalidInputError("no")) == [{"error": 'InvalidInputError: node "out": no'}]
    assert Run(single_model_plan("m", ModelSpec(url="x")), Payload.of(1), {}, {}, None).start(0)[0].step == "m"  # type: ignore[union-attr]


def test_events_of_calls_that_are_over_are_ignored(drive: Drive) -> None:
    run = drive(DIGITS)
    run.start()
    run.done("image:f")
    late = run.open["b:n"].call_id
    run.fail("a:m", NodeError("x"))
    assert run.run.done(late, Payload.of(1), 1.0) == []
    assert run.run.failed(late, NodeError("y"), 1.0) == []
    assert run.run.failed(99, NodeError("y"), 1.0) == []
    assert run.tick(5.0) == []
    assert run.run.cancel() == []


def test_a_cancelled_run_cancels_its_calls_and_gives_no_answer(drive: Drive) -> None:
    run = drive("a: [m, in]\nb: [n, in]\nout: [merge, a, b]")
    run.start()
    late = run.open["a:m"].call_id
    assert run._short(run.run.cancel()) == ["cancel a:m", "cancel b:n"]
    assert run.run.finished
    assert run.run.done(late, Payload.of({}), 1.0) == []


def test_a_value_that_is_handed_on_is_not_decoded() -> None:
    payload = Payload.from_encoded(Encoded(b"\xc1 no msgpack"))
    run = Run(single_model_plan("m", ModelSpec(url="x")), payload, {}, {}, None)
    (call,) = run.start(0.0)
    assert isinstance(call, StartCall)
    assert call.args[0] is payload
    assert run.done(call.call_id, payload, 0.0) == [Answer(payload)]


def test_a_body_that_does_not_parse_fails_the_node_that_reads_it(drive: Drive) -> None:
    run = drive("out: [pick, in, {value: a}]", Payload.from_json(b"{"))
    (answer,) = run.start()
    assert answer["error"].startswith('InvalidInputError: node "out": the body is not valid JSON')


REFERENCES = [
    ("in.a.b[1]", 20),
    ("in.nothing.there", None),
    ("in.headers.X-Flag", "on"),
    ("in.headers.missing", None),
    ("in.query.q.r", "dotted"),
    ("in.tensor", [1.0, 2.0]),
    ("in.tensor[1]", 2.0),
    ("in.tensor[?@ > `1`]", [2.0]),
    ("in.max(tensor)", 2.0),
    ("a.x.y", "exact"),
]


@pytest.mark.parametrize(("reference", "expected"), REFERENCES)
def test_references_reach_into_the_request_and_into_nodes(drive: Drive, reference: str, expected: Any) -> None:
    body = {"a": {"b": [10, 20]}, "tensor": np.array([1.0, 2.0])}
    nodes = f"a: [id, in.a]\na.x.y: [id, {{value: exact}}]\nout: [f, '{reference}', in, a]"
    run = drive(nodes, body, headers={"x-flag": "on"}, query={"q.r": "dotted"})
    (call,) = run.start()
    value = call[1].tolist() if isinstance(call[1], np.ndarray) else call[1]
    assert value == expected


def test_header_names_are_found_in_any_case(drive: Drive) -> None:
    assert drive("out: [id, in.headers.x-Flag]", headers={"X-FLAG": "1"}).start() == [{"answer": "1"}]


def test_a_path_that_cannot_be_evaluated_fails_the_node_that_uses_it(drive: Drive) -> None:
    (answer,) = drive("out: [f, 'in.abs(a)']", {"a": "text"}).start()
    assert answer["error"].startswith('InvalidInputError: node "out": JMESPath: ')


CASCADE = """
a: [m, in]
out:
  call: [n, [f, in]]
  when: "a.sure < `0.6`"
  else: a
"""


def test_a_node_whose_condition_holds_is_called(drive: Drive) -> None:
    run = drive(CASCADE, 1)
    assert run.start() == [("a:m", 1)]
    assert run.done("a:m", {"sure": 0.5}) == [("out[1]:f", 1)]
    assert run.done("out[1]:f", 2) == [("out:n", 2)]
    assert run.done("out:n", 3) == [{"answer": 3}]


def test_a_node_whose_condition_does_not_hold_yields_its_else_and_runs_nothing(drive: Drive) -> None:
    run = drive(CASCADE, 1)
    run.start()
    assert run.done("a:m", {"sure": 0.7}) == [{"answer": {"sure": 0.7}}]
    assert run.states() == {"a": "done", "out[1]": "idle", "out": "skipped"}


def test_a_skipped_node_without_else_yields_null(drive: Drive) -> None:
    assert drive("out: {call: [m, in], when: in.go}", {"go": False}).start() == [{"answer": None}]


@pytest.mark.parametrize(
    ("when", "runs"), [("in.headers.debug == 'on'", True), ('in.query."n-o"', False), ("!(in.x) && in.y", True)]
)
def test_a_condition_may_name_the_request(drive: Drive, when: str, runs: bool) -> None:
    run = drive(f"out: {{call: [m, in], when: '{when.replace(chr(39), chr(39) * 2)}'}}", {"y": 1}, headers={"Debug": "on"})
    assert (run.start() == [("out:m", {"y": 1})]) is runs


def test_else_may_be_a_call_that_runs_only_when_needed(drive: Drive) -> None:
    run = drive("out: {call: [m, in], when: in.go, else: [n, [f, in]]}", {"go": []})
    assert run.start() == [("out[else][1]:f", {"go": []})]
    run.done("out[else][1]:f", 1)
    assert run.done("out[else]:n", 2) == [{"answer": 2}]


FALLBACK = "out: {call: [m, in], fallback: [n, in], timeout: 200ms, retries: 1}"


def test_retries_follow_failures_that_can_be_cured_then_the_fallback(drive: Drive) -> None:
    run = drive(FALLBACK, 1)
    assert run.start() == ["wake at 0.2", ("out:m", 1)]
    assert run.fail("out:m", WorkerDiedError("died"), 0.1) == [("out:m", 1)]
    assert run.open["out:m"].timeout_at == pytest.approx(0.3)
    assert run.fail("out:m", WorkerDiedError("died"), 0.15) == [("out[fallback]:n", 1)]
    assert run.done("out[fallback]:n", 5) == [{"answer": 5}]
    assert run.states()["out"] == "fallback"


def test_a_failure_that_no_retry_cures_goes_straight_to_the_fallback(drive: Drive) -> None:
    run = drive(FALLBACK, 1)
    run.start()
    assert run.fail("out:m", NodeError("bug")) == [("out[fallback]:n", 1)]
    assert run.fail("out[fallback]:n", NodeError("too")) == [{"error": 'NodeError: node "out[fallback]": too'}]


def test_a_node_past_its_timeout_has_failed_though_its_call_is_still_busy(drive: Drive) -> None:
    run = drive(FALLBACK, 1)
    run.start()
    assert run.tick(0.1) == ["wake at 0.2"]
    assert run.tick(0.2) == ["cancel out:m", ("out:m", 1), "wake at 0.4"]
    assert run.tick(0.5) == ["cancel out:m", ("out[fallback]:n", 1)]


def test_a_timeout_that_nothing_catches_names_the_node(drive: Drive) -> None:
    run = drive("a: {call: [m, in], timeout: 1s}\nout: [id, a]")
    run.start()
    assert run.tick(1.0) == ["cancel a:m", {"error": 'DeadlineError: node "a": not done in 1 s'}]


def test_a_failing_call_nested_in_a_node_is_caught_by_the_fallback_of_that_node(drive: Drive) -> None:
    run = drive("out: {call: [m, [f, in], [g, in]], fallback: in.x}", {"x": 1})
    run.start()
    assert run.fail("out[1]:f", NodeError("bad")) == ["cancel out[2]:g", {"answer": 1}]


def test_a_failing_node_is_not_caught_by_the_fallback_of_a_node_that_uses_it(drive: Drive) -> None:
    run = drive("a: [f, in]\nout: {call: [m, a], fallback: in}")
    run.start()
    assert run.fail("a:f", NodeError("bad")) == [{"error": 'NodeError: node "a": bad'}]


def test_a_node_that_fell_back_no_longer_waits_for_the_inputs_of_its_call(drive: Drive) -> None:
    run = drive("a: [n, in]\nout: {call: [m, a, [f, in]], fallback: [g, in]}", 1)
    run.start()
    assert run.fail("out[2]:f", NodeError("bad")) == [("out[fallback]:g", 1)]
    assert run.done("a:n", 2) == []
    assert run.done("out[fallback]:g", 3) == [{"answer": 3}]


def test_else_also_catches_a_failed_call(drive: Drive) -> None:
    run = drive("out: {call: [m, in], when: in.go, else: in.x}", {"go": 1, "x": 2})
    run.start()
    assert run.fail("out:m", NodeError("bad")) == [{"answer": 2}]


def test_the_deadline_fails_the_run_with_the_sooner_of_client_and_workflow(drive: Drive) -> None:
    run = drive("out: [m, in]", deadline=5.0, top="timeout: 2s\n")
    assert run.start(1.0) == ["wake at 3", ("out:m", None)]
    assert run.open["out:m"].timeout_at == 3.0
    assert run.tick(3.0) == ["cancel out:m", {"error": "DeadlineError: the request was not done in time"}]


def test_a_deadline_that_has_passed_starts_nothing(drive: Drive) -> None:
    run = drive("out: [m, in]", deadline=5.0)
    assert run.start(6.0) == [{"error": "DeadlineError: the request was not done in time"}]


def test_a_call_ending_after_the_deadline_does_not_save_the_run(drive: Drive) -> None:
    run = drive("out: {call: [m, in], retries: 3}", deadline=5.0)
    run.start()
    assert run.fail("out:m", DeadlineError("late"), 5.0) == [{"error": "DeadlineError: the request was not done in time"}]


SWITCH = "kind: [f, in]\nout: [switch, kind, {cat: kind, dog: [m, in], 'true': [n, in], default: {value: none}}]"


@pytest.mark.parametrize(
    ("key", "expected"),
    [("cat", {"answer": "cat"}), ("dog", ("out[dog]:m", 0)), (True, ("out[true]:n", 0)), ("cow", {"answer": "none"})],
)
def test_only_the_branch_of_a_switch_that_is_chosen_runs(drive: Drive, key: Any, expected: Any) -> None:
    run = drive(SWITCH, 0)
    run.start()
    assert run.done("kind:f", key) == [expected]


def test_a_switch_without_a_branch_for_the_key_fails(drive: Drive) -> None:
    assert drive("out: [switch, in, {a: in}]", "b").start() == [
        {"error": 'InvalidInputError: node "out": no branch "b" and no default'}
    ]
    (answer,) = drive("out: [switch, in, {a: in}]", [1]).start()
    assert "switch takes a string" in answer["error"]


def test_map_starts_one_call_per_item_and_keeps_their_order(drive: Drive) -> None:
    run = drive("out: [map, m, in]", [1, 2, 3])
    assert run.start() == [("out:m", 1), ("out:m+", 2), ("out:m++", 3)]
    assert run.done("out:m++", "c") == []
    assert run.done("out:m", "a") == []
    assert run.done("out:m+", "b") == [{"answer": ["a", "b", "c"]}]


def test_map_of_nothing_is_nothing_and_a_built_in_needs_no_call(drive: Drive) -> None:
    assert drive("out: [map, m, in]", []).start() == [{"answer": []}]
    assert drive("out: [map, merge, in]", [1, 2]).start()[0]["error"].startswith("InvalidInputError")
    assert drive("out: [map, id, in]", [1, 2]).start() == [{"answer": [1, 2]}]


def test_map_retries_the_item_that_failed_and_cancels_the_rest_when_it_fails_for_good(drive: Drive) -> None:
    run = drive("out: {call: [map, m, in], retries: 1}", [1, 2])
    run.start()
    assert run.fail("out:m+", QueueFullError("full")) == [("out:m+", 2)]
    assert run.fail("out:m+", QueueFullError("full")) == ["cancel out:m", {"error": "QueueFullError: full"}]


@pytest.mark.parametrize("body", [3, "text", {"a": 1}, None, np.zeros(())])
def test_map_over_what_is_no_list_fails(drive: Drive, body: Any) -> None:
    assert drive("out: [map, m, in]", body).start()[0]["error"].startswith('InvalidInputError: node "out": map takes a list')


def test_map_over_too_many_items_fails(drive: Drive) -> None:
    assert "limit is 10000" in drive("out: [map, m, in]", [0] * 10_001).start()[0]["error"]


def test_functions_apply_calls_each_with_the_same_value(drive: Drive) -> None:
    run = drive("out: [functionsApply, [m, f, id], in]", 1)
    assert run.start() == [("out:m", 1), ("out:f", 1)]
    run.done("out:f", "f")
    assert run.done("out:m", "m") == [{"answer": ["m", "f", 1]}]


def test_on_error_pass_hands_a_failed_models_output_on(drive: Drive) -> None:
    run = drive("a: [m, in]\nout: [n, a]", top="on_error: pass\n")
    run.start()
    assert run.fail("a:m", NodeError("bad")) == [("out:n", {"code": 424, "message": 'node "a": bad'})]
    assert run.fail("out:n", NodeError("bad")) == [{"error": 'NodeError: node "out": bad'}]


def test_a_chain_of_a_thousand_nodes_does_not_recurse(drive: Drive) -> None:
    chain = "\n".join(f"n{at}: [id, n{at - 1}]" for at in range(1, 999))
    assert drive(f"n0: [id, in]\n{chain}\nout: [id, n998]", 1).start() == [{"answer": 1}]


def test_a_plan_can_be_compared_and_holds_no_graph(drive: Drive) -> None:
    plan = drive(DIGITS).run._plan
    assert [step.name for step in plan.steps] == ["image", "a", "b", "scores", "out"]
    assert [field.name for field in msgspec.structs.fields(plan)][:2] == ["name", "version"]
