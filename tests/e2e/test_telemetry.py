"""What the server tells about itself is exactly what has happened."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.archives import linear_onnx, zipped
from support.server import ServerProcess, is_gone, running, wait_until

MODEL = """
import pathlib
import time

def predict(value):
    if value == "raise":
        raise ValueError("as asked")
    if isinstance(value, str):
        while not pathlib.Path(value).exists():
            time.sleep(0.005)
    return value
"""
STREAM = """
def predict(value):
    yield from (b"abc", b"defg")
"""
WORKFLOW = """
name: two
models: {first: {url: first}, second: {url: second}}
functions: {double: steps:double}
workflow:
  a: [first, in]
  b: [double, a]
  out: [second, b]
"""


def samples(client: httpx2.Client, path: str = "/metrics") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(answer.text)
        for sample in family.samples
    }


def value(client: httpx2.Client, name: str, **labels: str) -> float | None:
    return samples(client).get((name, frozenset(labels.items())))


def of_model(client: httpx2.Client, model: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {key: number for key, number in samples(client).items() if ("model", model) in key[1]}


def register(client: httpx2.Client, name: str, source: str = MODEL, **parameters: object) -> None:
    answer = client.post("/models", params={"model_name": name, **parameters}, content=zipped({"model.py": source}))
    assert answer.status_code == 200, answer.text


def lines(server: ServerProcess) -> list[dict[str, object]]:
    """The requests in the log of a server that has ended."""
    found = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == "request"]


def test_requests_are_counted_by_model_version_and_status(http):
    register(http, "counted", model_version="1")
    for _ in range(5):
        assert http.post("/predictions/counted", json=1).status_code == 200
    for _ in range(2):
        assert http.post("/predictions/counted/1", json="raise").status_code == 424
    assert http.post("/predictions/counted", headers={"x-priority": "x"}, json=1).status_code == 400
    found, labels = samples(http), {"model": "counted", "version": "1"}

    def told(name: str, **more: str) -> float:
        return found[name, frozenset((labels | more).items())]

    assert [told("flowyard_requests_total", code=code) for code in ("200", "424", "400")] == [5, 2, 1]
    assert told("flowyard_request_duration_seconds_count") == 8
    assert told("flowyard_request_duration_seconds_bucket", le="+Inf") == 8
    assert 0 < told("flowyard_request_duration_seconds_sum") < 60
    assert told("flowyard_requests_in_flight") == 0
    assert told("flowyard_queue_wait_seconds_count") == 7
    assert told("flowyard_call_failures_total", reason="node_error") == 2
    assert told("flowyard_batch_compute_seconds_count", device="cpu") == 7
    assert (told("flowyard_batch_rows_count", device="cpu"), told("flowyard_batch_rows_sum", device="cpu")) == (7, 7)
    assert told("flowyard_workers", device="cpu", state="idle") == 1
    assert told("flowyard_model_load_seconds") > 0


def test_a_batch_counts_its_rows(http):
    answer = http.post("/models", params={"model_name": "rows", "batch_size": 8}, content=linear_onnx([[2.0]]))
    assert answer.status_code == 200
    assert http.post("/predictions/rows", content=b"\x93NUMPY", headers={"content-type": "application/x-npy"}).status_code == 400
    assert http.post("/predictions/rows", json=[[1.0]]).json() == [[2.0]]
    labels = {"model": "rows", "version": "", "device": "cpu"}
    assert value(http, "flowyard_batch_rows_bucket", **labels, le="1.0") == 1


def test_waiting_and_running_requests_are_seen_while_they_last(http, tmp_path):
    register(http, "gated", job_queue_size=1)
    gate = str(tmp_path / "go")
    with ThreadPoolExecutor() as pool:
        labels = {"model": "gated", "version": ""}
        running_one = pool.submit(http.post, "/predictions/gated", json=gate)
        wait_until(lambda: value(http, "flowyard_workers", **labels, device="cpu", state="busy") == 1)
        waiting_one = pool.submit(http.post, "/predictions/gated", json=gate)
        wait_until(lambda: value(http, "flowyard_queue_length", **labels) == 1)
        assert value(http, "flowyard_requests_in_flight", **labels) == 2
        assert http.post("/predictions/gated", json=gate).status_code == 503
        assert value(http, "flowyard_call_failures_total", **labels, reason="queue_full") == 1
        (tmp_path / "go").touch()
        assert [one.result().status_code for one in (running_one, waiting_one)] == [200, 200]
    assert value(http, "flowyard_requests_in_flight", **labels) == 0
    assert value(http, "flowyard_queue_length", **labels) == 0
    assert value(http, "flowyard_requests_total", **labels, code="503") == 1


def test_deadlines_and_clients_that_leave_are_told_apart(http, tmp_path):
    register(http, "late")
    labels, gate = {"model": "late", "version": ""}, str(tmp_path / "go")
    assert http.post("/predictions/late", json=gate, headers={"x-request-timeout": "50ms"}).status_code == 504
    assert value(http, "flowyard_call_failures_total", **labels, reason="deadline") == 1
    with pytest.raises(httpx2.ReadTimeout):
        http.post("/predictions/late", json=gate, timeout=0.2)
    wait_until(lambda: value(http, "flowyard_requests_total", **labels, code="499") == 1)
    assert value(http, "flowyard_call_failures_total", **labels, reason="cancelled") == 1
    assert value(http, "flowyard_requests_in_flight", **labels) == 0
    (tmp_path / "go").touch()


def test_a_worker_that_dies_is_counted(http, server):
    before = set(server.workers())
    register(http, "mortal")
    (pid,) = set(server.workers()) - before
    labels = {"model": "mortal", "version": "", "device": "cpu"}
    assert value(http, "flowyard_worker_restarts_total", **labels) == 0
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: value(http, "flowyard_worker_restarts_total", **labels) == 1)
    assert http.put("/models/mortal", params={"min_worker": 1, "max_worker": 2}).status_code == 200
    wait_until(lambda: value(http, "flowyard_workers", **labels, state="idle") == 1)
    assert http.put("/models/mortal", params={"min_worker": 0, "max_worker": 0}).status_code == 200
    wait_until(lambda: value(http, "flowyard_workers", **labels, state="idle") == 0)
    assert value(http, "flowyard_worker_restarts_total", **labels) == 1


def test_the_models_of_a_workflow_are_told_apart(http):
    files = {"workflow.yaml": WORKFLOW, "steps.py": "def double(v):\n    return 2 * v\n"}
    archive = zipped(files | {"first/model.py": MODEL, "second/model.py": MODEL})
    assert http.post("/workflows", content=archive).status_code == 200
    assert http.post("/predictions/two", json=4).json() == 8
    assert value(http, "flowyard_requests_total", model="two", version="", code="200") == 1
    for model in ("two:first", "two:second", "two functions"):
        assert value(http, "flowyard_batch_rows_count", model=model, version="", device="cpu") == 1


def test_every_way_to_a_model_is_counted(http):
    assert http.post("/models", params={"model_name": "ways"}, content=linear_onnx([[2.0]])).status_code == 200
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    labels = {"model": "ways", "version": ""}
    management = value(http, "flowyard_http_responses_total", api="management", code="200")
    assert http.post("/predictions/ways", json=[[1.0]]).status_code == 200
    assert http.post("/models/ways/invoke", json=[[1.0]]).status_code == 200
    assert http.post("/invocations", params={"model_name": "ways"}, json=[[1.0]]).status_code == 200
    assert http.post("/v2/models/ways/infer", json={"inputs": [tensor]}).status_code == 200
    assert http.post("/v2/models/ways/infer", json={"inputs": 1}).status_code == 400
    assert http.get("/v2/models/ways").status_code == 200
    assert value(http, "flowyard_requests_total", **labels, code="200") == 4
    assert value(http, "flowyard_requests_total", **labels, code="400") == 1
    assert value(http, "flowyard_requests_in_flight", **labels) == 0
    # The description, and the four times that the metrics were read in between.
    assert value(http, "flowyard_http_responses_total", api="management", code="200") == management + 5


def test_names_that_are_not_registered_make_no_series(http):
    def unrouted() -> float:
        return value(http, "flowyard_requests_total", model="", version="", code="404") or 0

    before, series = unrouted(), len(samples(http))
    for number in range(20):
        assert http.post(f"/predictions/stranger{number}", json=1).status_code == 404
        assert http.post(f"/predictions/stranger{number}/x", json=1).status_code == 404
    assert http.post("/predictions", json=1).status_code == 404
    assert unrouted() == before + 41
    assert len(samples(http)) <= series + 2
    assert "stranger" not in http.get("/metrics").text


def test_the_series_of_what_is_unregistered_are_gone(http):
    register(http, "gone")
    assert http.post("/predictions/gone", json=1).status_code == 200
    assert of_model(http, "gone")
    total = value(http, "flowyard_http_responses_total", api="inference", code="200")
    assert http.delete("/models/gone").status_code == 200
    assert not of_model(http, "gone")
    assert value(http, "flowyard_http_responses_total", api="inference", code="200") == total


def test_registrations_are_counted(http):
    before = [value(http, "flowyard_registrations_total", outcome=outcome) for outcome in ("accepted", "refused")]
    register(http, "accepted")
    assert http.post("/models", params={"model_name": "accepted"}, content=zipped({"model.py": MODEL})).status_code == 409
    after = [value(http, "flowyard_registrations_total", outcome=outcome) for outcome in ("accepted", "refused")]
    assert after == [before[0] + 1, before[1] + 1]


def test_djls_metrics_have_its_names(http):
    register(http, "djl")
    found = samples(http, "/server/metrics")
    assert http.post("/predictions/djl", json=1).status_code == 200
    after = samples(http, "/server/metrics")
    (key,) = (key for key in found if key[0] == "Response_2XX_total")
    assert after[key] == found[key] + 1
    assert after["RequestLatency_count", frozenset({("Model", "djl")})] == 1
    assert after["QueueTime_count", frozenset({("Model", "djl")})] == 1
    text = http.get("/server/metrics", params={"name[]": "StartupLatency"}).text
    assert "StartupLatency{Host=" in text
    assert "Response" not in text


def test_some_metrics_alone(http):
    answer = http.get("/metrics", params=[("name[]", "flowyard_registered"), ("name[]", "flowyard_build_info")])
    assert sorted(family.name for family in parse_text(answer.text)) == ["flowyard_build_info", "flowyard_registered"]


@pytest.mark.parametrize("path", ["/metrics", "/server/metrics"])
@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/openmetrics-text; version=1.0.0; q=0.6, text/plain; version=0.0.4; q=0.3, */*; q=0.2", "openmetrics"),
        ("application/openmetrics-text; version=nonsense; escaping=nonsense", "openmetrics"),
        ("application/openmetrics-text; q=0, text/plain", "plain"),
        ("text/plain; version=nonsense", "plain"),
        ("text/html", "plain"),
        (";;,,=", "plain"),
    ],
)
def test_accept_chooses_the_format(http, path, accept, kind):
    answer = http.get(path, headers={"accept": accept})
    assert answer.status_code == 200
    if kind == "openmetrics":
        assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert list(parse_openmetrics(answer.text))
    else:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_the_log_level_is_set_by_any_method(http, method):
    for level in ("trace", "WARN", "info"):
        answer = http.request(method, "/server/logging", params={"level": level})
        assert (answer.status_code, answer.json()) == (200, {"status": "OK"})
    assert http.request(method, "/server/logging").json() == {"status": "OK"}
    assert http.head("/server/logging").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "code", "words"),
    [
        ("POST", "/server/logging?level=loud", 400, "Parameter level: 'loud' is not allowed; allowed is all or trace or debug"),
        ("POST", "/server/logging?levle=info", 400, "Unknown parameter: levle. Known are level."),
        ("GET", "/metrics?name=x", 400, "Unknown parameter: name. Known are name[]."),
        ("GET", "/server/metrics?names[]=x", 400, "Unknown parameter: names[]. Known are name[]."),
        ("POST", "/metrics", 405, "Requested method is not allowed, please refer to API document."),
        ("PUT", "/server/metrics", 405, "Requested method is not allowed, please refer to API document."),
        ("GET", "/server", 404, "Requested resource is not found, please refer to API document."),
        ("GET", "/server/nothing", 404, "Requested resource is not found, please refer to API document."),
        ("GET", "/server/logging/x", 404, "Requested resource is not found, please refer to API document."),
        ("GET", "/metrics/x", 404, "Requested resource is not found, please refer to API document."),
    ],
)
def test_mistakes(http, method, path, code, words):
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (code, code)
    assert words in answer.json()["message"]


def test_every_request_has_its_line_and_none_is_lost_at_the_end(tmp_path):
    with running(tmp_path) as server:
        http = server.client
        register(http, "logged", model_version="1")
        register(http, "streamed", STREAM)
        http.post("/predictions/logged?token=secret", json=[1, 2], headers={"x-request-id": 'my"id', "authorization": "secret"})
        http.post("/predictions/streamed", json=1)
        http.post("/predictions/nobody", json=1)
        for _ in range(600):
            http.post("/predictions/logged", json=1)
    told = lines(server)
    assert len(told) == 605
    assert "secret" not in server.log.read_text()
    first = told[2]
    assert isinstance(first.pop("duration_ms"), float)
    assert first.pop("client").startswith("127.0.0.1:")
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "request",
        "level": "info",
        "method": "POST",
        "path": "/predictions/logged",
        "status": 200,
        "request_id": 'my"id',
        "model": "logged",
        "version": "1",
        "bytes_in": 5,
        "bytes_out": 5,
    }
    assert [told[0][key] for key in ("method", "path", "status")] == ["POST", "/models", 200]
    assert told[0]["bytes_in"] > 100
    assert [told[3][key] for key in ("path", "model", "status", "bytes_out")] == ["/predictions/streamed", "streamed", 200, 7]
    assert told[4]["status"] == 404
    assert "model" not in told[4]


def test_the_level_and_the_setting_silence_the_lines(tmp_path):
    with running(tmp_path) as server:
        server.client.get("/ping")
        server.client.post("/server/logging", params={"level": "warning"})
        server.client.get("/metrics")
        server.client.post("/server/logging")
    assert [line["path"] for line in lines(server)] == ["/ping", "/server/logging"]
    with running(tmp_path, env={"FLOWYARD_ACCESS_LOG": "false"}) as server:
        server.client.get("/metrics")
    assert len(lines(server)) == 2


LOGGING = """
import logging

