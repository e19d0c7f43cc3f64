"""TorchServe's and MMS's APIs beside the native one, on one registry."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from support.archives import linear_onnx, zipped
from support.files import file_server
from support.replay import free_port
from support.server import ServerProcess, is_gone, running, wait_until

HANDLER = """
import os, time

class Handler:
    def initialize(self, context):
        self.context = context
        if context.model_name == "broken":
            raise ValueError("the weights are missing")

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"rows": len(data)}]
        out = []
        for index, row in enumerate(data):
            body = row.get("body") or b""
            text = body.decode() if isinstance(body, (bytes, bytearray)) else str(body)
            if text.startswith("sleep"):
                time.sleep(float(text.split()[1]))
            if text == "pid":
                text = str(os.getpid())
            out.append(f"{context.manifest['model'].get('modelVersion')}:{text}")
        return out
"""
ADDRESSES = {
    "FLOWYARD_TORCHSERVE_INFERENCE_ADDRESS": "http://127.0.0.1:0",
    "FLOWYARD_TORCHSERVE_MANAGEMENT_ADDRESS": "http://127.0.0.2:0",
    "FLOWYARD_TORCHSERVE_METRICS_ADDRESS": "http://127.0.0.3:0",
    "FLOWYARD_MMS_INFERENCE_ADDRESS": "http://127.0.0.4:0",
    "FLOWYARD_MMS_MANAGEMENT_ADDRESS": "http://127.0.0.5:0",
}
SETTINGS = {
    "FLOWYARD_TORCHSERVE_MODEL_API": "true",
    "FLOWYARD_DISABLE_TOKEN_AUTHORIZATION": "true",
    "FLOWYARD_METRICS_MODE": "prometheus",
}


def archive(name: str, version: str = "1.0", config: str = "") -> bytes:
    model = {"modelName": name, "handler": "handler.py", "modelVersion": version} | (
        {"configFile": "model-config.yaml"} if config else {}
    )
    manifest = {"createdOn": "01/01/2026 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    files = {"handler.py": HANDLER, "MAR-INF/MANIFEST.json": json.dumps(manifest)}
    return zipped(files | ({"model-config.yaml": config} if config else {}))


class Server:
    """The addresses of one server."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.clients = [process.client_of(url) for url in process.urls]
        self.inference, self.management, self.metrics, self.mms, self.mms_management, self.native = self.clients

    def archive(self, name: str, version: str = "1.0") -> str:
        file = f"{name}-{version}.mar"
        (self.process.model_store / file).write_bytes(archive(name, version))
        return file

    def register(self, name: str, version: str = "1.0", **parameters: object) -> httpx2.Response:
        url = self.archive(name, version)
        return self.management.post("/models", params={"url": url, **parameters})


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    flags = ("--dialect", "torchserve", "--dialect", "mms")
    with running(tmp_path_factory.mktemp("dialects"), *flags, env=ADDRESSES | SETTINGS) as process:
        started = Server(process)
        yield started
        for client in started.clients:
            client.close()


def test_a_model_is_seen_and_answers_through_every_api(server):
    assert server.register("shared", initial_workers=1).json() == {
        "status": 'Model "shared" Version: 1.0 registered with 1 initial workers'
    }
    assert server.mms_management.get("/models/shared").json()["modelVersion"] == "1.0"
    assert server.native.get("/models/shared").json()[0]["version"] == "1.0"
    for client in (server.inference, server.mms, server.native):
        answer = client.post("/predictions/shared", content=b"hi")
        assert (answer.status_code, answer.text) == (200, "1.0:hi")
    server.native.delete("/models/shared").raise_for_status()
    assert server.inference.post("/predictions/shared").json()["message"] == "Model not found: shared"


def test_a_model_of_another_engine_answers_too(server):
    (server.process.model_store / "double.onnx").write_bytes(linear_onnx([[2.0]]))
    server.management.post(
        "/models", params={"url": "double.onnx", "model_name": "double", "initial_workers": 1}
    ).raise_for_status()
    answer = server.inference.post("/predictions/double", json=[[3.0]])
    assert (answer.status_code, answer.json()) == (200, [[6.0]])
    assert server.management.get("/models/double").json()[0]["runtime"] == "python"


