"""What a body is to a workflow, and what an answer looks like."""

from __future__ import annotations

import pytest
from support.archives import zipped

STEPS = """
import asyncio
import numpy as np

def show(value):
    return {"type": type(value).__name__, "value": value if not isinstance(value, bytes) else len(value)}

def give(value):
    return {"bytes": b"\\x00raw", "text": "plain", "array": np.arange(6, dtype="f4").reshape(2, 3),
            "nan": [float("nan"), 1.0], "none": None, "nested": {"a": [np.int64(3), np.float32(0.5)]}}[value["what"]]

def see(value, context):
    return {"id": context.request_id, "agent": context.headers.get("x-agent"), "left": context.time_left_s}

async def slowly(value):
    await asyncio.sleep(0)
    return "async"

def change(value):
    value["mine"] = True
    return value
"""
WORKFLOW = """
name: {function}
functions: {{f: steps:{function}}}
workflow:
  out: [f, in]
"""


@pytest.fixture(scope="module")
def call(http):
    registered = set()

    def post(function, **request):
        if function not in registered:
            archive = zipped({"workflow.yaml": WORKFLOW.format(function=function), "steps.py": STEPS})
            answer = http.post("/workflows", content=archive)
            assert answer.status_code == 200, answer.text
            registered.add(function)
        return http.post(f"/predictions/{function}", **request)

    return post


@pytest.mark.parametrize(
    ("request_body", "seen"),
    [
        ({"json": {"a": [1, 2.5, None, "x"]}}, {"type": "dict", "value": {"a": [1, 2.5, None, "x"]}}),
        (
            {"content": b"[1, 2]", "headers": {"content-type": "application/json; charset=utf-8"}},
            {"type": "list", "value": [1, 2]},
        ),
        ({"content": b"\x89PNG..."}, {"type": "bytes", "value": 7}),
        ({"content": b"x" * 5000, "headers": {"content-type": "image/png"}}, {"type": "bytes", "value": 5000}),
        ({"content": b"text", "headers": {"content-type": "text/plain"}}, {"type": "bytes", "value": 4}),
        ({}, {"type": "bytes", "value": 0}),
        ({"data": {"q": "1", "r": "two words"}}, {"type": "dict", "value": {"q": "1", "r": "two words"}}),
        (
            {"content": b'{"from": "curl -d"}', "headers": {"content-type": "application/x-www-form-urlencoded"}},
            {"type": "dict", "value": {"from": "curl -d"}},
        ),
        (
            {"content": b"\x89PNG\xff\x00", "headers": {"content-type": "application/x-www-form-urlencoded"}},
            {"type": "bytes", "value": 6},
        ),
    ],
)
def test_bodies(call, request_body, seen):
    assert call("show", **request_body).json() == seen


def test_a_multipart_form_is_a_mapping_of_text_and_bytes(call):
    answer = call("show", data={"note": "hello"}, files={"image": ("3.png", b"\x89PNG", "image/png")})
    assert answer.json() == {"type": "dict", "value": {"note": "hello", "image": "iVBORw=="}}


@pytest.mark.parametrize(
    ("what", "content_type", "body"),
    [
        ("bytes", "application/octet-stream", b"\x00raw"),
        ("text", "text/plain; charset=utf-8", b"plain"),
        ("array", "application/json", b"[[0.0,1.0,2.0],[3.0,4.0,5.0]]"),
        ("nan", "application/json", b"[null,1.0]"),
        ("none", "application/json", b"null"),
        ("nested", "application/json", b'{"a":[3,0.5]}'),
    ],
)
def test_answers(call, what, content_type, body):
    answer = call("give", json={"what": what})
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, content_type, body)


def test_a_function_may_read_its_request(call):
    headers = {"x-request-id": "mine-1", "X-Agent": "test", "X-Request-Timeout": "20s"}
    answer = call("see", content=b"", headers=headers)
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json()["id"] == "mine-1"
    assert answer.json()["agent"] == "test"
    assert 0 < answer.json()["left"] <= 20


def test_every_answer_has_a_request_id_of_its_own(call):
    first, second = (call("show").headers["x-request-id"] for _ in range(2))
    assert len(first) == 36
    assert first != second


def test_a_function_may_be_async(call):
    assert call("slowly").text == "async"


def test_a_function_may_change_its_argument_without_anyone_noticing(call):
    assert call("change", json={"a": 1}).json() == {"a": 1, "mine": True}


@pytest.mark.parametrize(
    ("request_body", "status", "words"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "not valid JSON"),
        ({"content": b"", "headers": {"content-type": "application/json"}}, 400, "empty"),
        ({"content": b'{"a": NaN}', "headers": {"content-type": "application/json"}}, 400, "not valid JSON"),
        ({"content": b"1e999", "headers": {"content-type": "application/json"}}, 400, "not valid JSON"),
        ({"content": b"[1] 2", "headers": {"content-type": "application/json"}}, 400, "not valid JSON"),
        ({"content": b"[" * 50_000, "headers": {"content-type": "application/json"}}, 400, "not valid JSON"),
        ({"content": b"--x\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "multipart"),
        ({"data": {f"field-{n}": "x" for n in range(1001)}}, 400, "1000 fields"),
        ({"content": b"", "headers": {"x-request-timeout": "soon"}}, 400, "X-Request-Timeout"),
        ({"content": b"", "headers": {"x-request-timeout": "0"}}, 400, "X-Request-Timeout"),
        ({"content": b"x" * (64 << 20) + b"x"}, 413, "max_request_size"),
    ],
)
def test_bodies_that_cannot_be_read(call, request_body, status, words):
    answer = call("show", **request_body)
    assert answer.status_code == status
    assert answer.json()["code"] == status
    assert words in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "words"),
    [("/predictions", "refer to API document"), ("/predictions/nobody", "nobody"), ("/predictions/show/9", "not found: show")],
)
def test_predictions_that_lead_nowhere(call, http, path, words):
    call("show")
    answer = http.post(path)
    assert answer.status_code == 404
    assert words in answer.json()["message"]