def logged(number):
    for level in ("debug", "info", "error"):
        getattr(logging.getLogger("mine"), level)("%s %s", level, number)
    return number
"""
LOGGING_HANDLER = """
import logging
from djl_python import Output

async def handle(inputs):
    if not inputs.is_empty():
        for level in ("debug", "info", "error"):
            getattr(logging.getLogger("mine"), level)("%s %s", level, inputs.get_batches()[0].get_as_json())
        return Output().add("done")
"""


@pytest.mark.parametrize("kind", ["functions", "handler", "asynchronous handler"])
def test_the_level_reaches_the_workers(tmp_path, kind):
    def said(server, number):
        assert server.client.post("/predictions/m", json=number).status_code == 200
        told = server.log.read_text().splitlines()
        return [level for level in ("debug", "info", "error") if f"{level} {number}" in told]

    if kind == "functions":
        text = "name: m\nfunctions: {one: steps:logged}\nworkflow:\n  out: [one, in]\n"
        files = {"workflow.yaml": text, "steps.py": LOGGING}
    else:
        code = LOGGING_HANDLER
        if kind == "handler":
            code = code.replace("async def", "def").replace("inputs.get_batches()[0]", "inputs")
        properties = f"option.async_mode={'true' if 'asynchronous' in kind else 'false'}\nmaxWorkers=1\n"
        files = {"model.py": code, "serving.properties": f"engine=Python\n{properties}"}
    with running(tmp_path) as server:
        answer = server.client.post("/models", params={"model_name": "m"}, content=zipped(files))
        assert answer.status_code == 200, answer.text
        assert said(server, 1) == ["info", "error"]
        server.client.post("/server/logging", params={"level": "debug"})
        assert said(server, 2) == ["debug", "info", "error"]
        server.client.post("/server/logging", params={"level": "error"})
        assert said(server, 3) == ["error"]
        # A worker that starts later knows it, too.
        (pid,) = server.workers()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in server.workers())
        assert said(server, 4) == ["error"]
    with running(tmp_path, "--log-level", "debug") as server:
        assert said(server, 5) == ["debug", "info", "error"]


def test_a_log_that_nobody_reads_holds_nobody_up(tmp_path):
    """The server's standard error is a pipe: full first, then without a reader."""
    server = ServerProcess(tmp_path)
    os.mkfifo(server.log)
    reader = os.open(server.log, os.O_RDONLY | os.O_NONBLOCK)
    server.start()
    try:
        register(server.client, "m")
        for _ in range(500):
            assert server.client.post("/predictions/m", json=1, headers={"x-request-id": "x" * 190}).status_code == 200
        assert value(server.client, "flowyard_log_lines_dropped_total") == 0
        os.close(reader)
        wait_until(lambda: value(server.client, "flowyard_log_lines_dropped_total"))
        assert server.client.post("/predictions/m", json=1).status_code == 200
        workers = server.workers()
        assert server.stop() == 0
        wait_until(lambda: all(is_gone(pid) for pid in workers))
    finally:
        if server.process is not None:
            server.kill()


PRINTING = """
import logging
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    print("[METRICS]Inference.Milliseconds:311|#Model:printing|1650953744320|g")
    logging.info("[METRICS]Tokens.Count:5|#Model:printing|1650953744320|c")
    print("before [METRICS]broken")
    return Output().add("OK")
"""


def test_metrics_that_djls_handlers_print(http):
    archive = zipped({"model.py": PRINTING, "serving.properties": "engine=Python\n"})
    assert http.post("/models", params={"model_name": "printing", "max_worker": 1}, content=archive).status_code == 200
    for _ in range(2):
        assert http.post("/predictions/printing", content=b"x").text == "OK"

    def told(path: str, name: str) -> str:
        return http.get(path, params={"name[]": name}).text

    # Values come behind the answer that they belong to.
    wait_until(lambda: 'Tokens_total{Model="printing",model="printing",version=""} 10.0' in told("/metrics", "Tokens_total"))
    assert 'Inference{Model="printing",model="printing",version=""} 311.0' in told("/metrics", "Inference")
    assert 'Inference{Model="printing"} 311.0' in told("/server/metrics", "Inference")
    assert 'Tokens_total{Model="printing"} 10.0' in told("/server/metrics", "Tokens_total")