def test_the_first_version_answers_until_another_one_is_chosen(server):
    for version in ("1.0", "2.0"):
        server.register("versions", version, initial_workers=1).raise_for_status()
    assert [server.inference.post("/predictions/versions", content=b"x").text for _ in range(3)] == ["1.0:x"] * 3
    assert server.inference.post("/predictions/versions/2.0", content=b"x").text == "2.0:x"
    refused = server.management.delete("/models/versions")
    assert (refused.status_code, refused.json()["message"]) == (403, "Cannot remove default version for model versions")
    server.management.put("/models/versions/2.0/set-default").raise_for_status()
    assert server.inference.post("/predictions/versions", content=b"x").text == "2.0:x"
    server.management.delete("/models/versions/1.0").raise_for_status()
    server.management.delete("/models/versions").raise_for_status()
    assert server.management.get("/models/versions").status_code == 404


def test_a_registration_that_fails_says_why_and_leaves_nothing(server):
    for _ in range(2):
        answer = server.register("broken", initial_workers=1)
        assert (answer.status_code, answer.json()["message"]) == (500, "Failed to start workers for model broken version: 1.0")
        assert "the weights are missing" in answer.json()["detail"]
        assert server.management.get("/models/broken").status_code == 404
    assert server.register("broken").status_code == 200
    answer = server.management.put("/models/broken", params={"min_worker": 1, "synchronous": "true"})
    assert (answer.status_code, answer.json()["message"]) == (500, "Failed to start workers for model broken version: null")
    assert "the weights are missing" in answer.json()["detail"]
    assert server.inference.get("/ping").json() == {"status": "Healthy"}
    again = server.management.put("/models/broken", params={"min_worker": 1, "synchronous": "true"})
    assert (again.status_code, again.json()) == (206, {"status": "Workers scaling in progress..."})
    server.management.delete("/models/broken").raise_for_status()


def test_where_nobody_waits_the_workers_come_later(server):
    answer = server.register("later", initial_workers=1, synchronous="false")
    assert (answer.status_code, answer.json()) == (202, {"status": "Processing worker updates..."})
    wait_until(lambda: [worker["status"] for worker in server.management.get("/models/later").json()[0]["workers"]] == ["READY"])
    assert server.inference.post("/predictions/later", content=b"x").text == "1.0:x"


def test_a_description_travels_alone(server):
    server.register("alone", initial_workers=1, batch_size=8, max_batch_delay=300).raise_for_status()
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.inference.post("/predictions/alone", content=b"x").text))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    described = server.management.get("/models/alone", params={"customized": "true"}).json()[0]
    for thread in threads:
        thread.join()
    assert described["customizedMetadata"] == {"rows": 1}
    assert answers == ["1.0:x"] * 4


def test_timeout_says_how_long_running_requests_get_when_a_model_goes(server):
    server.register("hasty", initial_workers=1).raise_for_status()
    (worker,) = server.management.get("/models/hasty").json()[0]["workers"]
    answers: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: answers.append(server.inference.post("/predictions/hasty", content=b"sleep 50")))
    thread.start()
    wait_until(
        lambda: server.native.get("/models/hasty").json()[0]["models"][0]["workerGroups"][0]["workers"][0]["state"] == "busy"
    )
    began = time.monotonic()
    server.management.delete("/models/hasty", params={"timeout": 0}).raise_for_status()
    thread.join()
    assert time.monotonic() - began < 20
    assert answers[0].status_code in (500, 503)
    wait_until(lambda: is_gone(worker["pid"]))


def test_timeout_says_how_long_surplus_workers_get(server):
    server.register("shrinking", initial_workers=1).raise_for_status()
    (worker,) = server.management.get("/models/shrinking").json()[0]["workers"]
    thread = threading.Thread(target=lambda: server.inference.post("/predictions/shrinking", content=b"sleep 50"))
    thread.start()
    wait_until(
        lambda: server.native.get("/models/shrinking").json()[0]["models"][0]["workerGroups"][0]["workers"][0]["state"] == "busy"
    )
    server.management.put("/models/shrinking", params={"min_worker": 0, "timeout": 0}).raise_for_status()
    thread.join()
    wait_until(lambda: is_gone(worker["pid"]))


def test_number_gpu_without_gpus_means_the_cpu(server):
    server.register("placed").raise_for_status()
    answer = server.management.put("/models/placed", params={"min_worker": 1, "number_gpu": 0, "synchronous": "true"})
    assert answer.json() == {"status": "Workers scaled to 1 for model: placed"}
    assert [worker["gpu"] for worker in server.management.get("/models/placed").json()[0]["workers"]] == [False]


