"""TorchServe's gRPC services: a real server, and clients as protoc makes them."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from support.archives import linear_onnx, zipped
from support.certificates import issue
from support.rpc import Clients, addresses, clients, generate
from support.server import ServerProcess, running, wait_until

HANDLER = """
import os, time
from ts.handler_utils.utils import send_intermediate_predict_response

class Handler:
    def initialize(self, context):
        if context.model_name == "broken":
            raise ValueError("the weights are missing")
        self.sums = {}

    def handle(self, data, context):
        return [self.answer(row, data, context, index) for index, row in enumerate(data)]

    def answer(self, row, data, context, index):
        if context.get_request_header(index, "describe") == "True":
            return {"rows": len(data)}
        command, _, rest = bytes(row.get("data", b"")).decode().partition(" ")
        if command == "inputs":
            return {name: [type(value).__name__, value.decode()] for name, value in sorted(row.items())}
        if command == "rows":
            return str(len(data))
        if command == "version":
            return context.manifest["model"]["modelVersion"]
        if command == "header":
            return str(context.get_request_header(index, rest))
        if command == "raise":
            raise ValueError("boom")
        if command == "status":
            context.set_response_status(507, "Full", index)
            return "full"
        if command == "wait":
            open(rest + ".begun", "w").close()
            while not os.path.exists(rest):
                time.sleep(0.005)
        if command == "stream":
            for piece in ("one ", "two "):
                send_intermediate_predict_response([piece], context.request_ids, "", 200, context)
            if rest.startswith("/"):
                while not os.path.exists(rest):
                    time.sleep(0.005)
            if rest == "fail":
                raise ValueError("after pieces")
        if command == "add":
            sequence = context.get_sequence_id(index)
            self.sums[sequence] = self.sums.get(sequence, 0) + int(rest)
            return str(self.sums[sequence])
        return "done"
"""
SLOW = """
import os, time

class Handler:
    def initialize(self, context):
        while not os.path.exists("GO"):
            time.sleep(0.005)

    def handle(self, data, context):
        return ["loaded"] * len(data)
"""
KSERVE = """
import json

class Handler:
    def initialize(self, context): ...
    def handle(self, data, context):
        asked = data[0]["body"]
        if asked["inputs"][0]["name"] == "nonsense":
            return ["nonsense"]
        outputs = [{**tensor, "name": tensor["name"] + "_out"} for tensor in asked["inputs"]]
        return [json.dumps({"id": asked["id"], "model_name": asked["model_name"], "model_version": "1.0", "outputs": outputs})]
"""
STEPS = """
import functools, time

class Handler:
    def initialize(self, context):
        self.asked, self.stopped = {}, set()

    def handle(self, data, context):
        for index, (request, row) in enumerate(zip(context.request_ids.values(), data)):
            if request not in self.asked:
                self.asked[request] = (context.get_sequence_id(index), bytes(row["data"]).decode())
            sequence, text = self.asked[request]
            if text == "stop":
                self.stopped.add(sequence)
        time.sleep(0.002)
        context.stopping_criteria = [functools.partial(self.has_ended, request) for request in context.request_ids.values()]
        told = [self.asked[request][1] for request in context.request_ids.values()]
        return [str(len(data)) if text == "rows" else text for text in told]

    def has_ended(self, request, result):
        sequence, text = self.asked[request]
        if text == "stream" and sequence not in self.stopped:
            return False
        del self.asked[request]
        return True if text == "stream" else None
