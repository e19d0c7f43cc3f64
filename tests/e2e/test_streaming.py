"""Results that come in pieces: as they are yielded, no faster than they are read, and never half of one taken for the whole."""

from __future__ import annotations

import http.client
import json
import socket

import httpx2
import pytest
from support.archives import zipped
from support.server import running, wait_until

STEPS = """
import asyncio
import itertools
import pathlib
import time

def count(value):
    for number in range(value):
        yield number

def text(value):
    yield from ("one ", "two ", "three")

def raw(value):
    yield b"\\x00\\x01"
    yield b"\\x02"

async def later(value):
    for number in range(value):
        await asyncio.sleep(0)
        yield {"n": number}

def nothing(value):
    return
    yield

def breaks(value):
    yield 1
    yield 2
    raise ValueError("half way")

def fails_at_once(value):
    raise ValueError("before anything")
    yield

def endless(value):
    folder = pathlib.Path(value)
    try:
        for number in itertools.count():
            (folder / "sent").write_text(str(number))
            yield "x" * 100_000
    finally:
        (folder / "closed").touch()

def gated(value):
    folder = pathlib.Path(value)
    yield "first"
    while not (folder / "go").exists():
        time.sleep(0.005)
    yield "second"

def late(value):
    folder = pathlib.Path(value)
    while not (folder / "go").exists():
        time.sleep(0.005)
    try:
        for number in range(1000):
            yield number
    finally:
        (folder / "closed").touch()

def total(values):
    return sum(values)
"""
NAMES = ["count", "text", "raw", "later", "nothing", "breaks", "fails_at_once", "endless", "gated", "late"]


@pytest.fixture(scope="module", autouse=True)
def workflows(http):
    for name in NAMES:
        text = f"name: {name}\nfunctions: {{f: steps:{name}}}\nworkflow:\n  out: [f, in]\n"
        assert http.post("/workflows", content=zipped({"workflow.yaml": text, "steps.py": STEPS})).status_code == 200
    text = "name: summed\nfunctions: {count: steps:count, total: steps:total}\nworkflow:\n  n: [count, in]\n  out: [total, n]\n"
    assert http.post("/workflows", content=zipped({"workflow.yaml": text, "steps.py": STEPS})).status_code == 200


@pytest.mark.parametrize(
    ("name", "body", "content_type", "content"),
    [
        ("count", 3, "application/x-ndjson", b"0\n1\n2\n"),
        ("text", None, "text/plain; charset=utf-8", b"one two three"),
        ("raw", None, "application/octet-stream", b"\x00\x01\x02"),
        ("later", 2, "application/x-ndjson", b'{"n":0}\n{"n":1}\n'),
    ],
)
def test_pieces_arrive(http, name, body, content_type, content):
    answer = http.post(f"/predictions/{name}", json=body)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, content_type, content)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["x-request-id"]


def test_more_pieces_than_may_be_under_way(http):
    assert http.post("/predictions/count", json=1000).content == b"".join(b"%d\n" % n for n in range(1000))


def test_server_sent_events(http):
    answer = http.post("/predictions/later", json=2, headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text == 'data: {"n":0}\n\ndata: {"n":1}\n\n'


def test_a_stream_of_nothing_is_an_empty_answer(http):
    answer = http.post("/predictions/nothing", json=1)
    assert (answer.status_code, answer.content) == (200, b"")


def test_pieces_come_before_the_end(http, tmp_path):
    with http.stream("POST", "/predictions/gated", json=str(tmp_path)) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        (tmp_path / "go").touch()
        assert b"".join(pieces) == b"second"


def test_inside_a_workflow_pieces_are_collected(http):
    assert http.post("/predictions/summed", json=10).json() == 45


def test_a_failure_before_the_first_piece_is_an_error(http):
    answer = http.post("/predictions/fails_at_once", json=1)
    assert answer.status_code == 424
    assert "before anything" in answer.json()["message"]


def test_a_failure_half_way_does_not_look_like_success(http):
    with pytest.raises(httpx2.RemoteProtocolError), http.stream("POST", "/predictions/breaks", json=1) as answer:
        assert answer.status_code == 200
        answer.read()


def test_a_failure_half_way_is_an_event(http):
    received = b""
    headers = {"accept": "text/event-stream"}
    with pytest.raises(httpx2.RemoteProtocolError), http.stream("POST", "/predictions/breaks", json=1, headers=headers) as answer:
        for piece in answer.iter_raw():
            received += piece
    assert received.startswith(b"data: 1\n\ndata: 2\n\nevent: error\ndata: ")
    assert json.loads(received.rpartition(b"data: ")[2])["code"] == 424


def test_a_slow_reader_holds_up_the_sender_and_leaving_stops_it(http, server, tmp_path):
    connection = http_connection(server)
    body = json.dumps(str(tmp_path))
    connection.request("POST", "/predictions/endless", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.read(10) == b"x" * 10
    sent = [wait_until(lambda: settled(tmp_path / "sent"))]
    assert int(sent[0]) < 300
    connection.sock and connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    answer.close()
    wait_until((tmp_path / "closed").exists)
    assert http.post("/predictions/count", json=1).content == b"0\n"


def test_a_deadline_ends_a_stream(http, tmp_path):
    headers = {"X-Request-Timeout": "500ms"}
    with (
        pytest.raises(httpx2.RemoteProtocolError),
        http.stream("POST", "/predictions/gated", json=str(tmp_path), headers=headers) as answer,
    ):
        answer.read()
    (tmp_path / "go").touch()


def test_a_stream_that_nobody_wants_before_it_begins_does_not_hold_its_worker(http, tmp_path):
    answer = http.post("/predictions/late", json=str(tmp_path), headers={"X-Request-Timeout": "300ms"})
    assert answer.status_code == 504
    (tmp_path / "go").touch()
    wait_until((tmp_path / "closed").exists, limit_s=10)


def http_connection(server) -> http.client.HTTPConnection:
    port = int(str(server.client.base_url).rstrip("/").rsplit(":", 1)[1])
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def settled(path, seen={}):  # noqa: B006 - remembers from call to call
    """The number in a file once it has not changed for a while."""
    now = path.read_text() if path.exists() else ""
    count = seen.get(path, ("", 0))
    seen[path] = (now, count[1] + 1 if now and now == count[0] else 0)
    return now if seen[path][1] >= 30 else None


STALLING = """
import pathlib
import time

def stalling(gate):
    yield "a"
    end = time.monotonic() + 1
    while not pathlib.Path(gate).exists() and time.monotonic() < end:
        time.sleep(0.01)
    yield "b"
"""


def test_a_piece_that_does_not_come_in_time_ends_the_stream(tmp_path):
    gate = tmp_path / "gate"
    with running(tmp_path, env={"FLOWYARD_CHUNKED_READ_TIMEOUT": "0.2"}) as server:
        flow = "name: stalling\nfunctions: {stalling: f:stalling}\nworkflow: {out: [stalling, in]}\n"
        archive = zipped({"workflow.yaml": flow, "f.py": STALLING})
        assert server.client.post("/workflows", content=archive).status_code == 200
        received = b""
        headers = {"accept": "text/event-stream"}
        asked = server.client.stream("POST", "/predictions/stalling", json=str(gate), headers=headers)
        with pytest.raises(httpx2.RemoteProtocolError), asked as answer:
            for piece in answer.iter_raw():
                received += piece
        assert received.startswith(b"data: a\n\nevent: error\ndata: ")
        told = json.loads(received.rpartition(b"data: ")[2])
        assert (told["code"], told["message"]) == (504, "the next piece did not come within 0.2 s (setting chunked_read_timeout)")