def test_fewer_workers_than_none_are_answered_as_torchserve_s_own_tests_want_it(server):
    server.register("negative").raise_for_status()
    answer = server.management.put("/models/negative", params={"min_worker": -1})
    assert (answer.status_code, answer.json()["type"]) == (500, "IndexOutOfBoundsException")
    assert "min_worker: -1 is not allowed" in answer.json()["message"]
    assert server.mms_management.put("/models/negative", params={"min_worker": -1}).status_code == 400


CONFIG = """
maxRetryTimeoutInSec: 5
clientTimeoutInMills: 700
useJobTicket: true
useVenv: true
parallelType: custom
maxNumSequence: 3
sequenceMaxIdleMSec: 4
responseTimeout: 7
jobQueueSize: 8
deviceIds: [0]
"""


def test_a_description_tells_what_the_archive_asks_for(server):
    (server.process.model_store / "configured.mar").write_bytes(archive("configured", config=CONFIG))
    server.management.post("/models", params={"url": "configured.mar", "response_timeout": 50}).raise_for_status()
    (found,) = server.management.get("/models/configured").json()
    assert {
        key: found[key]
        for key in ("maxRetryTimeoutInSec", "clientTimeoutInMills", "useJobTicket", "useVenv", "parallelType", "maxNumSequence")
    } == {
        "maxRetryTimeoutInSec": 5,
        "clientTimeoutInMills": 700,
        "useJobTicket": True,
        "useVenv": True,
        "parallelType": "custom",
        "maxNumSequence": 3,
    }
    assert (found["sequenceMaxIdleMSec"], found["responseTimeout"], found["engine"]) == (4, 7, "Torch")
    assert found["jobQueueStatus"] == {"remainingCapacity": 8, "pendingRequests": 0}
    assert "deviceIds" not in found


def test_a_number_of_processes_that_is_none(server):
    (server.process.model_store / "unnumbered.mar").write_bytes(
        archive("unnumbered", config="parallelType: tp\nparallelLevel: 0\n")
    )
    answer = server.management.post("/models", params={"url": "unnumbered.mar"})
    assert (answer.status_code, answer.json()["type"]) == (400, "InvalidModelException")
    assert "model-config.yaml: parallelLevel: 0 is not allowed; expected a number from 1 to 64" in answer.json()["message"]
    answer = server.native.post("/models", params={"url": "unnumbered.mar"})
    assert (answer.status_code, answer.json()["type"]) == (400, "MalformedModelException")


def test_a_description_tells_how_many_processes_a_worker_has(server):
    config = "parallelType: pp\ntorchrun: {nproc-per-node: 2}\nminWorkers: 1\nmaxWorkers: 1\n"
    (server.process.model_store / "two.mar").write_bytes(archive("two", config=config))
    server.management.post("/models", params={"url": "two.mar"}).raise_for_status()
    (found,) = server.management.get("/models/two").json()
    assert (found["parallelType"], found["parallelLevel"], len(found["workers"])) == ("pp", 2, 1)
    server.management.delete("/models/two").raise_for_status()


def test_an_archive_may_want_requests_refused_while_all_workers_work_and_answered_in_time(server):
    (server.process.model_store / "tickets.mar").write_bytes(archive("tickets", config=CONFIG))
    server.management.post("/models", params={"url": "tickets.mar", "initial_workers": 1}).raise_for_status()
    answers: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: answers.append(server.inference.post("/predictions/tickets", content=b"sleep 3")))
    thread.start()
    wait_until(
        lambda: server.native.get("/models/tickets").json()[0]["models"][0]["workerGroups"][0]["workers"][0]["state"] == "busy"
    )
    refused = server.inference.post("/predictions/tickets", content=b"x")
    assert (refused.status_code, refused.json()["type"]) == (503, "ServiceUnavailableException")
    thread.join()
    assert (answers[0].status_code, answers[0].json()["type"]) == (408, "RequestTimeoutException")


def test_metrics_have_torchserve_s_names(server):
    server.register("measured", initial_workers=1).raise_for_status()
    server.inference.post("/predictions/measured", content=b"x").raise_for_status()
    text = server.metrics.get("/metrics", params={"name[]": "ts_inference_requests_total"}).text
    assert 'ts_inference_requests_total{model_name="measured",model_version="default",hostname="' in text
    assert text.endswith("\n")
    assert '",} ' in text


