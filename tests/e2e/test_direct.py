"""Predictions on the direct way, against a real server: what happens to one while it is on its way."""

from __future__ import annotations

import contextlib
import socket

import pytest
from support.archives import linear_onnx
from support.server import running

BODY = b"[[1.0]]"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("direct")) as started:
        yield started


@contextlib.contextmanager
def begun(server, path):
    """A request whose body lacks its last byte; gives what completes it and returns the answer."""
    host, port = server.urls[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n" % path
        opened.sendall(head + b"content-length: %d\r\n\r\n" % len(BODY) + BODY[:-1])

        def complete():
            opened.sendall(BODY[-1:])
            return b"".join(iter(lambda: opened.recv(65_536), b""))

        yield complete


def register(server, factor, **parameters):
    answer = server.client.post("/models", params=parameters, content=linear_onnx([[factor]]))
    assert answer.status_code == 200, answer.text


def total(server, metric, *labels):
    lines = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith(f"flowyard_{metric}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in labels))


@pytest.mark.parametrize("path", [b"/predictions/both", b"/predictions/only"])
def test_a_model_that_goes_before_the_body_is_there(server, path):
    name = path.decode().rpartition("/")[2]
    register(server, 2.0, model_name=name, model_version="v1")
    with begun(server, path) as complete:
        while not total(server, "requests_in_flight", f'model="{name}"'):
            pass
        if name == "both":
            register(server, 3.0, model_name=name, model_version="v2")
        server.client.delete(f"/models/{name}/v1")
        answer = complete()
    if name == "both":
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n[[3.0]]")
        assert total(server, "requests_in_flight", f'model="{name}"') == 0
        assert total(server, "requests_total", f'model="{name}"') == 1
    else:
        assert answer.startswith(b"HTTP/1.1 404 ")


def test_weights_are_exact_whichever_way_a_request_goes(server):
    for factor in (2.0, 3.0):
        register(server, factor, model_name="weighed", model_version=f"v{factor:.0f}")
    assert server.client.put("/models/weighed", params={"weights": "v2:3,v3:1"}).status_code == 200
    # A query sends a request the long way.
    paths = ["/predictions/weighed", "/predictions/weighed?long=1"] * 8
    answers = [server.client.post(path, json=[[1.0]]).json()[0][0] for path in paths]
    assert (answers.count(2.0), answers.count(3.0)) == (12, 4)


def test_a_client_that_leaves_before_its_body_is_there(server):
    register(server, 2.0, model_name="left")
    with begun(server, b"/predictions/left"):
        while not total(server, "requests_in_flight", 'model="left"'):
            pass
    while total(server, "requests_in_flight", 'model="left"'):
        pass
    assert total(server, "requests_total", 'model="left"', 'code="499"') == 1


@pytest.mark.parametrize(
    ("headers", "body", "status", "says"),
    [
        ({"x-priority": "ten"}, b"[[1]]", 400, "x-priority"),
        ({"x-request-timeout": "soon"}, b"[[1]]", 400, "X-Request-Timeout"),
        ({"content-type": "application/json"}, b"[[1", 400, "JSON"),
        ({"content-type": "application/json"}, b"", 400, "empty"),
        ({"content-type": "application/x-npy"}, b"[[1]]", 400, "npy"),
        ({"content-type": "application/json"}, b"[[1, 2]]", 400, "expected float32[?, 1]"),
        ({"accept": "tensor/npy", "content-type": "application/json"}, b"[[1]]", 200, "NUMPY"),
        ({"content-type": "application/json", "handler": "x"}, b"[[1]]", 400, "handler"),
    ],
)
def test_what_it_says(server, headers, body, status, says):
    if server.client.get("/models/told").status_code == 404:
        register(server, 2.0, model_name="told")
    answer = server.client.post("/predictions/told", content=body, headers=headers | {"x-request-id": "my-own"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "my-own")
    assert says in answer.text
