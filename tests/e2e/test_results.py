"""Asynchronous requests: answered at once, fetched later, forgotten in time."""

from __future__ import annotations

import pytest
from support.archives import linear_onnx, zipped
from support.server import running, wait_until

HANDLER = """
import pathlib
import time

from djl_python import Output

def wait_for(path):
    while path and not pathlib.Path(path).exists():
        time.sleep(0.01)

def pieces(gate):
    yield "a"
    wait_for(gate)
    yield "b"
    yield "c"

def failing(gate):
    yield "a"
    raise RuntimeError("half way")

def large(gate):
    pathlib.Path(gate).touch()
    for number in range(4):
        yield "x" * 40_000

def handle(inputs):
    if inputs.is_empty():
        return None
    gate = inputs.get_property("gate")
    stream = inputs.get_property("stream")
    if stream:
        return Output().add_stream_content(globals()[stream](gate), output_formatter=None)
    wait_for(gate)
    text = inputs.get_as_string()
    if text == "fail":
        raise RuntimeError("boom")
    if text == "large":
        return Output().add("x" * 150_000)
    return answer(text)

def answer(text):
    output = Output()
    output.add_property("who", "me")
    output.add("got " + text)
    return output
"""

LATER = {"x-synchronous": "false"}
MODEL = zipped({"model.py": HANDLER})


def start(http, body="x", path="/predictions/later", **headers):
    answer = http.post(path, content=body, headers=LATER | headers)
    assert (answer.status_code, answer.content) == (200, b""), answer.text
    token = answer.headers["x-next-token"]
    assert answer.headers["x-amzn-sagemaker-custom-attributes"] == f"x-next-token={token}"
    return token


def fetch(http, token, path="/predictions/later", method="POST", **headers):
    return http.request(method, path, headers={"x-starting-token": token} | headers)


def finished(http, token, **headers):
    """The answer, once there is one and no more follows."""

    def complete():
        answer = fetch(http, token, **headers)
        return answer if answer.status_code != 202 and "x-next-token" not in answer.headers else None

    return wait_until(complete)


@pytest.fixture(scope="module")
def later(http):
    answer = http.post("/models", params={"model_name": "later", "max_worker": 4, "min_worker": 4}, content=MODEL)
    assert answer.status_code == 200, answer.text
    return http


def test_nothing_then_the_answer_with_its_status_and_headers(later, tmp_path):
    gate = tmp_path / "gate"
    token = start(later, "hello", gate=str(gate))
    early = fetch(later, token)
    assert (early.status_code, early.content, early.headers["x-next-token"]) == (202, b"", token)
    gate.touch()
    answer = finished(later, token)
    assert (answer.status_code, answer.text, answer.headers["who"]) == (200, "got hello", "me")
    # As often as wanted, anywhere.
    for path in ("/invocations", "/predictions/anything", "/models/x/invoke", "/v1/chat/completions"):
        assert fetch(later, token, path=path).text == "got hello"
    assert fetch(later, token, method="GET").text == "got hello"


def test_a_stream_comes_in_items(later, tmp_path):
    gate = tmp_path / "gate"
    token = start(later, stream="pieces", gate=str(gate))
    first = wait_until(lambda: (answer := fetch(later, token)).status_code == 200 and answer.text and answer)
    assert first.text == "a"
    following = first.headers["x-next-token"]
    assert following == f"{token}1"
    assert first.headers["x-amzn-sagemaker-custom-attributes"] == f"x-next-token={following}"
    # Nothing new yet.
    assert (fetch(later, following).text, fetch(later, following).headers["x-next-token"]) == ("", following)
    gate.touch()
    assert finished(later, following).text == "bc"
    one = fetch(later, token, **{"x-max-items": "1"})
    assert (one.text, one.headers["x-next-token"]) == ("a", f"{token}1")
    two = fetch(later, f"{token}1", **{"x-max-items": "1"})
    assert (two.text, two.headers["x-next-token"]) == ("b", f"{token}2")
    assert "x-next-token" not in fetch(later, f"{token}2").headers
    # A page read before leaves no trace.
    everything = fetch(later, token)
    assert everything.text == "abc"
    assert "x-next-token" not in everything.headers
    assert later.post("/predictions/later", headers={"x-starting-token": token}).text == "abc"