MEASURED = """
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes

def handle(data, context):
    if data is None:
        return None
    context.metrics.add_counter("Seen", 2)
    context.metrics.add_time("HandlerTime", 12.5)
    context.metrics.add_metric("Spread", 0.3, "s", dimensions=[Dimension("Part", "a")], metric_type=MetricTypes.HISTOGRAM)
    return ["OK"] * len(data)
"""


def test_what_handlers_measure_is_told_with_the_originals_names_and_labels(server):
    manifest = {
        "runtime": "python",
        "model": {"modelName": "own", "handler": "h.py", "modelVersion": "2"},
        "archiverVersion": "1",
    }
    content = zipped({"h.py": MEASURED, "MAR-INF/MANIFEST.json": json.dumps(manifest)})
    (server.process.model_store / "own.mar").write_bytes(content)
    server.management.post("/models", params={"url": "own.mar", "initial_workers": 1}).raise_for_status()
    for _ in range(2):
        server.inference.post("/predictions/own", content=b"x").raise_for_status()

    def told(*names: str) -> str:
        return server.metrics.get("/metrics", params=[("name[]", name) for name in names]).text

    # Values come behind the answer that they belong to.
    wait_until(lambda: 'Seen{ModelName="own",Level="Model",Hostname="' in told("Seen") and "} 4.0" in told("Seen"))
    seen, time_taken = told("Seen"), told("HandlerTime")
    assert seen.startswith("# HELP Seen Torchserve prometheus counter metric with unit: Count\n# TYPE Seen counter\n")
    assert 'HandlerTime{ModelName="own",Level="Model",Hostname="' in time_taken
    assert time_taken.endswith('",} 12.5\n')
    assert 'PredictionTime{ModelName="own",Level="Model",Hostname="' in told("PredictionTime")
    assert "HandlerTime" not in seen
    spread = told("Spread")
    assert '",le="0.25",} 0.0\n' in spread
    assert '",le="0.5",} 2.0\n' in spread
    assert 'Spread_count{Part="a",ModelName="own",Level="Model",Hostname="' in spread

    native = server.native.get("/metrics", params={"name[]": "Seen"}).text
    assert 'Seen_total{Level="Model",ModelName="own",model="own",version="2"} 4.0' in native


def test_requests_of_every_dialect_count_in_the_native_metrics(server):
    server.register("counted", initial_workers=1).raise_for_status()
    for client in (server.inference, server.mms, server.native):
        client.post("/predictions/counted", content=b"x").raise_for_status()
    server.inference.get("/nothing")
    text = server.native.get("/metrics").text
    assert 'flowyard_requests_total{code="200",model="counted",version="1.0"} 3.0' in text
    assert 'flowyard_request_duration_seconds_count{model="counted",version="1.0"} 3.0' in text
    assert 'flowyard_requests_in_flight{model="counted",version="1.0"} 0.0' in text
    assert 'flowyard_http_responses_total{api="management",code="404"}' in text


def test_a_timeline_is_told_to_those_who_ask_for_it(server):
    server.register("timed", initial_workers=1).raise_for_status()
    for client in (server.inference, server.mms):
        answer = client.post("/predictions/timed", content=b"x", headers={"X-Flowyard-Trace": "1"})
        trace = json.loads(answer.headers["x-flowyard-trace"])
        assert (answer.text, trace["workflow"], trace["status"]) == ("1.0:x", "timed", 200)
        assert trace["request_id"] == answer.headers["x-request-id"]
        assert trace["nodes"][0]["compute_ms"] >= 0
    failed = server.inference.post("/predictions/timed", content=b"sleep x", headers={"X-Flowyard-Trace": "1"})
    assert (failed.status_code, json.loads(failed.headers["x-flowyard-trace"])["status"]) == (503, 503)
    assert "x-flowyard-trace" not in server.inference.post("/predictions/timed", content=b"x").headers
    assert server.inference.post("/predictions/timed", headers={"X-Flowyard-Trace": "yes"}).status_code == 400


