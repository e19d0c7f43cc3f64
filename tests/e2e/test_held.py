"""What requests take of the server's memory while they wait, over every API: bounded, and given back whatever becomes of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from support.archives import linear_onnx, zipped
from support.rpc import clients, generate
from support.server import running, wait_until

#: Room for three of the bodies below, not for four.
LIMIT = 100_000
SIZE = 30_000
ENV = {"FLOWYARD_MAX_HELD_SIZE_BYTES": str(LIMIT), "FLOWYARD_SILENT_LIMIT_S": "300"}
FLOW = """
name: flow
functions: {big: steps:big}
models: {m: m.onnx}
workflow:
  x: [big, in]
  out: [m, x]
"""
STEPS = "import numpy as np\n\ndef big(_):\n    return np.ones((10_000, 1), np.float32)\n"
HANDLER = """
class Handler:
    def initialize(self, context): ...
    def handle(self, data, context):
        return ["x"] * len(data)
"""


def npy(rows):
    buffer = io.BytesIO()
    np.save(buffer, np.ones((rows, 1), np.float32))
    return buffer.getvalue()


NPY = npy((SIZE - 128) // 4)
KSERVE = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1, 1]}]}).ljust(SIZE).encode()
WAYS = {
    "directly": ("/predictions/lin", NPY, "application/x-npy"),
    "through ASGI": ("/predictions/lin?long=1", NPY, "application/x-npy"),
    "kserve": ("/v2/models/lin/infer", KSERVE, "application/json"),
}


@contextlib.contextmanager
def stopped(workers):
    """Workers that compute nothing for the time of the context."""
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Sent:
    """A request that has been sent, on a connection of its own."""

    def __init__(self, url, path, body, content_type, *headers):
        host, _, port = url.partition("://")[2].partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        head = [f"POST {path} HTTP/1.1", "host: x", f"content-type: {content_type}", f"content-length: {len(body)}"]
        self.socket.sendall("\r\n".join([*head, *headers, "connection: close", "", ""]).encode() + body)

    def answer(self):
        with self.socket:
            return b"".join(iter(lambda: self.socket.recv(65_536), b""))

    def status(self):
        return int(self.answer().split(b" ", 2)[1])


def leave(sent):
    """Ends a connection with a reset."""
    sent.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sent.socket.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("held"), env=ENV) as started:
        answer = started.client.post("/models", params={"model_name": "lin"}, content=linear_onnx([[2.0]]))
        assert answer.status_code == 200, answer.text
        yield started


def held(client):
    lines = client.get("/metrics", params={"name[]": "flowyard_held_bytes"}).text.splitlines()
    (line,) = [line for line in lines if line.startswith("flowyard_held_bytes ")]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize(("path", "body", "content_type"), WAYS.values(), ids=WAYS)
def test_bodies_that_wait_are_bounded_all_together(server, path, body, content_type):
    assert len(body) == SIZE
    with stopped(server.workers()):
        waiting = [Sent(server.urls[0], path, body, content_type) for _ in range(3)]
        wait_until(lambda: held(server.client) == 3 * SIZE)
        refused = server.client.post(path, content=body, headers={"content-type": content_type})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "setting max_held_size_bytes" in refused.text
        if not path.startswith("/v2"):
            assert refused.json()["type"] == "WlmCapacityException"
        small = Sent(server.urls[0], path, body[:0] + KSERVE.strip() if path.startswith("/v2") else npy(2), content_type)
    assert [one.status() for one in waiting] == [200] * 3
    assert small.status() == 200
    assert held(server.client) == 0


@pytest.mark.parametrize("path", ["/predictions/lin", "/predictions/lin?long=1"])
def test_a_body_counts_from_its_first_bytes_until_its_client_leaves(server, path):
    host, port = server.urls[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        opened.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {SIZE}\r\n\r\n".encode() + NPY[: SIZE // 2])
        wait_until(lambda: SIZE // 2 <= held(server.client) <= SIZE)
    wait_until(lambda: held(server.client) == 0)


@pytest.mark.parametrize("path", ["/predictions/lin", "/predictions/lin?long=1"])
def test_a_request_that_is_late_or_whose_worker_dies_gives_its_memory_back(server, path):
    workers = server.workers()
    with stopped(workers):
        late = Sent(server.urls[0], path, NPY, "application/x-npy", "x-request-timeout: 100ms")
        assert late.status() == 504
        assert held(server.client) == 0
        left = Sent(server.urls[0], path, NPY, "application/x-npy")
        wait_until(lambda: held(server.client) == SIZE)
        leave(left)
        wait_until(lambda: held(server.client) == 0)
        retried = Sent(server.urls[0], path, NPY, "application/x-npy")
        wait_until(lambda: held(server.client) == SIZE)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert retried.status() == 200
    assert held(server.client) == 0


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_request_that_nobody_waits_for_counts_until_it_is_computed(server, taken_back):
    headers = {"content-type": "application/x-npy", "x-synchronous": "false"}
    with stopped(server.workers()):
        token = server.client.post("/predictions/lin", content=NPY, headers=headers).headers["x-next-token"]
        assert held(server.client) == SIZE
        if taken_back:
            assert server.client.delete("/predictions/lin", headers={"x-starting-token": token}).status_code == 200
            wait_until(lambda: held(server.client) == 0)
    wait_until(lambda: held(server.client) == 0)


def test_a_copy_for_a_shadow_counts_until_it_is_computed(server):
    before = set(server.workers())
    for version in ("v1", "v2"):
        parameters = {"model_name": "both", "model_version": version}
        assert server.client.post("/models", params=parameters, content=linear_onnx([[2.0]])).status_code == 200
        if version == "v1":
            of_first = set(server.workers())
    assert server.client.put("/models/both/v2", params={"shadow": "true"}).status_code == 200
    with stopped(set(server.workers()) - of_first):
        assert before < of_first
        assert Sent(server.urls[0], "/predictions/both", NPY, "application/x-npy").status() == 200
        wait_until(lambda: held(server.client) == SIZE)
    wait_until(lambda: held(server.client) == 0)


def test_results_that_wait_for_another_node_count_and_are_not_added_to_where_there_is_no_room(server):
    archive = zipped({"workflow.yaml": FLOW, "steps.py": STEPS, "m.onnx": linear_onnx([[2.0]])})
    assert server.client.post("/workflows", content=archive).status_code == 200
    described = server.client.get("/workflows/flow").json()[0]["models"]
    (model,) = [one for one in described if one["modelName"] == "m"]
    pids = [worker["pid"] for group in model["workerGroups"] for worker in group["workers"]]
    with stopped(pids):
        waiting = [Sent(server.urls[0], "/predictions/flow", b"[]", "application/json") for _ in range(2)]
        wait_until(lambda: held(server.client) > 2 * 40_000)
        waiting.append(Sent(server.urls[0], "/predictions/flow", b"[]", "application/json"))
        refused = waiting.pop().answer()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in refused
        assert b"setting max_held_size_bytes" in refused
        assert 2 * 40_000 < held(server.client) < 3 * 40_000
        leave(waiting.pop())
        wait_until(lambda: 40_000 < held(server.client) < 2 * 40_000)
    assert [one.status() for one in waiting] == [200]
    assert held(server.client) == 0


def test_torchserves_apis_share_the_memory(tmp_path):
    generate(tmp_path)
    env = ENV | {
        "FLOWYARD_ENABLE_GRPC_API": "true",
        "FLOWYARD_GRPC_INFERENCE_PORT": "0",
        "FLOWYARD_GRPC_MANAGEMENT_PORT": "0",
        "FLOWYARD_TORCHSERVE_INFERENCE_ADDRESS": "http://127.0.0.1:0",
        "FLOWYARD_TORCHSERVE_MANAGEMENT_ADDRESS": "http://127.0.0.2:0",
        "FLOWYARD_MMS_INFERENCE_ADDRESS": "http://127.0.0.1:0",
        "FLOWYARD_MMS_MANAGEMENT_ADDRESS": "http://127.0.0.2:0",
        "FLOWYARD_ENABLE_METRICS_API": "false",
        "FLOWYARD_DISABLE_TOKEN_AUTHORIZATION": "true",
    }
    manifest = {"runtime": "python", "model": {"modelName": "m", "handler": "handler.py", "modelVersion": "1.0"}}
    archive = zipped({"handler.py": HANDLER, "MAR-INF/MANIFEST.json": json.dumps(manifest | {"archiverVersion": "0.12.0"})})
    flags = ("--dialect", "torchserve,mms", "--host", "127.0.0.1", "--port", "0")
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(running(tmp_path, *flags, env=env, host=None))
        rpc = opened.enter_context(contextlib.closing(clients(server)))
        torchserve, _, mms, _, url = [url for url in server.urls if url.startswith("http")]
        native = opened.enter_context(server.client_of(url))
        assert native.post("/models", params={"model_name": "m"}, content=archive).status_code == 200
        doors = (torchserve, mms)
        body = b"x" * SIZE
        with stopped(server.workers()), ThreadPoolExecutor(1) as threads:
            called = threads.submit(rpc.predict, "m", body[:20_000])
            waiting = [Sent(url, "/predictions/m", body, "application/octet-stream") for url in doors]
            wait_until(lambda: held(native) > 80_000)
            for url in doors:
                refused = Sent(url, "/predictions/m", body, "application/octet-stream").answer()
                assert refused.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: 1\r\n" in refused
                assert b"setting max_held_size_bytes" in refused
            with pytest.raises(grpc.RpcError) as raised:
                rpc.predict("m", body)
            assert raised.value.code().name == "UNAVAILABLE"
            assert "setting max_held_size_bytes" in raised.value.details()
            os.kill(server.workers()[0], signal.SIGCONT)
            assert called.result() == b"x"
        assert [one.status() for one in waiting] == [200] * len(doors)
        wait_until(lambda: held(native) == 0)
