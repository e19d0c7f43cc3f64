"""Clients that close their sending side behind a request, as `nc -N` does, against a real server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import pytest
from support.archives import linear_onnx, zipped
from support.server import running, wait_until

FLOW = """
name: {name}
functions: {{{name}: steps:{name}}}
workflow:
  out: [{name}, in]
"""
STEPS = """
def echo(x):
    return x

def pieces(x):
    for number in range(3):
        yield f"piece{number} "
"""
REQUESTS = {
    "directly": (b"POST /predictions/lin", b"[[1.0]]", b"[[2.0]]"),
    "through ASGI": (b"POST /predictions/echo", b"[1,2]", b"[1,2]"),
    "in pieces": (b"POST /predictions/pieces", b"[]", b"0\r\n\r\n"),
    "kserve": (
        b"POST /v2/models/lin/infer",
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}',
        b'"data":[2.0]}]}',
    ),
    "health": (b"GET /ping", b"", b"}"),
    "management": (b"GET /models?limit=1", b"", b"}"),
}


@pytest.fixture(scope="module", params=["tcp", "unix"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    env = {"FLOWYARD_INFERENCE_ADDRESS": f"unix:{folder}/socket"} if request.param == "unix" else {}
    with running(folder, env=env, host=None if env else "127.0.0.1") as started:
        assert started.client.post("/models", params={"model_name": "lin"}, content=linear_onnx([[2.0]])).status_code == 200
        for name in ("echo", "pieces"):
            archive = zipped({"workflow.yaml": FLOW.format(name=name), "steps.py": STEPS})
            assert started.client.post("/workflows", content=archive).status_code == 200
        yield started


@contextlib.contextmanager
def connection(server):
    url = server.urls[0]
    if url.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as opened:
            opened.settimeout(60)
            opened.connect(url.removeprefix("unix:"))
            yield opened
    else:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as opened:
            yield opened


def request(start, body):
    lines = [start + b" HTTP/1.1", b"host: x", b"content-type: application/json", b"content-length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


@pytest.mark.parametrize(("start", "body", "end"), REQUESTS.values(), ids=REQUESTS)
def test_the_answer_comes(server, start, body, end):
    with connection(server) as opened:
        opened.sendall(request(start, body))
        opened.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: opened.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert answer.strip().endswith(end.strip())


def test_a_request_that_has_not_come_whole_is_not_answered(server):
    with connection(server) as opened:
        opened.sendall(request(b"POST /predictions/lin", b"[[1.0]]")[:-1])
        opened.shutdown(socket.SHUT_WR)
        assert opened.recv(65_536) == b""


@pytest.mark.parametrize("path", [b"/predictions/lin", b"/predictions/lin?long=1"])
def test_one_that_waits_is_served_and_one_that_has_left_is_not(server, path):
    pids = server.workers()

    def failed(reason):
        lines = server.client.get("/metrics", params={"name[]": "flowyard_call_failures"}).text.splitlines()
        (line,) = [line for line in lines if 'model="lin"' in line and f'reason="{reason}"' in line]
        return float(line.rpartition(" ")[2])

    before = failed("cancelled")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with connection(server) as stays, connection(server) as leaves:
            for one in (stays, leaves):
                one.sendall(request(b"POST " + path, b"[[1.0]]"))
            wait_until(lambda: in_flight(server) == 2)
            stays.shutdown(socket.SHUT_WR)
            leaves.close()
            wait_until(lambda: in_flight(server) == 1)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            answer = b"".join(iter(lambda: stays.recv(65_536), b""))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert answer.endswith(b"[[2.0]]")
    assert failed("cancelled") == before + 1


def in_flight(server):
    lines = server.client.get("/metrics", params={"name[]": "flowyard_requests_in_flight"}).text.splitlines()
    (line,) = [line for line in lines if line.startswith("flowyard_requests_in_flight{") and 'model="lin"' in line]
    return float(line.rpartition(" ")[2])
