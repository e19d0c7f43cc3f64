"""Clients that send nothing, half of something or nonsense, and what they are told."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import time

import pytest
from support.archives import linear_onnx, zipped
from support.certificates import issue, trusting
from support.server import running, wait_until

from flowyard.platform.http.connection import GOODBYE_S

#: What a head may take, and some more for a machine that is busy.
HEAD_LIMIT_S = 10.0
SLOW = 200
FLOW = "name: flow\nfunctions: {one: steps:one}\nworkflow:\n  out: [one, in]\n"
STEPS = "def one(x):\n    return x\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("hostile")) as started:
        archive = zipped({"workflow.yaml": FLOW, "steps.py": STEPS})
        assert started.client.post("/workflows", content=archive).status_code == 200
        yield started


@contextlib.contextmanager
def connection(server):
    host, port = server.urls[0].partition("://")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        yield opened


def rest(opened):
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := opened.recv(65_536):
            received += piece
    return received


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


ROUTES = [b"/predictions/flow", b"/models", b"/v2/models/flow/infer", b"/ping", b"/nowhere", b"/invocations"]
HEADS = {
    "length and chunked": (b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 400),
    "NUL": (b"x-a: b\x00c\r\n\r\n", 400),
    "an unknown coding": (b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk size that is none": (b"transfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
    "a megabyte of headers": (b"x-a: y\r\n" * 131_072 + b"\r\n", 431),
    "a header of a megabyte": (b"x-a: " + b"y" * 2**20 + b"\r\n\r\n", 431),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("sent", "status"), HEADS.values(), ids=HEADS)
def test_every_route_refuses_what_is_broken(server, route, sent, status):
    good = b"POST /predictions/flow HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-type: application/json\r\n\r\n7"
    for before in (0, 2):
        with connection(server) as opened:
            opened.sendall(good * before)
            with contextlib.suppress(ConnectionError):
                opened.sendall(b"POST " + route + b" HTTP/1.1\r\nhost: x\r\n" + sent)
            answer = rest(opened)
            found = statuses(answer)
            assert found[:before] == [200] * before
            # A route that does not read the body may have answered before it broke.
            assert (
                found[before:] == [status]
                or (status == 400 and "chunk size" in str(sent) and len(found) == before + 1)
                or b"xyz" in sent
            )
            assert b"Traceback" not in answer


def test_a_request_line_without_end(server):
    with connection(server) as opened:
        with contextlib.suppress(ConnectionError):
            opened.sendall(b"GET /" + b"a" * 2**21)
        assert statuses(rest(opened)) == [431]


def test_two_hundred_slow_clients_do_not_keep_others_waiting(server):
    started = time.monotonic()
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(connection(server)) for _ in range(SLOW)]
        for number, one in enumerate(slow):
            one.sendall([b"", b"P", b"POST /predictions/flow HTTP/1.1\r\nhost: x\r\nx-a: "][number % 3])
        for number in range(50):
            asked = time.monotonic()
            assert server.client.post("/predictions/flow", json=number).json() == number
            assert time.monotonic() - asked < 5
        for one in slow:
            assert rest(one) == b""
    took = time.monotonic() - started
    assert HEAD_LIMIT_S - 1 < took < HEAD_LIMIT_S + 15


def test_a_body_over_the_limit(tmp_path):
    with running(tmp_path, env={"FLOWYARD_MAX_REQUEST_SIZE": "1000"}) as server:
        archive = zipped({"workflow.yaml": FLOW, "steps.py": STEPS})
        assert server.client.post("/workflows", content=archive).status_code == 200
        for route in ("/predictions/flow", "/v2/models/flow/infer", "/invocations?model_name=flow"):
            answer = server.client.post(route, content=b"x" * 1001)
            assert answer.status_code == 413, route
            assert "max_request_size" in answer.text


def test_too_many_connections(tmp_path):
    with running(tmp_path, env={"FLOWYARD_MAX_CONNECTIONS": "3"}) as server, contextlib.ExitStack() as opened:
        for _ in range(3):
            one = opened.enter_context(connection(server))
            one.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
            assert one.recv(65_536)
        with connection(server) as further:
            assert b"max_connections" in rest(further)


LARGE = 48 << 20
PIECES = f"""
def one(x):
    for _ in range(48):
        yield b"x" * {LARGE // 48}

def whole(x):
    return b"x" * {LARGE}
"""
PIECES_FLOW = """
name: {name}
functions: {{one: "steps:{name}"}}
workflow:
  out: [one, in]
"""


def is_ended(opened):
    """Whether a connection has been closed by the other side, as far as one can tell without reading from it."""
    poll = select.poll()
    poll.register(opened, select.POLLRDHUP)
    return bool(poll.poll(0))


@pytest.mark.parametrize("name", ["one", "whole"])
def test_a_client_that_does_not_read_its_answer(tmp_path, name):
    with running(tmp_path, env={"FLOWYARD_SLOW_READER_LIMIT_S": "2"}) as server:
        archive = zipped({"workflow.yaml": PIECES_FLOW.format(name=name), "steps.py": PIECES})
        assert server.client.post("/workflows", content=archive).status_code == 200
        with connection(server) as opened, connection(server) as slow:
            for one in (opened, slow):
                one.sendall(b"POST /predictions/%s HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n7" % name.encode())
            received = 0
            while not is_ended(opened):
                received += len(slow.recv(LARGE // 400))
                assert received < LARGE
                # Slowly, but fast enough.
                time.sleep(0.05)
            with pytest.raises(ConnectionResetError):
                rest_of(opened)
            while received < LARGE:
                piece = slow.recv(1 << 20)
                assert piece, received
                received += len(piece)
        assert server.client.post(f"/predictions/{name}", json=1).content == b"x" * LARGE


def encrypted(tmp_path, **env):
    """A server that speaks TLS, with a workflow whose answer is large, and what makes a connection to it."""
    certificate = issue(tmp_path)
    env |= {
        "FLOWYARD_CERTIFICATE_FILE": str(certificate.chain),
        "FLOWYARD_PRIVATE_KEY_FILE": str(certificate.key),
        "FLOWYARD_INFERENCE_ADDRESS": "https://127.0.0.1:0",
    }
    return running(tmp_path, env=env, host=None, trusts=trusting(certificate)), trusting(certificate)


@contextlib.contextmanager
def asking_for_much(server, trusts, *further):
    archive = zipped({"workflow.yaml": PIECES_FLOW.format(name="whole"), "steps.py": PIECES})
    assert server.client.post("/workflows", content=archive).status_code == 200
    with connection(server) as plain, trusts.wrap_socket(plain, server_hostname="127.0.0.1") as opened:
        lines = b"".join(line + b"\r\n" for line in (b"host: x", b"content-length: 1", *further))
        opened.sendall(b"POST /predictions/whole HTTP/1.1\r\n" + lines + b"\r\n7")
        yield opened


def test_a_client_that_does_not_read_what_is_encrypted(tmp_path):
    served, trusts = encrypted(tmp_path, FLOWYARD_SLOW_READER_LIMIT_S="2")
    with served as server, asking_for_much(server, trusts) as opened:
        wait_until(lambda: is_ended(opened))


def test_a_client_that_reads_what_is_encrypted_late_gets_all_of_it(tmp_path):
    served, trusts = encrypted(tmp_path)
    with served as server, asking_for_much(server, trusts, b"connection: close") as opened:
        began = time.monotonic()
        received = bytearray(opened.recv(1))
        # Longer than who has been told everything gets for saying goodbye.
        while time.monotonic() - began < 2 * GOODBYE_S + 1:
            received += opened.recv(4096)
            time.sleep(0.05)
        while piece := opened.recv(1 << 20):
            received += piece
        assert len(received) > LARGE


def rest_of(opened):
    while opened.recv(1 << 20):
        pass


def test_a_connection_without_requests(tmp_path):
    with running(tmp_path, env={"FLOWYARD_KEEP_ALIVE_LIMIT_S": "1"}) as server, connection(server) as opened:
        opened.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
        answered = time.monotonic()
        assert statuses(rest(opened)) == [200]
        assert 0.9 < time.monotonic() - answered < HEAD_LIMIT_S


CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)


def test_a_handshake_that_is_never_completed(tmp_path):
    certificate = issue(tmp_path)
    env = {
        "FLOWYARD_TLS_HANDSHAKE_LIMIT_S": "3",
        "FLOWYARD_MAX_CONNECTIONS": "4",
        "FLOWYARD_CERTIFICATE_FILE": str(certificate.chain),
        "FLOWYARD_PRIVATE_KEY_FILE": str(certificate.key),
        "FLOWYARD_INFERENCE_ADDRESS": "https://127.0.0.1:0",
    }
    with running(tmp_path, env=env, host=None, trusts=trusting(certificate)) as server, contextlib.ExitStack() as opened:
        assert server.client.get("/ping").status_code == 200
        began = time.monotonic()
        silent = [opened.enter_context(connection(server)) for _ in range(3)]
        for number, one in enumerate(silent):
            one.sendall(CLIENT_HELLO[: number * 20])
        # They count: a fifth is cut off, and the one that is there goes on.
        with connection(server) as further:
            assert rest(further) == b""
        assert time.monotonic() - began < 3
        assert server.client.get("/ping").status_code == 200
        for one in silent:
            assert rest(one) == b""
        assert 2.9 < time.monotonic() - began < HEAD_LIMIT_S
        with connection(server) as plain:
            plain.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200" not in rest(plain)
        with server.client_of(server.urls[0]) as client:
            assert client.get("/ping").status_code == 200


def test_a_request_that_comes_with_the_end_of_the_handshake(tmp_path):
    certificate = issue(tmp_path)
    env = {
        "FLOWYARD_CERTIFICATE_FILE": str(certificate.chain),
        "FLOWYARD_PRIVATE_KEY_FILE": str(certificate.key),
        "FLOWYARD_INFERENCE_ADDRESS": "https://127.0.0.1:0",
    }
    with running(tmp_path, env=env, host=None, trusts=trusting(certificate)) as server:
        for _ in range(20):
            with connection(server) as opened:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                tls = trusting(certificate).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        opened.sendall(outgoing.read())
                        incoming.write(opened.recv(65_536))
                # The client's last word of the handshake has not gone out yet.
                tls.write(b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                opened.sendall(outgoing.read())
                answer = b""
                while b"\r\n\r\n" not in answer:
                    incoming.write(opened.recv(65_536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        answer += tls.read(65_536)
                assert statuses(answer) == [200]


# ---- what is told of the server ----

HANDLER = """
from djl_python import Output
import os
def handle(inputs):
    if inputs.is_empty():
        return None
    open(os.path.join(os.path.dirname(__file__), "missing.txt"))
"""
FAILING = """
import os, pathlib
def one(x):
    pathlib.Path(__file__).with_name("missing.txt").read_text()
"""
MAR = {
    "MAR-INF/MANIFEST.json": '{"model": {"modelName": "mar", "handler": "h.py", "modelVersion": "1.0"}}',
    "h.py": "import pathlib\n"
    "def handle(data, context):\n"
    "    return data and pathlib.Path(__file__).with_name('missing.txt').read_text()\n",
}
LINEAR = linear_onnx([[1.0]])


def flow(name, steps=STEPS, more="", **files):
    text = f"name: {name}\n{more}functions: {{one: steps:one}}\nworkflow:\n  out: [one, in]\n"
    return zipped({"workflow.yaml": text, "steps.py": steps} | {key.replace("__", "."): value for key, value in files.items()})


REGISTRATIONS = {
    "no archive": b"nothing",
    "a broken zip": flow("a")[:-30],
    "a module that cannot be imported": flow("b", "import nothing_there\n"),
    "code that fails where it is loaded": flow("c", "open(__file__ + 'x')\n" + STEPS),
    "a syntax error": flow("d", "def one(x:\n"),
    "a library that fails": flow("e", "import numpy\nnumpy.load(__file__)\n" + STEPS),
    "an ONNX file that is none": flow("f", more="models: {m: model.onnx}\n", model__onnx=b"\x08\x07 no"),
    "a cut ONNX file": flow("g", more="models: {m: model.onnx}\n", model__onnx=LINEAR[:50]),
    "a .pt that is none": flow("h", more="models: {m: model.pt}\n", model__pt=b"\x80\x02 no"),
    "a cut .pt": flow("i", more="models: {m: model.pt}\n", model__pt=b"PK\x03\x04" + bytes(100)),
    "a broken safetensors": flow("j", more="models: {m: model.safetensors}\n", model__safetensors=bytes(100)),
    "a model that is not there": flow("k", more="models: {m: model.onnx}\n"),
    "a handler without its module": zipped({"serving.properties": "engine=Python\noption.entryPoint=nothing.py\n"}),
    "a worker that dies": flow("l", "import os\nos._exit(7)\n" + STEPS),
}
URLS = ["nothing.onnx", "../x.onnx", "%2e%2e/x", "a/b/c.zip", ".", "", "folder", "broken.onnx", "broken.zip", "file:nothing"]


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    folder = tmp_path_factory.mktemp("where-nobody-should-know")
    with running(folder) as started:
        (started.model_store / "folder").mkdir()
        (started.model_store / "broken.onnx").write_bytes(b"\x08\x07 no")
        (started.model_store / "broken.zip").write_bytes(flow("x")[:-30])
        yield started


def check(answer, *, error=True):
    text = answer.text + str(answer.headers)
    assert "where-nobody-should-know" not in text, text
    assert not re.search(r"/(usr|opt|root|home|work|tmp)/", text), text
    assert "Traceback" not in text
    assert not error or answer.status_code >= 400


@pytest.mark.parametrize("name", REGISTRATIONS)
@pytest.mark.parametrize("path", ["/models", "/workflows"])
def test_registrations_that_fail_tell_nothing_of_the_server(telling, name, path):
    answer = telling.client.post(path, params={"model_name": "x"} if path == "/models" else {}, content=REGISTRATIONS[name])
    assert 400 <= answer.status_code < 600
    check(answer)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("path", ["/models", "/workflows"])
def test_urls_that_lead_nowhere_tell_nothing_of_the_server(telling, url, path):
    answer = telling.client.post(path, params={"url": url})
    assert 400 <= answer.status_code < 500, answer.text
    check(answer)


def test_what_fails_later_tells_nothing_of_the_server(telling):
    http = telling.client
    broken = flow("later", "open(__file__ + 'x')\n" + STEPS)
    assert http.post("/workflows", params={"synchronous": "false"}, content=broken).status_code == 202
    while (described := http.get("/workflows/later")).json()[0]["status"] == "PENDING":
        pass
    assert "steps.py" in described.text
    check(described, error=False)
    check(http.post("/predictions/later", json=1))
    check(http.get("/ping"), error=False)


def test_predictions_that_fail_tell_nothing_of_the_server(telling):
    http = telling.client
    assert http.post("/workflows", content=flow("failing", FAILING)).status_code == 200
    answer = http.post("/predictions/failing", json=1)
    assert (answer.status_code, "missing.txt" in answer.text) == (424, True)
    check(answer)
    handler = zipped({"serving.properties": "engine=Python\n", "model.py": HANDLER})
    assert http.post("/models", params={"model_name": "handler"}, content=handler).status_code == 200
    check(http.post("/predictions/handler", json=1))
    assert http.post("/models", content=zipped(MAR)).status_code == 200
    answer = http.post("/predictions/mar", content=b"x")
    assert (answer.status_code, "FileNotFoundError" in answer.text, "missing.txt" in answer.text) == (503, True, True)
    check(answer)
    assert http.post("/models", params={"model_name": "linear"}, content=LINEAR).status_code == 200
    for body in (b"[", b'{"a": "b"}', b"[[1, 2, 3]]", b'["x"]', b"\x93NUMPY\x01\x00", bytes(100)):
        for kind in (
            "application/json",
            "application/x-npy",
            "tensor/npz",
            "tensor/safetensors",
            "multipart/form-data; boundary=x",
        ):
            check(http.post("/predictions/linear", content=body, headers={"content-type": kind}), error=False)
        check(http.post("/v2/models/linear/infer", content=body))
    check(http.get("/models/linear"), error=False)


@pytest.mark.parametrize(
    "path",
    [
        "/predictions/{}",
        "/models/{}",
        "/workflows/{}",
        "/models/x/{}",
        "/v2/models/{}",
        "/v2/models/x/versions/{}/infer",
        "/models?url={}",
    ],
)
@pytest.mark.parametrize(
    "value", ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "..%5c", "%2fetc%2fpasswd", "a%0d%0ax: y", "%ff%fe"]
)
def test_dots_in_every_parameter(telling, path, value):
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = telling.client.request(method, path.format(value))
        assert answer.status_code < 500
        assert "root:" not in answer.text
        assert "x" not in answer.headers
        check(answer, error=False)


DEEP = b"[" * 200_000
#: How long others may have to wait meanwhile, on a machine that is busy.
STALL_S = 2.0
LABORIOUS = {
    "a deep body": ("POST", "/models", b'{"url": ' + DEEP, 400),
    "a deep workflow": ("POST", "/workflows", b'{"workflow": ' + DEEP, 400),
    "a deep change": ("PUT", "/models/flow", b'{"min_worker": ' + DEEP, 400),
    "a deep prediction": ("POST", "/predictions/flow", DEEP, 400),
    "deep tensors": ("POST", "/v2/models/flow/infer", b'{"inputs": [{"data": ' + DEEP, 400),
    "names that nobody knows": ("POST", "/models", b"{" + b",".join(b'"zz%d":1' % n for n in range(80_000)) + b"}", 400),
    "a long name": ("POST", "/models", b'{"' + b"min_worker" * 90_000 + b'": 1}', 400),
    "many parameters of a list": ("GET", "/models?" + "&".join(f"a{n}=1" for n in range(8000)), b"", 400),
    "many parameters of a prediction": ("POST", "/predictions/flow?" + "&".join(f"a{n}=1" for n in range(8000)), b"1", 200),
}


@pytest.mark.parametrize(("method", "target", "body", "status"), LABORIOUS.values(), ids=LABORIOUS)
def test_requests_that_make_work_do_not_keep_others_waiting(server, method, target, body, status):
    head = f"{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    with connection(server) as hard:
        asked = time.monotonic()
        hard.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert server.client.get("/ping").status_code == 200
        assert time.monotonic() - asked < STALL_S
        assert statuses(rest(hard)) == [status]
        assert time.monotonic() - asked < 2 * STALL_S


def test_a_manifest_that_is_nested_deep(server):
    archive = zipped({"WAR-INF/MANIFEST.json": b'{"workflow": ' + DEEP})
    answer = server.client.post("/workflows", content=archive)
    assert (answer.status_code, "MANIFEST.json" in answer.text) == (400, True), answer.text