WRONG = [
    ("management", "POST", "/models", {}, 400),
    ("management", "POST", "/models", {"url": ""}, 404),
    ("management", "POST", "/models", {"url": "none.mar"}, 404),
    ("management", "POST", "/models", {"url": "../x.mar"}, 404),
    ("management", "POST", "/models", {"url": "/etc/passwd"}, 404),
    ("management", "POST", "/models", {"url": "file:///etc/passwd"}, 404),
    ("management", "POST", "/models", {"url": "https://models.example/x.mar"}, 404),
    ("management", "POST", "/models", {"url": "m\x00.mar"}, 404),
    ("management", "POST", "/models", {"url": "x" * 9000}, 404),
    ("management", "PUT", "/models/none", {"min_worker": "1"}, 404),
    ("management", "PUT", "/models/none", {"min_worker": "2", "max_worker": "1"}, 400),
    ("management", "PUT", "/models/none", {"min_worker": "-1"}, 404),
    ("management", "PUT", "/models/none", {"min_worker": "0", "max_worker": "-1"}, 400),
    ("management", "PUT", "/models/none", {"min_worker": "99999"}, 400),
    ("management", "PUT", "/models/none/1.0/set-default", {}, 404),
    ("management", "DELETE", "/models/none", {}, 404),
    ("management", "GET", "/models/none", {"customized": "true"}, 404),
    ("management", "GET", "/v1/models/none", {}, 404),
    ("management", "POST", "/v1/models/none", {}, 405),
    ("management", "POST", "/workflows", {}, 400),
    ("management", "POST", "/workflows", {"url": "none.war"}, 404),
    ("management", "POST", "/workflows", {"url": "../x.war"}, 404),
    ("management", "DELETE", "/workflows/none", {}, 404),
    ("inference", "POST", "/predictions/none", {}, 404),
    ("inference", "POST", "/predictions/none/1.0", {}, 404),
    ("inference", "POST", "/invocations", {"model_name": ""}, 404),
    ("inference", "POST", "/invocations", {"model_name": "none"}, 404),
    ("inference", "POST", "/wfpredict/none", {}, 404),
    ("inference", "GET", "/nothing", {}, 404),
    ("inference", "GET", "/", {}, 405),
    ("metrics", "GET", "/nothing", {}, 404),
    ("mms", "POST", "/predictions/none", {}, 404),
    ("mms", "POST", "/invocations", {}, 400),
    ("mms", "POST", "/none/1.0/predict", {}, 404),
    ("mms_management", "POST", "/models", {}, 400),
    ("mms_management", "POST", "/models", {"url": "none.mar"}, 404),
    ("mms_management", "POST", "/models", {"url": "../x.mar"}, 404),
    ("mms_management", "POST", "/models", {"url": "https://models.example/x.mar"}, 404),
    ("mms_management", "POST", "/models", {"url": "none.mar", "preload_model": "maybe"}, 400),
    ("mms_management", "PUT", "/models/none", {"min_worker": "1"}, 404),
    ("mms_management", "PUT", "/models/none", {"min_worker": "2", "max_worker": "1"}, 400),
    ("mms_management", "DELETE", "/models/none", {}, 404),
    ("mms_management", "GET", "/models/none", {}, 404),
    ("mms_management", "PATCH", "/models/none", {}, 405),
]


@pytest.mark.parametrize(("client", "method", "path", "params", "status"), WRONG)
def test_a_mistake_is_answered_with_the_original_s_error(server, client, method, path, params, status):
    answer = getattr(server, client).request(method, path, params=params)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, status)
    assert body.keys() == {"code", "type", "message"}
    assert answer.headers["connection"] == "close"
    assert str(server.process.model_store) not in answer.text


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b'{"url": {}}', b'{"url": "x.mar", "batch_size": "dd"}', b"\xff", b"{" * 100_000]
)
@pytest.mark.parametrize("client", ["management", "mms_management"])
def test_a_body_of_json_that_is_none_is_a_4xx(server, client, body):
    answer = getattr(server, client).post("/models", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404)


def test_a_request_id_is_the_server_s_own(server):
    answer = server.inference.get("/ping", headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] != "mine"
    assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"


WRITER = """
import os
from pathlib import Path

class Writer:
    def initialize(self, context):
        self.mark = Path(context.system_properties["model_dir"], "deep", "mark")
        if self.mark.exists():
            raise ValueError("broken by an earlier request")

    def handle(self, data, context):
        self.mark.touch()
        os._exit(1)
"""


