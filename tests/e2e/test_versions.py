"""Several versions of a name: who answers, what a crash leaves of it, and that nobody notices when they come and go."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from support.archives import linear_onnx, zipped
from support.server import running, wait_until

CONSTANT = "def predict(value):\n    return {answer!r}\n"
SLOW = "import time\n\ndef predict(value):\n    time.sleep(0.005)\n    return {answer!r}\n"
STREAM = "def predict(value):\n    yield 'a'\n    yield 'b'\n"
RAISES = "def predict(value):\n    raise ValueError('not for you')\n"
HANDLER = (
    "from djl_python import Output\n\ndef handle(inputs):\n    return Output().add(inputs.get_property('x-mark') or 'none')\n"
)
TWO_STEPS = """
name: steps
functions: {one: "steps:one", two: "steps:two"}
workflow: {middle: [one, in], out: [two, middle]}
"""
STEPS = "import time\n\ndef one(x):\n    time.sleep(0.2)\n    return x\n\ndef two(x):\n    time.sleep(0.2)\n    return x\n"


def register(client, name, version, source=None):
    archive = zipped({"model.py": source or CONSTANT.format(answer=version)})
    params = {"model_name": name, "model_version": version}
    answer = client.post("/models", params={key: value for key, value in params.items() if value}, content=archive)
    assert answer.status_code == 200, answer.text


def answers(client, name, count):
    return Counter(client.post(f"/predictions/{name}", json=0).text for _ in range(count))


def info(client, path):
    (described,) = client.get(path).json()
    return described


def put(client, path, **params):
    answer = client.put(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["status"]


def test_weights_are_exact(http):
    for version in ("v1", "v2", "v3"):
        register(http, "weighed", version)
    assert put(http, "/models/weighed", weights="v1:3,v2:1") == 'Workflow "weighed" weights: v1:3,v2:1'
    assert answers(http, "weighed", 12) == {"v1": 9, "v2": 3}
    weights = [(entry["version"], entry["weight"]) for entry in http.get("/models/weighed").json()]
    assert weights == [("v1", 3), ("v2", 1), ("v3", 0)]
    put(http, "/models/weighed", weights="none")
    assert answers(http, "weighed", 12) == {"v1": 4, "v2": 4, "v3": 4}
    assert "weight" not in info(http, "/models/weighed/v1")


def test_the_default_version_moves(http):
    for version in ("", "v1", "v2"):
        register(http, "moving", version, CONSTANT.format(answer=version or "first"))
    assert http.post("/predictions/moving/default", json=0).text == "first"
    said = put(http, "/models/moving/v2/set-default")
    assert said == 'Default version successfully updated for workflow "moving" to "v2"'
    assert answers(http, "moving", 4) == {"v2": 4}
    assert http.post("/predictions/moving/default", json=0).text == "v2"
    assert info(http, "/models/moving/v2")["default"] is True
    assert "default" not in info(http, "/workflows/moving/v1")
    put(http, "/workflows/moving/v1/set-default")
    assert answers(http, "moving", 4) == {"v1": 4}
    assert http.delete("/models/moving/v2/set-default").status_code == 404
    assert http.delete("/models/moving/v1/set-default").json() == {"status": 'Workflow "moving" has no default version'}
    assert answers(http, "moving", 3) == {"first": 1, "v1": 1, "v2": 1}


def test_a_shadow_gets_copies_and_nobody_sees_its_answers(http):
    register(http, "watched", "v1")
    register(http, "watched", "v2", RAISES)
    assert put(http, "/models/watched/v2", shadow="true") == 'Workflow "watched:v2" is a shadow'
    assert answers(http, "watched", 6) == {"v1": 6}

    def requests():
        return info(http, "/models/watched/v2")["shadowRequests"]

    wait_until(lambda: requests()["failed"] + requests()["skipped"] == 6)
    assert requests()["answered"] == 0
    assert info(http, "/models/watched/v2")["shadow"] is True
    # A request that names its version is nobody's copy.
    assert http.post("/predictions/watched/v1", json=0).text == "v1"
    assert http.post("/predictions/watched/v2", json=0).status_code == 424
    assert requests()["sent"] + requests()["skipped"] == 6
    assert put(http, "/models/watched/v2", shadow="false") == 'Workflow "watched:v2" is no shadow'
    assert "shadowRequests" not in info(http, "/models/watched/v2")


def test_streams_have_shadows_too(http):
    register(http, "streamed", "v1", STREAM)
    register(http, "streamed", "v2", STREAM)
    put(http, "/models/streamed/v2", shadow="true")
    assert http.post("/predictions/streamed", json=0).text == "ab"
    wait_until(lambda: info(http, "/models/streamed/v2")["shadowRequests"]["answered"] == 1)


def test_a_shadow_gets_the_request_as_it_is_whatever_the_other_version_takes(http):
    register(http, "mixed", "v1")
    checks = HANDLER.replace("return", "assert inputs.is_empty() or inputs.get_property('x-mark') == 'here'\n    return")
    register(http, "mixed", "v2", checks)
    put(http, "/models/mixed/v2", shadow="true")
    assert http.post("/predictions/mixed", json=0, headers={"x-mark": "here"}).text == "v1"
    wait_until(lambda: info(http, "/models/mixed/v2")["shadowRequests"]["answered"] == 1)
    assert http.post("/invocations?model_name=mixed", json=0).text == "v1"
    wait_until(lambda: info(http, "/models/mixed/v2")["shadowRequests"]["failed"] == 1)


def test_the_open_inference_protocol_has_shadows_too(http):
    for version in ("v1", "v2"):
        params = {"model_name": "linear", "model_version": version}
        assert http.post("/models", params=params, content=linear_onnx([[2.0]])).status_code == 200
    put(http, "/models/linear/v2", shadow="true")
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3]}]}
    answer = http.post("/v2/models/linear/infer", json=request).json()
    assert (answer["model_version"], answer["outputs"][0]["data"]) == ("v1", [6.0])
    wait_until(lambda: info(http, "/models/linear/v2")["shadowRequests"]["answered"] == 1)
    assert http.post("/v2/models/linear/versions/v1/infer", json=request).status_code == 200
    assert info(http, "/models/linear/v2")["shadowRequests"]["sent"] == 1


def test_a_shadow_that_hangs_holds_up_nobody(http, tmp_path):
    gate = tmp_path / "go"
    register(http, "held", "v1")
    hanging = f"import pathlib, time\n\ndef predict(value):\n    while not pathlib.Path({str(gate)!r}).exists():\n"
    register(http, "held", "v2", hanging + "        time.sleep(0.01)\n    return value\n")
    put(http, "/models/held/v2", shadow="true")
    assert answers(http, "held", 40) == {"v1": 40}
    counts = info(http, "/models/held/v2")["shadowRequests"]
    assert (counts["sent"], counts["skipped"]) == (16, 24)
    gate.touch()
    wait_until(lambda: info(http, "/models/held/v2")["shadowRequests"]["answered"] == 16)


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("PUT", "/models/erring?weights=v1", 400, "Parameter weights: 'v1' is not allowed; allowed is VERSION:WEIGHT"),
        ("PUT", "/models/erring?weights=v1:0", 400, "a sum above 0"),
        ("PUT", "/models/erring?weights=v1:1001", 400, "0 to 1000"),
        ("PUT", "/models/erring?weights=v3:1", 400, "no version v3 of erring; it has v1, v2."),
        ("PUT", "/models/erring/v1?weights=v1:1", 400, "leave v1 out of the path"),
        ("PUT", "/models/erring?weights=v1:1&min_worker=1", 400, "weights stands alone; min_worker"),
        ("PUT", "/models/erring?shadow=true", 400, "shadow is for one version"),
        ("PUT", "/models/erring/v1?shadow=perhaps", 400, "'perhaps' is not allowed; allowed is true or false"),
        ("PUT", "/models/erring/v1?shadow=true&synchronous=false", 400, "shadow stands alone; synchronous"),
        ("PUT", "/models/erring/v3?shadow=true", 404, "Model or workflow not found: erring"),
        ("PUT", "/models/erring/v3/set-default", 404, "Model or workflow not found: erring"),
        ("PUT", "/models/nobody/v1/set-default", 404, "Model or workflow not found: nobody"),
        ("PUT", "/models/nobody?weights=v1:1", 404, "Model or workflow not found: nobody"),
        ("PUT", "/models/erring/v1/set-default?weight=1", 400, "Unknown parameter: weight"),
        ("DELETE", "/models/erring/v1/set-default", 404, "v1 is not the default version of erring"),
        ("GET", "/models/erring/v1/set-default", 405, "method is not allowed"),
    ],
)
def test_mistakes(http, method, path, status, says):
    if http.get("/models/erring").status_code == 404:
        for version in ("v1", "v2"):
            register(http, "erring", version)
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert says in answer.json()["message"]
    assert answers(http, "erring", 2) == {"v1": 1, "v2": 1}


def test_the_last_version_that_answers_cannot_become_a_shadow(http):
    register(http, "alone", "v1")
    answer = http.put("/models/alone/v1", params={"shadow": "true"})
    assert (answer.status_code, "register another one first" in answer.json()["message"]) == (409, True)


def test_all_of_it_survives_a_crash(tmp_path):
    with running(tmp_path) as server:
        for version in ("", "v1", "v2", "v3"):
            register(server.client, "m", version, CONSTANT.format(answer=version or "first"))
        # Scaling writes the first one's record anew: it must stay the first one.
        put(server.client, "/models/m/default", min_worker=1, max_worker=2)
        put(server.client, "/models/m", weights="default:1,v1:2")
        put(server.client, "/models/m/v2/set-default")
        put(server.client, "/models/m/v3", shadow="true")
        before = [(entry.get("version"), entry["weight"]) for entry in server.client.get("/models/m").json()]
        server.kill()
        server.start()
        client = server.client
        assert [(entry.get("version"), entry["weight"]) for entry in client.get("/models/m").json()] == before
        assert answers(client, "m", 6) == {"first": 2, "v1": 4}
        assert info(client, "/models/m/v2")["default"] is True
        assert info(client, "/models/m/v3")["shadow"] is True
        put(client, "/models/m", weights="none")
        assert client.delete("/models/m/v2").status_code == 200
        server.kill()
        server.start()
        assert answers(server.client, "m", 2) == {"first": 1, "v1": 1}


def test_a_load_at_the_start_keeps_what_is_said_of_its_version(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(linear_onnx([[1.0]]))
    with running(tmp_path, "--load", f"m:v1={model}") as server:
        register(server.client, "m", "v2")
        put(server.client, "/models/m", weights="v1:1,v2:0")
        assert server.stop() == 0
        model.write_bytes(linear_onnx([[3.0]]))
        server.start()
        assert server.client.post("/predictions/m", json=[[1.0]]).json() == [[3.0]]
        weights = {entry["version"]: entry["weight"] for entry in server.client.get("/models/m").json()}
        assert weights == {"v1": 1, "v2": 0}


@contextlib.contextmanager
def clients(base_url, path, seen, count=4):
    """Clients that ask again and again and note every answer."""
    stop = threading.Event()

    def ask(_):
        with httpx2.Client(base_url=base_url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post(path, json=0)
                seen.append((answer.status_code, answer.text if answer.status_code == 200 else answer.json()["message"]))

    with ThreadPoolExecutor(count) as threads:
        jobs = [threads.submit(ask, number) for number in range(count)]
        try:
            yield
        finally:
            stop.set()
        for job in jobs:
            job.result()


def test_replacing_versions_drops_no_request(http):
    register(http, "replaced", "v0", SLOW.format(answer="v0"))
    seen: list[tuple[int, str]] = []
    with clients(http.base_url, "/predictions/replaced", seen):
        for number in range(1, 5):
            register(http, "replaced", f"v{number}", SLOW.format(answer=f"v{number}"))
            assert http.delete(f"/models/replaced/v{number - 1}").status_code == 200
            mark = len(seen)
            wait_until(lambda mark=mark: len(seen) > mark + 20)
    assert {status for status, _ in seen} == {200}
    assert {text for _, text in seen} == {f"v{number}" for number in range(5)}


def test_unregistering_the_only_version_under_load_ends_in_404s(http):
    seen: list[tuple[int, str]] = []
    register(http, "coming", "", SLOW.format(answer="here"))
    with clients(http.base_url, "/predictions/coming", seen):
        for _ in range(2):
            assert http.delete("/models/coming").status_code == 200
            register(http, "coming", "", SLOW.format(answer="here"))
            mark = len(seen)
            wait_until(lambda mark=mark: (200, "here") in seen[mark:])
    allowed = {(200, "here"), (404, "Model or workflow not found: coming"), (503, "Model is not ready: coming")}
    assert set(seen) <= allowed
    assert (404, "Model or workflow not found: coming") in seen


def test_a_run_of_several_steps_is_finished_before_its_workers_go(http):
    archive = zipped({"workflow.yaml": TWO_STEPS, "steps.py": STEPS})
    assert http.post("/workflows", content=archive).status_code == 200
    with ThreadPoolExecutor(1) as thread, httpx2.Client(base_url=http.base_url, timeout=60) as other:
        answer = thread.submit(lambda: other.post("/predictions/steps", json=7))
        wait_until(lambda: info(http, "/workflows/steps")["functions"]["workerGroups"][0]["workers"][0]["state"] == "busy")
        assert http.delete("/workflows/steps").status_code == 200
        assert answer.result().json() == 7


def test_a_request_whose_body_comes_after_its_version_has_gone_goes_to_another(http):
    for version in ("v1", "v2"):
        register(http, "handed", version)
    put(http, "/models/handed/v1/set-default")
    url = http.base_url
    head = (
        "POST /predictions/handed HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(head.encode())
        # The server asks for the body once it knows who is to answer.
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        assert http.delete("/models/handed/v1").status_code == 200
        connection.sendall(b"0")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"v2")
