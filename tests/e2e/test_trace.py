"""The timeline of a request, for those who ask for it."""

from __future__ import annotations

import json

import pytest
from support.archives import linear_onnx, zipped

from flowyard.platform.cli.timeline import draw_timeline, read_trace

STEPS = """
import itertools

seen = itertools.count()

def double(value):
    return value * 2

def fail(value):
    raise ValueError("never")

def pieces(value):
    for n in range(value):
        yield str(n)
"""
FUNCTIONS = "functions: {double: steps:double, fail: steps:fail, pieces: steps:pieces}\n"
ASK = {"X-Flowyard-Trace": "1"}


@pytest.fixture(scope="module")
def register(http):
    def send(name, nodes, head="", **files):
        text = f"name: {name}\n{head}{FUNCTIONS}workflow:\n{nodes}"
        named = {key.replace("__", "."): content for key, content in files.items()}
        answer = http.post("/workflows", content=zipped({"workflow.yaml": text, "steps.py": STEPS} | named))
        assert answer.status_code == 200, answer.text

    return send


def trace_of(http, answer):
    found = json.loads(answer.headers["x-flowyard-trace"])
    return http.get(found["url"]).json() if "url" in found else found


def test_a_trace_tells_all_and_changes_nothing(http, register):
    nodes = """
  a: [double, in.n]
  b: {call: [double, a], when: "in.n > `100`"}
  c: {call: [fail, a], fallback: [double, a]}
  d: [map, double, in.list]
  e: {call: [m, in.x], cache: true}
  out: [merge, [functionsApply, [id], c], d, [functionsApply, [id], b], [functionsApply, [id], e]]
"""
    register("traced", nodes, "models: {m: {url: m.onnx, batch_size: 4}}\n", m__onnx=linear_onnx([[1.0, 2.0]]))
    body = {"n": 3, "list": [1, 2, 3], "x": [1.0]}
    plain = http.post("/predictions/traced", json=body)
    assert plain.status_code == 200, plain.text
    assert "x-flowyard-trace" not in plain.headers
    asked = http.post("/predictions/traced", json=body, headers=ASK | {"x-request-id": "r-1"})
    assert (asked.status_code, asked.content, asked.headers["content-type"]) == (200, plain.content, "application/json")
    trace = trace_of(http, asked)
    assert (trace["request_id"], trace["workflow"], trace["version"], trace["status"]) == ("r-1", "traced", "", 200)
    assert 0 <= trace["body_ms"] <= trace["total_ms"]
    node = {one["name"]: one for one in trace["nodes"]}
    assert {name: node[name]["status"] for name in "abcde"} == {
        "a": "done", "b": "skipped", "c": "fallback", "d": "done", "e": "cached",
    }  # fmt: skip
    assert node["a"]["callee"] == "double"
    assert (node["a"]["attempts"], node["a"]["batch_size"], node["a"]["device"], node["a"]["call_count"]) == (1, 1, "cpu", 1)
    assert node["a"]["worker"] > 0
    parts = node["a"]["queue_ms"] + node["a"]["transfer_ms"] + node["a"]["compute_ms"]
    assert parts <= node["a"]["end_ms"] - node["a"]["start_ms"] + 0.01
    assert node["a"]["start_ms"] >= trace["body_ms"]
    assert node["c"]["start_ms"] >= node["a"]["end_ms"]
    assert (node["d"]["call_count"], len(node["d"]["calls"])) == (3, 3)
    assert "queue_ms" not in node["e"]
    drawn = draw_timeline(read_trace(json.dumps(trace).encode()))
    assert all(f"\n{name} " in drawn for name in "abcde")


def test_a_single_model_and_an_error_have_traces_too(http, register):
    register("failing", "  x: [fail, in]\n  out: [double, x]\n")
    answer = http.post("/predictions/failing", json=1, headers=ASK)
    assert answer.status_code == 424
    trace = trace_of(http, answer)
    assert trace["status"] == 424
    assert {node["name"]: node["status"] for node in trace["nodes"]} == {"x": "failed", "out": "cancelled"}
    sent = http.post("/models", params={"model_name": "single"}, content=linear_onnx([[1.0, 2.0]]))
    assert sent.status_code == 200, sent.text
    trace = trace_of(http, http.post("/predictions/single", json=[[1.0]], headers=ASK))
    assert [(node["name"], node["status"], node["batch_size"]) for node in trace["nodes"]] == [("single", "done", 1)]


def test_a_long_trace_is_fetched_and_headers_stay_short(http, register):
    nodes = "".join(f"  n{at}: [id, {f'n{at - 1}' if at else 'in'}]\n" for at in range(200)) + "  out: [double, n199]\n"
    register("long", nodes)
    answer = http.post("/predictions/long", json=2, headers=ASK)
    assert answer.json() == 4
    assert json.loads(answer.headers["x-flowyard-trace"]).keys() == {"url"}
    assert len(answer.headers["server-timing"]) < 4096
    assert len(trace_of(http, answer)["nodes"]) == 201
    missing = http.get("/traces/nothing")
    assert (missing.status_code, missing.json()["type"]) == (404, "ResourceNotFoundException")


def test_the_trace_of_a_stream_is_there_when_the_stream_is_over(http, register):
    register("streamed", "  out: [pieces, in]\n")
    answer = http.post("/predictions/streamed", json=3, headers=ASK)
    assert answer.text == "012"
    trace = trace_of(http, answer)
    assert [node["status"] for node in trace["nodes"]] == ["done"]


@pytest.mark.parametrize(("value", "status"), [("0", 200), ("", 200), ("yes", 400), ("2", 400)])
def test_the_header_is_1_or_0(http, register, value, status):
    if http.get("/workflows/header").status_code == 404:
        register("header", "  out: [double, in]\n")
    answer = http.post("/predictions/header", json=2, headers={"X-Flowyard-Trace": value})
    assert answer.status_code == status
    assert "x-flowyard-trace" not in answer.headers