def test_what_a_handler_writes_where_its_model_is_is_seen_by_its_own_workers_only(server):
    manifest = {"archiverVersion": "0.12.0", "model": {"modelName": "writer", "handler": "writer.py"}}
    files = {"writer.py": WRITER, "deep/file": "x", "MAR-INF/MANIFEST.json": json.dumps(manifest)}
    (server.process.model_store / "writer.mar").write_bytes(zipped(files))
    for name in ("first", "second"):
        params = {"url": "writer.mar", "model_name": name, "initial_workers": 1}
        server.management.post("/models", params=params).raise_for_status()
    assert server.inference.post("/predictions/first").json()["message"] == "Worker died."
    (worker,) = server.management.get("/models/first").json()[0]["workers"]
    assert worker["status"] == "UNLOADING"
    assert server.management.get("/v1/models/first").json()["ready"]
    server.management.delete("/models/first").raise_for_status()
    params = {"url": "writer.mar", "model_name": "first", "initial_workers": 1}
    server.management.post("/models", params=params).raise_for_status()
    assert [model["workers"][0]["status"] for model in server.management.get("/models/second").json()] == ["READY"]
    workplaces = server.process.state_dir / "workplaces"
    before = set(workplaces.iterdir())
    server.management.delete("/models/first").raise_for_status()
    assert len(before - set(workplaces.iterdir())) == 1


def test_mms_tells_what_a_remote_server_has_answered(tmp_path):
    with file_server() as files:
        addresses = {key: value for key, value in ADDRESSES.items() if "MMS" in key}
        env = addresses | {"FLOWYARD_ALLOWED_URL_REGEXES": "http://127.*", "FLOWYARD_FETCH_ATTEMPTS": "1"}
        with running(tmp_path, "--dialect", "mms", host=None, env=env) as process, process.client_of(process.urls[1]) as http:
            for url, code in ((f"{files.url}/none.mar", 404), (files.status("/busy.mar", 503), 503)):
                answer = http.post("/models", params={"url": url})
                assert (answer.status_code, answer.json()["type"]) == (400, "DownloadModelException")
                assert answer.json()["message"] == f"Failed to download model from: {url}, code: {code}"
            url = f"http://127.0.0.1:{free_port()}/m.mar"
            assert http.post("/models", params={"url": url}).json()["message"] == f"Failed to download model from: {url}"


WANTING = {
    "MAR-INF/MANIFEST.json": '{"model": {"modelName": "wanting", "handler": "h.py", "requirementsFile": "needs.txt"}}',
    "h.py": "import nothing_of_that_name\ndef handle(data, context): return data and ['OK'] * len(data)",
    "needs.txt": "nothing-of-that-name==1.0\n",
}


def test_what_an_archive_wants_installed_is_missed_by_its_workers(server):
    (server.process.model_store / "wanting.mar").write_bytes(zipped(WANTING))
    answer = server.management.post("/models", params={"url": "wanting.mar", "initial_workers": 1})
    body = answer.json()
    assert (answer.status_code, body["message"]) == (500, "Failed to start workers for model wanting version: 1.0")
    assert "No module named 'nothing_of_that_name'" in body["detail"]
    assert "install_requirements" in body["detail"]


def test_what_an_archive_wants_installed_and_cannot_be(tmp_path):
    env = ADDRESSES | SETTINGS | {"FLOWYARD_INSTALL_REQUIREMENTS": "true", "FLOWYARD_PIP_ARGS": "--no-index"}
    with running(tmp_path, "--dialect", "torchserve", host=None, env=env) as process:
        (process.model_store / "wanting.mar").write_bytes(zipped(WANTING))
        with process.client_of(process.urls[1]) as management:
            answer = management.post("/models", params={"url": "wanting.mar"})
            assert (answer.status_code, answer.json()) == (
                400,
                {
                    "code": 400,
                    "type": "ModelException",
                    "message": "Custom pip package installation failed for model wanting",
                },
            )


def workflow(name: str, node: str, model: str) -> bytes:
    manifest = {
        "createdOn": "01/01/2026 00:00:00",
        "workflow": {"workflowName": name, "specFile": "spec.yaml", "handler": "the-steps.py"},
        "archiverVersion": "0.2.15",
    }
    spec = f"models:\n  {node}: {{url: {model}}}\ndag:\n  begin: [{node}]\n"
    steps = "def begin(data, context):\n    return data and [row['body'] for row in data]\n"
    return zipped({"WAR-INF/MANIFEST.json": json.dumps(manifest), "spec.yaml": spec, "the-steps.py": steps})


