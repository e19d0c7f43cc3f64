"""What the workflow language offers, on a real server: caches, sub-workflows, conditions, map, fallbacks, signatures."""

from __future__ import annotations

import jsonschema
import pytest
from support.archives import linear_onnx, zipped

STEPS = """
import itertools
import time

counter = itertools.count(1)

def count(value):
    return next(counter)

def double(value):
    return value * 2

def fail(value):
    raise ValueError("never")

def slow(value):
    time.sleep(30)

def numbers(value):
    return list(range(value))
"""
FUNCTIONS = "functions: {count: steps:count, double: steps:double, fail: steps:fail, slow: steps:slow, numbers: steps:numbers}\n"


@pytest.fixture(scope="module")
def register(http):
    def send(name, nodes, head="", **files):
        text = f"name: {name}\n{head}{FUNCTIONS}workflow:\n{nodes}"
        named = {key.replace("__", "."): content for key, content in files.items()}
        return http.post("/workflows", content=zipped({"workflow.yaml": text, "steps.py": STEPS} | named))

    return send


@pytest.fixture(scope="module")
def run(http, register):
    def send(name, nodes, body, head="", **files):
        answer = register(name, nodes, head, **files)
        assert answer.status_code in (200, 409), answer.text
        return http.post(f"/predictions/{name}", json=body)

    return send


def test_a_cached_node_runs_once_per_content(run):
    nodes = "  out: {call: [count, in], cache: 60s}\n"
    first = run("cached", nodes, "a").json()
    assert run("cached", nodes, "a").json() == first
    assert run("cached", nodes, "b").json() != first


def test_a_large_cached_result_stays_right_while_others_come_and_go(run):
    nodes = "  big: {call: [m, in], cache: true}\n  out: [m, big]\n"
    head = "models: {m: {url: model.onnx, batch_size: 1}}\n"
    identity = [[1.0 if row == column else 0.0 for column in range(8)] for row in range(8)]
    bodies = [[[float(n)] * 8] * 20_000 for n in range(12)]
    for _ in range(2):
        for body in bodies:
            assert run("large-cache", nodes, body, head, model__onnx=linear_onnx(identity)).json() == body


def test_a_workflow_calls_another(run, register):
    assert run("inner", "  out: [double, in]\n", 4).json() == 8
    answer = run("outer", "  out: [double, [{workflow: inner}, in]]\n", 4)
    assert answer.json() == 16
    failing = run("inner-fails", "  out: [fail, in]\n", 4)
    assert failing.status_code == 424
    outer = run("outer-fails", "  x: [{workflow: inner-fails}, in]\n  out: [double, x]\n", 4)
    assert outer.status_code == 424
    assert 'node "x"' in outer.json()["message"]


def test_a_workflow_that_nobody_registered_is_refused_by_line(register):
    answer = register("lost", "  out: [{workflow: innner}, in]\n")
    assert (answer.status_code, answer.json()["type"]) == (400, "InvalidWorkflowException")
    assert answer.json()["problems"][0]["line"] == 4
    assert "innner" in answer.json()["message"]


@pytest.mark.parametrize(("value", "answer"), [(1, 2), (20, 20)])
def test_a_condition_decides(run, value, answer):
    assert run("condition", '  out: {call: [double, in], when: "in < `10`", else: in}\n', value).json() == answer


def test_a_map_runs_one_job_per_item(run):
    assert run("mapped", "  n: [numbers, in]\n  out: [map, double, n]\n", 50).json() == [2 * n for n in range(50)]


def test_a_fallback_takes_over(run):
    assert run("falls-back", "  out: {call: [fail, in], fallback: [double, in]}\n", 3).json() == 6


def test_a_node_past_its_timeout_does_not_hold_up_its_fallback(run):
    answer = run("timed", "  out: {call: [slow, in], timeout: 300ms, fallback: {value: late}}\n", 3)
    assert answer.text == "late"
    assert answer.elapsed.total_seconds() < 5


def test_models_that_cannot_feed_each_other_are_refused(register):
    head = "models: {a: a.onnx, b: b.onnx}\n"
    answer = register(
        "misfit", "  x: [a, in]\n  out: [b, x]\n", head, a__onnx=linear_onnx([[1.0, 2.0]]), b__onnx=linear_onnx([[1.0]] * 3)
    )
    assert (answer.status_code, answer.json()["type"]) == (400, "InvalidWorkflowException")
    assert "workflow.yaml:6" in answer.json()["message"]


def test_description_and_openapi_tell_what_a_workflow_takes_and_gives(http, register):
    head = 'version: "1.0"\nmodels: {m: m.onnx}\n'
    assert register("told", "  out: [m, in]\n", head, m__onnx=linear_onnx([[1.0, 2.0], [3.0, 4.0]])).status_code == 200
    (described,) = http.get("/workflows/told").json()
    inputs, outputs = described["signature"]["inputs"], described["signature"]["outputs"]
    assert (inputs[0]["dtype"], inputs[0]["shape"]) == ("float32", [-1, 2])
    assert outputs[0]["shape"] == [-1, 2]
    assert described["models"][0]["signature"] == described["signature"]
    document = http.get("/openapi/told/1.0").json()
    operation = document["paths"]["/predictions/told/1.0"]["post"]
    assert operation["x-flowyard-signature"] == described["signature"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate([[1.0, 2.0]], schema)
    jsonschema.validate([1.0, 2.0], schema)
    jsonschema.validate({inputs[0]["name"]: [[1.0, 2.0]]}, schema)
    for wrong in (["a"], [[[1.0]]], {}, 3):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    jsonschema.validate(http.post("/predictions/told", json=[[1.0, 2.0]]).json(), result_schema(operation))
    assert http.get("/openapi/nothing").status_code == 404
    assert http.get("/openapi/told", params={"x": 1}).status_code == 400


def result_schema(operation):
    return operation["responses"]["200"]["content"]["application/json"]["schema"]