"""
STATEFUL = {
    "runtime": "python",
    "model": {"modelName": "stateful", "handler": "handler.py", "modelVersion": "1.0", "configFile": "model-config.yaml"},
    "archiverVersion": "0.12.0",
}
ENV = {
    "FLOWYARD_ENABLE_GRPC_API": "true",
    "FLOWYARD_GRPC_INFERENCE_PORT": "0",
    "FLOWYARD_GRPC_MANAGEMENT_PORT": "0",
    "FLOWYARD_TORCHSERVE_INFERENCE_ADDRESS": "http://127.0.0.1:0",
    "FLOWYARD_TORCHSERVE_MANAGEMENT_ADDRESS": "http://127.0.0.2:0",
    "FLOWYARD_ENABLE_METRICS_API": "false",
    "FLOWYARD_TORCHSERVE_MODEL_API": "true",
    "FLOWYARD_DISABLE_TOKEN_AUTHORIZATION": "true",
    "FLOWYARD_MAX_REQUEST_SIZE": "100000",
    "FLOWYARD_TS_OPEN_INFERENCE_PROTOCOL": "true",
}
FLAGS = ("--dialect", "torchserve")


def archive(name: str, version: str = "1.0", code: str = HANDLER) -> bytes:
    manifest = {
        "runtime": "python",
        "model": {"modelName": name, "handler": "handler.py", "modelVersion": version},
        "archiverVersion": "0.12.0",
    }
    return zipped({"handler.py": code, "MAR-INF/MANIFEST.json": json.dumps(manifest)})


class Server:
    """One server with its clients."""

    def __init__(self, process: ServerProcess, rpc: Clients) -> None:
        self.process = process
        self.rpc = rpc
        self.http = process.client_of(process.urls[0])
        self.http_management = process.client_of(process.urls[1])

    def store(self, name: str, version: str = "1.0", code: str = HANDLER) -> str:
        url = f"{name}-{version}.mar"
        (self.process.model_store / url).write_bytes(archive(name, version, code))
        return url

    def register(self, name: str, version: str = "1.0", code: str = HANDLER, **fields: object) -> str:
        given = {"initial_workers": 1, "synchronous": True} | fields
        return self.rpc.manage("RegisterModel", url=self.store(name, version, code), **given)

    def close(self) -> None:
        self.rpc.close()
        self.http.close()
        self.http_management.close()


@contextlib.contextmanager
def serving(folder: Path, env: dict[str, str] | None = None, root: bytes | None = None) -> Iterator[Server]:
    with running(folder, *FLAGS, env=ENV | (env or {}), host=None) as process:
        server = Server(process, clients(process, root))
        try:
            yield server
        finally:
            server.close()


@pytest.fixture(scope="module", autouse=True)
def stubs(tmp_path_factory) -> None:
    generate(tmp_path_factory.mktemp("stubs"))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("grpc")) as started:
        yield started


@pytest.fixture(scope="module")
def model(server) -> str:
    """One model that all tests may ask."""
    assert server.register("shared") == 'Model "shared" Version: 1.0 registered with 1 initial workers'
    return "shared"


@pytest.fixture
def rpc(server) -> Clients:
    return server.rpc


def failure(call) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code().name, raised.value.details()


# ---- management ----


def test_a_model_lives_through_grpc_and_http_sees_it(server, rpc):
    url = server.store("living")
    assert rpc.manage("RegisterModel", url=url) == (
        'Model "living" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers for the model.'
    )
    assert server.http_management.get("/models/living").json()[0]["minWorkers"] == 0
    assert rpc.manage("ScaleWorker", model_name="living", min_worker=1, synchronous=True) == (
        "Workers scaled to 1 for model: living"
    )
    assert rpc.manage("ScaleWorker", model_name="living", model_version="1.0", min_worker=1, max_worker=2, synchronous=True) == (
        "Workers scaled to 1 for model: living, version: 1.0"
    )
    assert rpc.manage("ScaleWorker", model_name="living") == "Processing worker updates..."
    (described,) = json.loads(rpc.manage("DescribeModel", model_name="living"))
    (seen,) = server.http_management.get("/models/living").json()
    assert list(described) == list(seen)
    assert {**described, "workers": None} == {**seen, "workers": None}
    assert [worker["id"] for worker in described["workers"]] == [worker["id"] for worker in seen["workers"]]
    assert (described["minWorkers"], described["maxWorkers"]) == (1, 1)
    assert server.register("living", "2.0") == 'Model "living" Version: 2.0 registered with 1 initial workers'
    assert len(json.loads(rpc.manage("DescribeModel", model_name="living", model_version="all", customized=True))) == 2
    assert rpc.manage("SetDefault", model_name="living", model_version="2.0") == (
        'Default version successfully updated for model "living" to "2.0"'
    )
    assert server.http.post("/predictions/living", files={"data": b"version"}).text == "2.0"
    assert rpc.manage("UnregisterModel", model_name="living", model_version="1.0") == 'Model "living" unregistered'
    assert rpc.manage("UnregisterModel", model_name="living") == 'Model "living" unregistered'
    assert server.http_management.get("/models/living").status_code == 404


def test_a_model_is_asked_what_it_says_of_itself(rpc, model):
    (described,) = json.loads(rpc.manage("DescribeModel", model_name=model, customized=True))
    assert described["customizedMetadata"] == {"rows": 1}


def test_models_are_listed_in_pages(server, rpc, model):
    rpc.manage("RegisterModel", url=server.store("paged"))
    names = [item["modelName"] for item in json.loads(rpc.manage("ListModels"))["models"]]
    assert {model, "paged"} <= set(names)
    page = json.loads(rpc.manage("ListModels", limit=1, next_page_token=1))
    assert page == {"nextPageToken": "2", "models": [{"modelName": names[1], "modelUrl": page["models"][0]["modelUrl"]}]}
    assert rpc.manage("ListModels", limit=-1, next_page_token=-1) == rpc.manage("ListModels")


HTTP = "org.pytorch.serve.http"
MODEL = "org.pytorch.serve.archive.model"
REFUSED = [
    ("RegisterModel", {}, "INVALID_ARGUMENT", f"Parameter url is required.\n{HTTP}.BadRequestException"),
    ("RegisterModel", {"url": "absent.mar"}, "NOT_FOUND", f"Model not found at: absent.mar\n{MODEL}.ModelNotFoundException"),
    ("RegisterModel", {"url": "../x.mar"}, "NOT_FOUND", "Relative path is not allowed in url: ../x.mar\n"),
    ("RegisterModel", {"url": "junk.mar"}, "INVALID_ARGUMENT", f"Model name is not defined.\n{MODEL}.InvalidModelException"),
    ("RegisterModel", {"url": "shared-1.0.mar"}, "ABORTED", "Model version 1.0 is already registered for model shared\n"),
    ("RegisterModel", {"url": "x.mar", "runtime": "python4"}, "INVALID_ARGUMENT", "Invalid RuntimeType value: python4\n"),
    ("RegisterModel", {"url": "x.mar", "batch_size": 2**31 - 1}, "INVALID_ARGUMENT", "Parameter batch_size: 2147483647 is not"),
    ("RegisterModel", {"url": "https://h/x.mar"}, "NOT_FOUND", "Given URL https://h/x.mar does not match any allowed URL(s)\n"),
    ("RegisterModel", {"url": "x" * 50_000}, "NOT_FOUND", "Model not found at: xxx"),
    ("ScaleWorker", {}, "NOT_FOUND", f"Model not found: \n{MODEL}.ModelNotFoundException"),
    ("ScaleWorker", {"model_name": "absent", "min_worker": 1}, "NOT_FOUND", "Model not found: absent\n"),
    (
        "ScaleWorker",
        {"model_name": "shared", "model_version": "0.0"},
        "NOT_FOUND",
        f"Model version: 0.0 does not exist for model: shared\n{MODEL}.ModelVersionNotFoundException",
    ),
    (
        "ScaleWorker",
        {"model_name": "shared", "min_worker": 2, "max_worker": 1},
        "INVALID_ARGUMENT",
        f"max_worker cannot be less than min_worker.\n{HTTP}.BadRequestException",
    ),
    ("DescribeModel", {"model_name": "absent"}, "NOT_FOUND", "Model not found: absent\n"),
    ("DescribeModel", {"model_name": "absent", "model_version": "all"}, "NOT_FOUND", "Model not found: absent\n"),
    ("DescribeModel", {"model_name": "absent", "customized": True}, "NOT_FOUND", "Model not found: absent\n"),
    ("SetDefault", {"model_name": "absent", "model_version": "1.0"}, "NOT_FOUND", "Model not found: absent\n"),
    ("SetDefault", {"model_name": "shared"}, "NOT_FOUND", "Model version  does not exist for model shared\n"),
    ("UnregisterModel", {}, "INVALID_ARGUMENT", f"Parameter model_name is required.\n{HTTP}.BadRequestException"),
    ("UnregisterModel", {"model_name": "absent"}, "NOT_FOUND", "Model not found: absent\n"),
    ("UnregisterModel", {"model_name": "shared", "model_version": "0.0"}, "NOT_FOUND", "Model version: 0.0 does not exist"),
]


@pytest.mark.parametrize(("method", "fields", "code", "text"), REFUSED)
def test_what_management_refuses(server, rpc, model, method, fields, code, text):
    (server.process.model_store / "junk.mar").write_bytes(b"junk")
    found, details = failure(lambda: rpc.manage(method, **fields))
    assert (found, details[: len(text)]) == (code, text)


def test_the_default_version_stays_while_there_are_others(server, rpc):
    for version in ("1.0", "2.0"):
        server.register("several", version)
    code, details = failure(lambda: rpc.manage("UnregisterModel", model_name="several"))
    assert (code, details) == (
        "PERMISSION_DENIED",
        f"Cannot remove default version for model several\n{HTTP}.InvalidModelVersionException",
    )


def test_workers_that_cannot_start_say_why(server, rpc):
    code, details = failure(lambda: server.register("broken"))
    first, second, reason = details.split("\n", 2)
    assert (code, first, second) == (
        "INTERNAL",
        "Failed to start workers for model broken version: 1.0",
        f"{HTTP}.InternalServerException",
    )
    assert "the weights are missing" in reason
    assert failure(lambda: rpc.manage("DescribeModel", model_name="broken"))[0] == "NOT_FOUND"


def test_a_registration_goes_on_when_its_caller_leaves(server, rpc, tmp_path):
    url = server.store("left", code=SLOW.replace("GO", f"{tmp_path}/go"))
    request = rpc.management_pb2.RegisterModelRequest(url=url, initial_workers=1, synchronous=True)
    calling = rpc.management.RegisterModel.future(request)
    wait_until(lambda: server.http_management.get("/models/left").status_code == 200)
    assert calling.cancel()
    (tmp_path / "go").touch()
    wait_until(lambda: server.http.post("/predictions/left").status_code == 200)
    assert rpc.predict("left") == b"loaded"


# ---- predictions ----


def test_ping(rpc):
    assert rpc.inference.Ping(Empty()).health == '{\n  "status": "Healthy"\n}'


def test_inputs_are_bytes_by_name(rpc, model):
    answer = json.loads(rpc.predict(model, b"inputs", input={"body": b"[1]", "more": b""}))
    assert answer == {"body": ["bytearray", "[1]"], "data": ["bytearray", "inputs"], "more": ["bytearray", ""]}


def test_versions_and_metadata_reach_the_handler(rpc, model):
    assert rpc.predict(model, b"version", model_version="1.0") == b"1.0"
    metadata = (("protocol", "gRPC"), ("x-probe", "first"), ("x-probe", "last"), ("raw-bin", b"\x00"))
    assert rpc.predict(model, b"header protocol", metadata=metadata) == b"gRPC"
    assert rpc.predict(model, b"header x-probe", metadata=metadata) == b"last"
    assert rpc.predict(model, b"header explain", metadata=(("explain", "True"),)) == b"None"


def test_the_status_that_a_handler_sets_is_of_no_account(rpc, model):
    assert rpc.predict(model, b"status") == b"full"


UNANSWERED = [
    ({"name": ""}, "INTERNAL", "Parameter model_name is required.\nBadRequestException.()"),
    ({"name": "absent"}, "INTERNAL", f"Model not found: absent\n{MODEL}.ModelNotFoundException"),
    (
        {"name": "shared", "model_version": "0.0"},
        "INTERNAL",
        f"Model version: 0.0 does not exist for model: shared\n{MODEL}.ModelVersionNotFoundException",
    ),
    ({"name": "shared", "data": b"raise"}, "UNAVAILABLE", f"Prediction failed\n{HTTP}.InternalServerException\nValueError: boom"),
]


@pytest.mark.parametrize(("fields", "code", "details"), UNANSWERED)
def test_what_cannot_be_predicted(rpc, model, fields, code, details):
    assert failure(lambda: rpc.predict(**fields)) == (code, details)
    assert failure(lambda: list(rpc.inference.StreamPredictions(rpc.request(**fields)))) == (code, details)


def test_a_model_without_workers(server, rpc):
    rpc.manage("RegisterModel", url=server.store("idle"))
    code, details = failure(lambda: rpc.predict("idle", b""))
    assert (code, details.splitlines()[1]) == ("INTERNAL", "InternalServerException.()")
    assert details.startswith(
        'Model "idle" has no worker to serve inference request. Please use scale workers API to add workers.'
    )


def test_a_message_over_the_limit_and_one_that_is_none(server, rpc, model):
    assert failure(lambda: rpc.predict(model, bytes(100_001)))[0] == "RESOURCE_EXHAUSTED"
    request = rpc.request(model, bytes(10_000_000))
    bomb = failure(lambda: rpc.inference.Predictions(request, compression=grpc.Compression.Gzip))
    assert bomb[0] == "RESOURCE_EXHAUSTED"
    method = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
    with grpc.insecure_channel(addresses(server.process)[0]) as channel:
        assert failure(lambda: channel.unary_unary(method)(b"\xff\xff")) == (
            "INVALID_ARGUMENT",
            f"The request is no org.pytorch.serve.grpc.inference.PredictionsRequest.\n{HTTP}.BadRequestException",
        )
        assert failure(lambda: channel.unary_unary(f"{method}3")(b""))[0] == "UNIMPLEMENTED"


def test_models_of_other_engines_take_tensors_and_json(server, rpc):
    (server.process.model_store / "double.onnx").write_bytes(linear_onnx([[2.0]]))
    rpc.manage("RegisterModel", url="double.onnx", model_name="double", initial_workers=1, synchronous=True)
    assert json.loads(rpc.predict("double", b"[[3.0]]")) == [[6.0]]
    assert json.loads(rpc.predict("double", input={"x": b"[[4.0]]"})) == [[8.0]]
    code, details = failure(lambda: rpc.predict("double", b'[["a"]]'))
    assert (code, details.splitlines()[1]) == ("INVALID_ARGUMENT", f"{HTTP}.BadRequestException")


def test_a_workflow_answers_by_its_name(server, rpc):
    workflow = {"workflowName": "twice", "specFile": "spec.yaml", "handler": "functions.py"}
    manifest = {"createdOn": "01/01/2026 00:00:00", "archiverVersion": "0.2.15", "workflow": workflow}
    functions = (
        "def first(data, context):\n    return data and [bytes(row['data']) + b'!' for row in data]\n"
        "def last(data, context):\n    if data and data[0]['body'] == b'no!':\n        raise ValueError('refused')\n"
        "    return data and [bytes(row['body']) * 2 for row in data]\n"
    )
    spec = "models: {}\ndag:\n  first: [last]\n"
    files = {"WAR-INF/MANIFEST.json": json.dumps(manifest), "spec.yaml": spec, "functions.py": functions}
    (server.process.model_store / "twice.war").write_bytes(zipped(files))
    registered = server.http_management.post("/workflows", params={"url": "twice.war"})
    assert registered.status_code == 200, registered.text
    assert rpc.predict("twice", b"yes") == b"yes!yes!"
    code, details = failure(lambda: rpc.predict("twice", b"no"))
    assert (code, details.splitlines()[0]) == ("INTERNAL", "Error executing last")
    assert failure(lambda: rpc.predict("twice", b"yes", model_version="1.0"))[0] == "INTERNAL"


def test_deadlines_are_those_of_jobs(rpc, model, tmp_path):
    request = rpc.request(model, f"wait {tmp_path}/go".encode())
    assert failure(lambda: rpc.inference.Predictions(request, timeout=0.5))[0] == "DEADLINE_EXCEEDED"
    (tmp_path / "go").touch()
    assert rpc.predict(model, b"version") == b"1.0"


def test_a_cancelled_call_takes_its_job_along(server, rpc, model, tmp_path):
    running_one = rpc.inference.Predictions.future(rpc.request(model, f"wait {tmp_path}/go".encode()))
    wait_until((tmp_path / "go.begun").exists)
    queued = rpc.inference.Predictions.future(rpc.request(model, b"version"))

    def waiting() -> int:
        return server.http_management.get(f"/models/{model}").json()[0]["jobQueueStatus"]["pendingRequests"]

    wait_until(lambda: waiting() == 1)
    assert queued.cancel()
    wait_until(lambda: waiting() == 0)
    (tmp_path / "go").touch()
    assert running_one.result(60).prediction == b"done"


# ---- streams ----


def test_pieces_come_as_they_are_sent(rpc, model, tmp_path):
    answers = rpc.inference.StreamPredictions(rpc.request(model, f"stream {tmp_path}/go".encode()))
    assert [next(answers).prediction, next(answers).prediction] == [b"one ", b"two "]
    (tmp_path / "go").touch()
    assert [answer.prediction for answer in answers] == [b"done"]


def test_what_has_no_pieces_is_one_and_a_single_answer_has_all(rpc, model):
    assert [answer.prediction for answer in rpc.inference.StreamPredictions(rpc.request(model, b"version"))] == [b"1.0"]
    assert rpc.predict(model, b"stream") == b"one two done"


def test_a_stream_that_fails_ends_with_the_error(rpc, model):
    answers = rpc.inference.StreamPredictions(rpc.request(model, b"stream fail"))
    assert next(answers).prediction == b"one "
    code, details = failure(lambda: list(answers))
    assert (code, details.splitlines()[0]) == ("UNAVAILABLE", "Prediction failed")


def test_a_stream_shares_its_batch_with_nobody(server, rpc):
    server.register("batched", batch_size=4, max_batch_delay=20_000)
    with ThreadPoolExecutor(8) as threads:
        streams = [threads.submit(list, rpc.inference.StreamPredictions(rpc.request("batched", b"rows"))) for _ in range(4)]
        calls = [threads.submit(rpc.predict, "batched", b"rows") for _ in range(4)]
        assert [[answer.prediction for answer in stream.result(60)] for stream in streams] == [[b"1"]] * 4
        assert {call.result(60) for call in calls} == {b"4"}


def test_a_sequence_is_answered_one_after_the_other(rpc, model):
    requests = [rpc.request(model, f"add {number}".encode(), sequence_id="seq_0") for number in (1, 2, 3)]
    answers = list(rpc.inference.StreamPredictions2(iter(requests)))
    assert [(answer.prediction, answer.sequence_id) for answer in answers] == [(b"1", "seq_0"), (b"3", "seq_0"), (b"6", "seq_0")]


def test_a_sequence_that_starts_gets_a_name_and_what_fails_does_not_end_it(rpc, model):
    requests = [
        rpc.request(model, b"add 1"),
        rpc.request(model, b"add 2", input={"ts_request_sequence_start": b"true"}),
        rpc.request(model, b"raise"),
        rpc.request("absent", b"add 1"),
        rpc.request(model, b"header ts_request_sequence_end", input={"ts_request_sequence_end": b"true"}),
        rpc.request(model, b"stream"),
    ]
    answers = list(rpc.inference.StreamPredictions2(iter(requests)))
    statuses = [(answer.status.code, answer.status.message) for answer in answers]
    assert statuses == [
        (3, "Parameter sequenceId is required."),
        (0, ""),
        (14, "Prediction failed"),
        (13, "Model not found: absent"),
        *[(0, "")] * 4,
    ]
    assert [answer.prediction for answer in answers] == [b"", b"2", b"", b"", b"true", b"one ", b"two ", b"done"]
    (name,) = {answer.sequence_id for answer in answers[1:]}
    assert name.startswith("ts-seq-")


def test_a_sequence_stays_with_the_worker_that_keeps_its_state(server, rpc):
    config = "minWorkers: 2\nmaxWorkers: 2\nsequenceBatching: true\nsequenceMaxIdleMSec: 60000\nmaxNumSequence: 3\n"
    files = {"handler.py": HANDLER, "model-config.yaml": config, "MAR-INF/MANIFEST.json": json.dumps(STATEFUL)}
    (server.process.model_store / "stateful.mar").write_bytes(zipped(files))
    rpc.manage("RegisterModel", url="stateful.mar", initial_workers=2, synchronous=True)

    def follow(name: str) -> list[tuple[bytes, str]]:
        requests = [rpc.request("stateful", f"add {number}".encode(), sequence_id=name) for number in (1, 2, 3)]
        return [(answer.prediction, answer.sequence_id) for answer in rpc.inference.StreamPredictions2(iter(requests))]

    with ThreadPoolExecutor(3) as threads:
        answered = list(threads.map(follow, ("a", "b", "c")))
    assert answered == [[(b"1", name), (b"3", name), (b"6", name)] for name in "abc"]
    assert follow("a") == [(b"7", "a"), (b"9", "a"), (b"12", "a")]
    (refused,) = rpc.inference.StreamPredictions2(iter([rpc.request("stateful", b"add 1", sequence_id="d")]))
    assert "or exceeds maxSequenceJobQueueSize" in refused.status.message


def test_what_streams_is_stopped_by_a_later_request_of_its_call(server, rpc):
    config = "sequenceBatching: true\nsequenceMaxIdleMSec: 60000\nmaxNumSequence: 2\ncontinuousBatching: true\n"
    files = {"handler.py": STEPS, "model-config.yaml": config, "MAR-INF/MANIFEST.json": json.dumps(STATEFUL)}
    (server.process.model_store / "steps.mar").write_bytes(zipped(files))
    rpc.manage("RegisterModel", url="steps.mar", model_name="steps", initial_workers=1, synchronous=True)
    requests: queue.Queue = queue.Queue()
    answers = rpc.inference.StreamPredictions2(iter(requests.get, None))
    requests.put(rpc.request("steps", b"whole", sequence_id="a"))
    assert next(answers).prediction == b"whole"
    requests.put(rpc.request("steps", b"stream", sequence_id="a"))
    assert next(answers).prediction == b"stream"
    requests.put(rpc.request("steps", b"stop", sequence_id="a"))
    requests.put(None)
    rest = [answer.prediction for answer in answers]
    assert rest.count(b"stop") == 1
    assert set(rest) == {b"stream", b"stop"}

    # Who leaves takes back what is under way.
    answers = rpc.inference.StreamPredictions2(iter(requests.get, None))
    requests.put(rpc.request("steps", b"stream", sequence_id="b"))
    assert next(answers).prediction == b"stream"
    answers.cancel()
    requests.put(None)
    asking = rpc.request("steps", b"rows", sequence_id="a")
    wait_until(lambda: [one.prediction for one in rpc.inference.StreamPredictions2(iter([asking]))] == [b"1"])


# ---- the Open Inference Protocol ----


def test_the_open_inference_protocol(server, rpc):
    server.register("kserve", code=KSERVE)
    api, pb2 = rpc.open_inference, rpc.open_inference_pb2
    assert api.ServerLive(pb2.ServerLiveRequest()).live
    assert api.ServerReady(pb2.ServerReadyRequest()).ready
    assert api.ModelReady(pb2.ModelReadyRequest(name="kserve", version="1.0")).ready
    assert api.ServerMetadata(pb2.ServerMetadataRequest()).name == "Torchserve"
    assert list(api.ModelMetadata(pb2.ModelMetadataRequest(name="kserve")).versions) == ["1.0"]
    tensor = pb2.ModelInferRequest.InferInputTensor(name="a", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1.5, 2.5])
    request = pb2.ModelInferRequest(model_name="kserve", id="7", inputs=[tensor])
    answer = api.ModelInfer(request)
    (output,) = answer.outputs
    assert (answer.id, answer.model_name, answer.model_version) == ("7", "kserve", "1.0")
    assert (output.name, output.datatype, list(output.shape)) == ("a_out", "FP32", [2])
    assert list(output.contents.fp32_contents) == [1.5, 2.5]
    raw = pb2.ModelInferRequest(
        model_name="kserve",
        inputs=[
            pb2.ModelInferRequest.InferInputTensor(name="n", datatype="INT64", shape=[2]),
            pb2.ModelInferRequest.InferInputTensor(name="s", datatype="BYTES", shape=[1]),
        ],
        raw_input_contents=[np.array([3, 4], "<i8").tobytes(), struct.pack("<I", 2) + b"hi"],
    )
    numbers, strings = api.ModelInfer(raw).outputs
    assert list(numbers.contents.int64_contents) == [3, 4]
    assert list(strings.contents.bytes_contents) == [b"aGk="]


def test_what_the_open_inference_protocol_refuses(server, rpc, model):
    pb2 = rpc.open_inference_pb2
    tensor = pb2.ModelInferRequest.InferInputTensor
    table = [
        ("ModelReady", pb2.ModelReadyRequest(), "INVALID_ARGUMENT", "Parameter name is required."),
        ("ModelReady", pb2.ModelReadyRequest(name="absent"), "NOT_FOUND", "Model not found: absent"),
        ("ModelMetadata", pb2.ModelMetadataRequest(name="absent"), "NOT_FOUND", "Model not found: absent"),
        ("ModelInfer", pb2.ModelInferRequest(), "INTERNAL", "Parameter model_name is required."),
        ("ModelInfer", pb2.ModelInferRequest(model_name="absent"), "INTERNAL", "Model not found: absent"),
        (
            "ModelInfer",
            pb2.ModelInferRequest(model_name=model, inputs=[tensor(name="a", datatype="COMPLEX")]),
            "INVALID_ARGUMENT",
            "input 'a': datatype 'COMPLEX' has no contents; allowed are BOOL, ",
        ),
        (
            "ModelInfer",
            pb2.ModelInferRequest(
                model_name=model, inputs=[tensor(name="a", datatype="INT64", shape=[2])], raw_input_contents=[b"1"]
            ),
            "INVALID_ARGUMENT",
            "input 'a': ",
        ),
        (
            "ModelInfer",
            pb2.ModelInferRequest(model_name=model, raw_input_contents=[b"1"]),
            "INVALID_ARGUMENT",
            "1 raw_input_contents",
        ),
        (
            "ModelInfer",
            pb2.ModelInferRequest(
                model_name=model, inputs=[tensor(name="a", datatype="BYTES")], raw_input_contents=[b"\xff\x00"]
            ),
            "INVALID_ARGUMENT",
            "input 'a': a string reaches past the end",
        ),
        ("ModelInfer", pb2.ModelInferRequest(model_name=model), "INTERNAL", "the model's answer is none of the Open Inference"),
    ]
    for method, request, code, text in table:
        found, details = failure(lambda method=method, request=request: getattr(rpc.open_inference, method)(request))
        assert (found, details[: len(text)]) == (code, text)


# ---- who may, and where ----


def test_tokens_and_the_switch_of_the_model_api(tmp_path, monkeypatch):
    env = {"FLOWYARD_DISABLE_TOKEN_AUTHORIZATION": "false", "FLOWYARD_TORCHSERVE_MODEL_API": "false"}
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, env) as server:
        keys = json.loads((tmp_path / "key_file.json").read_text())

        def bearer(kind: str) -> tuple[tuple[str, str], ...]:
            return (("protocol", "gRPC"), ("authorization", f"Bearer {keys[kind]['key']}"))

        rpc = server.rpc
        refused = (
            "PERMISSION_DENIED",
            "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
        )
        assert rpc.inference.Ping(Empty(), metadata=bearer("inference")).health
        for metadata in (None, bearer("management"), bearer("API"), (("authorization", "Bearer x"),)):
            assert failure(lambda metadata=metadata: rpc.inference.Ping(Empty(), metadata=metadata)) == refused
        assert failure(lambda: list(rpc.inference.StreamPredictions2(iter([rpc.request("x")])))) == refused
        assert json.loads(rpc.manage("ListModels", metadata=bearer("management"))) == {"models": []}
        assert failure(lambda: rpc.manage("ListModels", metadata=bearer("inference"))) == refused
        off = ("PERMISSION_DENIED", f"Model API disabled\n{MODEL}.ModelException")
        for method, fields in (("RegisterModel", {"url": "x.mar"}), ("UnregisterModel", {"model_name": "x"})):
            calling = failure(lambda method=method, fields=fields: rpc.manage(method, metadata=bearer("management"), **fields))
            assert calling == off


@pytest.mark.parametrize("keystore", [False, True])
def test_tls(tmp_path, keystore):
    certificate = issue(tmp_path)
    files = {
        "FLOWYARD_CERTIFICATE_FILE": str(certificate.chain),
        "FLOWYARD_PRIVATE_KEY_FILE": str(certificate.key),
    }
    env = {"FLOWYARD_ENABLE_GRPC_SSL": "true"} | ({"FLOWYARD_KEYSTORE": str(certificate.keystore)} if keystore else files)
    with serving(tmp_path, env, certificate.authority.cert_pem.bytes()) as server:
        assert [url.partition(":")[0] for url in server.process.urls[2:]] == ["grpcs", "grpcs"]
        assert server.rpc.inference.Ping(Empty()).health
        assert json.loads(server.rpc.manage("ListModels")) == {"models": []}


def test_a_port_that_is_taken_and_named_ends_the_start(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = ServerProcess(tmp_path, *FLAGS, env=ENV | {"FLOWYARD_GRPC_MANAGEMENT_PORT": str(port)}, host=None)
        with pytest.raises(AssertionError):
            process.start()
    told = f"cannot listen on 127.0.0.1:{port}: Address already in use (settings grpc_management_address, grpc_management_port)"
    assert told in process.log.read_text()
    assert process.status not in (0, None)


def test_what_runs_is_finished_when_the_server_stops_and_what_waits_is_told(tmp_path):
    with serving(tmp_path) as server:
        server.register("last")
        rpc = server.rpc
        running_one = rpc.inference.Predictions.future(rpc.request("last", f"wait {tmp_path}/go".encode()))
        wait_until((tmp_path / "go.begun").exists)
        more = threading.Event()

        def requests() -> Iterator[object]:
            yield rpc.request("absent", sequence_id="s")
            more.wait(60)

        waiting = rpc.inference.StreamPredictions2(requests())
        assert next(waiting).status.message == "Model not found: absent"
        assert server.process.process is not None
        server.process.process.send_signal(signal.SIGTERM)
        assert failure(lambda: next(waiting)) == ("UNAVAILABLE", f"the server is stopping\n{HTTP}.ServiceUnavailableException")
        more.set()
        (tmp_path / "go").touch()
        assert running_one.result(60).prediction == b"done"


def test_connections_are_bounded(tmp_path):
    with serving(tmp_path, {"FLOWYARD_MAX_CONNECTIONS": "1"}) as server:
        assert server.rpc.inference.Ping(Empty()).health
        alone = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(addresses(server.process)[0], alone) as channel:
            ping = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping")
            assert failure(lambda: ping(b""))[0] == "UNAVAILABLE"
        assert server.rpc.inference.Ping(Empty()).health


def test_connections_end_at_the_age_that_is_set(tmp_path):
    with serving(tmp_path, {"FLOWYARD_GRPC_INFERENCE_MAX_CONNECTION_AGE_MS": "100"}) as server:
        left = threading.Event()
        channel = grpc.insecure_channel(addresses(server.process)[0])
        states: list[grpc.ChannelConnectivity] = []

        def seen(state: grpc.ChannelConnectivity) -> None:
            states.append(state)
            if state is grpc.ChannelConnectivity.IDLE and grpc.ChannelConnectivity.READY in states:
                left.set()

        with channel:
            channel.subscribe(seen, try_to_connect=True)
            assert left.wait(30)


def test_calls_are_in_torchserves_access_log(tmp_path):
    log = tmp_path / "logs" / "access_log.log"
    with serving(tmp_path, {"FLOWYARD_LOG_LOCATION": str(log.parent)}) as server:
        server.rpc.inference.Ping(Empty())
        assert failure(lambda: server.rpc.predict("none"))[0] == "INTERNAL"
        wait_until(lambda: len(log.read_text().splitlines()) == 2)
    line = r'\S+ - /127\.0\.0\.1:\d+ "gRPC org\.pytorch\.serve\.grpc\.inference\.InferenceAPIsService/{} HTTP/2\.0" {} \d+'
    pinged, predicted = log.read_text().splitlines()
    assert re.fullmatch(line.format("Ping", 0), pinged)
    assert re.fullmatch(line.format("Predictions", 13), predicted)