def test_a_workflow_whose_file_has_no_name_of_a_module_and_whose_node_has_its_own(server):
    store = server.process.model_store
    server.archive("node")
    (store / "chain.war").write_bytes(workflow("chain", "chain", "node-1.0.mar"))
    server.management.post("/workflows", params={"url": "chain.war"}).raise_for_status()
    assert server.inference.post("/wfpredict/chain", content=b"x").text == "1.0:x"
    (store / "wants.mar").write_bytes(zipped(WANTING))
    (store / "wanting.war").write_bytes(workflow("wanting", "wanting", "wants.mar"))
    answer = server.management.post("/workflows", params={"url": "wanting.war"})
    failures = "[Failed to start workers for model wanting__wanting version: 1.0]"
    assert (answer.status_code, answer.json()["type"]) == (500, "WorkflowException")
    assert answer.json()["message"] == f"Workflow wanting has failed to register. Failures: {failures}"


def test_a_remote_workflow_whose_file_is_there_already(tmp_path):
    with file_server() as files:
        env = ADDRESSES | SETTINGS | {"FLOWYARD_ALLOWED_URL_REGEXES": "http://127.*"}
        with running(tmp_path, "--dialect", "torchserve", host=None, env=env) as process:
            (process.model_store / "node.mar").write_bytes(archive("node"))
            url = files.file("/chain.war", workflow("chain", "n", "node.mar"))
            with process.client_of(process.urls[1]) as management:
                management.post("/workflows", params={"url": url}).raise_for_status()
                again = management.post("/workflows", params={"url": url})
                assert (again.status_code, again.json()["type"]) == (500, "FileAlreadyExistsException")
                management.delete("/workflows/chain").raise_for_status()
                management.post("/workflows", params={"url": url}).raise_for_status()


def test_an_unknown_envelope_lets_no_handler_start_and_the_open_inference_protocol_knows_no_versions(tmp_path):
    more = {"FLOWYARD_SERVICE_ENVELOPE": "bogus", "FLOWYARD_TS_OPEN_INFERENCE_PROTOCOL": "true"}
    with running(tmp_path, "--dialect", "torchserve", host=None, env=ADDRESSES | SETTINGS | more) as process:
        (process.model_store / "m.mar").write_bytes(archive("m"))
        with process.client_of(process.urls[1]) as management:
            assert management.post("/models", params={"url": "m.mar"}).status_code == 200
            answer = management.put("/models/m", params={"min_worker": 1, "synchronous": "true"})
            assert (answer.status_code, answer.json()["message"]) == (500, "Failed to start workers for model m version: null")
            assert "there is no envelope 'bogus'" in answer.json()["detail"]
        with process.client_of(process.urls[0]) as inference:
            assert inference.get("/v2/health/ready").json() == {"ready": True}
            answer = inference.get("/v2/models/m/versions/1/infer")
            assert (answer.status_code, answer.json()) == (501, {"error": "Model versioning is not yet supported."})
            assert inference.get("/v2/other").status_code == 404


def test_tokens_are_asked_for_unless_the_operator_says_otherwise(tmp_path):
    addresses = {key: value for key, value in ADDRESSES.items() if "MMS" not in key}
    process = ServerProcess(tmp_path, "--dialect", "torchserve", host=None, env=addresses | {"FLOWYARD_CORS_ALLOWED_ORIGIN": "*"})
    process.cwd = tmp_path
    process.start()
    with process.client_of(process.urls[0]) as inference, process.client_of(process.urls[1]) as management:
        check_tokens(tmp_path, inference, management)
    assert process.stop() == 0
    assert not (tmp_path / "key_file.json").exists()


def check_tokens(folder: Path, inference: httpx2.Client, management: httpx2.Client) -> None:
    assert inference.get("/ping").json()["type"] == "InvalidKeyException"
    keys = json.loads((folder / "key_file.json").read_text())
    bearer = {"authorization": f"Bearer {keys['inference']['key']}"}
    assert inference.get("/ping", headers=bearer).json() == {"status": "Healthy"}
    preflight = {"origin": "http://a", "access-control-request-method": "POST"}
    assert inference.options("/ping", headers=preflight).status_code == 200
    api = {"authorization": f"Bearer {keys['API']['key']}"}
    assert management.get("/token", params={"type": "inference"}, headers=api).status_code == 200
    assert inference.get("/ping", headers=bearer).status_code == 400
    assert management.post("/models", headers={"authorization": f"Bearer {keys['management']['key']}"}).status_code == 405