def test_sagemakers_attributes_say_the_same(later):
    attributes = "X-Amzn-SageMaker-Custom-Attributes"
    answer = later.post("/predictions/later", content="x", headers={attributes: "x-synchronous=false;other=1"})
    token = answer.headers["x-next-token"]
    finished(later, token)
    fetched = later.post("/predictions/later", headers={attributes: f"x-starting-token={token};x-max-items=1"})
    assert fetched.text == "got x"


@pytest.mark.parametrize(
    "path", ["/invocations?model_name=later", "/models/later/invoke", "/v1/chat/completions?model_name=later"]
)
def test_every_way_to_a_model_may_be_asynchronous(later, path):
    assert finished(later, start(later, path=path)).text == "got x"


def test_models_and_workflows_without_handlers(later):
    later.post("/models", params={"model_name": "lin"}, content=linear_onnx([[2.0]]))
    token = start(later, "[[3.0]]", path="/predictions/lin", **{"content-type": "application/json"})
    answer = finished(later, token)
    assert (answer.json(), answer.headers["content-type"]) == ([[6.0]], "application/json")
    code = "def count(value):\n    yield from range(value)\n"
    flow = "name: counting\nfunctions: {count: f:count}\nworkflow: {out: [count, in]}\n"
    assert later.post("/workflows", content=zipped({"workflow.yaml": flow, "f.py": code})).status_code == 200
    token = start(later, "3", path="/predictions/counting", **{"content-type": "application/json"})
    answer = finished(later, token)
    assert (answer.text, answer.headers["content-type"]) == ("0\n1\n2\n", "application/x-ndjson")


def test_a_failure_is_told_as_it_would_have_been(later):
    answer = finished(later, start(later, "fail"))
    assert (answer.status_code, answer.json()["error"]) == (424, "boom")
    late = finished(later, start(later, **{"x-request-timeout": "1ms", "gate": "/nowhere"}))
    assert (late.status_code, late.json()["type"]) == (504, "DeadlineExceededException")


def test_a_stream_that_fails_half_way_is_not_taken_for_complete(later):
    token = start(later, stream="failing")
    wait_until(lambda: fetch(later, f"{token}1").status_code not in (200, 202, 400))
    first = fetch(later, token)
    assert (first.status_code, first.text, first.headers["x-next-token"]) == (200, "a", f"{token}1")
    rest = fetch(later, f"{token}1")
    assert rest.status_code == 424
    assert "half way" in rest.json()["message"]
    assert "x-next-token" not in rest.headers


def test_one_that_runs_can_be_cancelled_and_one_that_has_ended_forgotten(later, tmp_path):
    gate = tmp_path / "gate"
    token = start(later, stream="pieces", gate=str(gate))
    answer = fetch(later, token, method="DELETE")
    assert (answer.status_code, answer.json()) == (200, {"status": f"Asynchronous request {token} cancelled"})
    gate.touch()
    assert fetch(later, token).status_code == 400
    token = start(later)
    finished(later, token)
    assert fetch(later, token, method="DELETE").json() == {"status": f"Asynchronous request {token} forgotten"}
    assert fetch(later, token, method="DELETE").json()["message"] == f"Invalid x-starting-token: {token}"


WRONG = [
    ({"x-starting-token": "00000000-0000-0000-0000-000000000000"}, "Invalid x-starting-token: 00000000-0000-0000-0000-0000"),
    ({"x-starting-token": "nonsense"}, "Invalid x-starting-token: nonsense"),
    ({"x-synchronous": "maybe"}, "Header x-synchronous: 'maybe'"),
    ({"x-synchronous": "false", "x-max-items": "0"}, "Header x-max-items: '0'"),
    ({"x-starting-token": "x", "x-max-items": "many"}, "Header x-max-items: 'many'"),
    ({"x-synchronous": "false", "x-priority": "x"}, "Header x-priority"),
]


@pytest.mark.parametrize(("headers", "message"), WRONG)
def test_what_is_wrong_is_told_at_once(later, headers, message):
    answer = later.post("/predictions/later", content="x", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "BadRequestException")
    assert answer.json()["message"].startswith(message)


def test_items_that_have_not_come_have_no_token(later):
    token = start(later)
    finished(later, token)
    assert fetch(later, f"{token}7").status_code == 400


def test_a_name_that_is_not_there_is_told_at_once(later):
    assert later.post("/predictions/nobody", content="x", headers=LATER).status_code == 404


def test_synchronous_says_what_is_usual(later):
    assert later.post("/predictions/later", content="x", headers={"x-synchronous": "TRUE"}).text == "got x"


@pytest.fixture
def small(tmp_path):
    """A server that keeps little."""
    settings = {"FLOWYARD_MAX_RESULTS": "3", "FLOWYARD_MAX_RESULTS_SIZE_BYTES": "100000"}
    with running(tmp_path, env=settings) as server:
        parameters = {"model_name": "later", "min_worker": 4, "max_worker": 4}
        assert server.client.post("/models", params=parameters, content=MODEL).status_code == 200
        yield server.client


def test_as_many_as_may_wait_and_no_more(small):
    tokens = [start(small) for _ in range(3)]
    refused = small.post("/predictions/later", content="x", headers=LATER)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "setting max_results" in refused.json()["message"]
    fetch(small, tokens[0], method="DELETE")
    start(small)


def test_a_result_that_does_not_fit_is_told_so(small):
    answer = finished(small, start(small, "large"))
    assert answer.status_code == 413
    assert "max_results_size_bytes" in answer.json()["message"]


def test_a_stream_waits_for_room(small, tmp_path):
    """Two streams of 160,000 bytes do not fit beside each other; one of them is too large all by itself."""
    held = start(small, stream="pieces", gate=str(tmp_path / "never"))
    started = tmp_path / "started"
    token = start(small, stream="large", gate=str(started))
    wait_until(started.exists)
    first = wait_until(lambda: (answer := fetch(small, token)).status_code == 200 and len(answer.content) == 80_000 and answer)
    rest = first.headers["x-next-token"]
    answer = wait_until(lambda: (last := fetch(small, rest)).status_code != 200 and last)
    assert answer.status_code == 413
    # Another one finds no room as long as that is kept.
    second = start(small, stream="large", gate=str(started))
    wait_until(lambda: (answer := fetch(small, second)).status_code in (200, 202) and answer)
    fetch(small, token, method="DELETE")
    wait_until(lambda: len(fetch(small, second).content) == 80_000)
    fetch(small, second, method="DELETE")
    fetch(small, held, method="DELETE")


def test_results_are_forgotten_in_time(tmp_path):
    with running(tmp_path, env={"FLOWYARD_RESULT_TTL_S": "0.3"}) as server:
        assert server.client.post("/models", params={"model_name": "later"}, content=MODEL).status_code == 200
        token = start(server.client)
        wait_until(lambda: "result of an asynchronous request forgotten" in server.log.read_text())
        assert fetch(server.client, token).status_code == 400


def test_a_server_that_stops_does_not_wait_longer_for_them_than_for_others(tmp_path):
    with running(tmp_path, env={"FLOWYARD_DRAIN_TIMEOUT_S": "0.5"}) as server:
        assert server.client.post("/models", params={"model_name": "later"}, content=MODEL).status_code == 200
        token = start(server.client, stream="pieces", gate=str(tmp_path / "never"))
        wait_until(lambda: fetch(server.client, token).status_code == 200)
        start(server.client, gate=str(tmp_path / "never"))
        assert server.stop() == 0
        server.start()
        assert fetch(server.client, token).status_code == 400
