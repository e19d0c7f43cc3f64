"""Loads against small servers of the test's own: what is counted, and when a run ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest

from flowyard.platform.bench.load import Load, run
from flowyard.platform.bench.target import Target
from flowyard.schemas.errors import InvalidRequestError, UnavailableError

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
CLOSE = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
GARBAGE = b"ho ho ho\r\n\r\n"


class Peer(asyncio.Protocol):
    """Answers each request with what the script says next; `None` closes, `...` stays silent."""

    def __init__(self, script, transports):
        self.script = script
        self.transports = transports

    def connection_made(self, transport):
        self.transport = transport
        self.transports.append(transport)

    def data_received(self, data):
        answer = next(self.script)
        if answer is None:
            self.transport.abort()
        elif answer is not ...:
            self.transport.write(answer)
            if b"close" in answer:
                self.transport.close()


@contextlib.contextmanager
def answering(script):
    """A server in a thread; the script is an endless iterator shared by all connections."""
    transports = []
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(lambda: Peer(script, transports), "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Target(*server.sockets[0].getsockname()[:2])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(closed(server, transports))
        loop.close()


async def closed(server, transports):
    """Closes everything, what is just being accepted too; aborted transports close in the next rounds of the loop."""
    server.close()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    for transport in transports:
        transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)


def forever(*answers):
    while True:
        yield from answers


def load(target, **options):
    given = {"target": target, "request": target.request("GET", "/"), "duration_s": 20.0, "warmup_s": 0.0, "max_requests": 100}
    return Load(**(given | options))


@pytest.mark.parametrize("options", [{}, {"rate_per_s": 2000.0}, {"rate_per_s": 2000.0, "arrivals": "constant"}])
def test_every_answer_is_counted_once(options):
    with answering(forever(OK, OK, OK, BUSY)) as target:
        result = run(load(target, connections=4, **options))
    assert result.statuses == {"200": 75, "503": 25}
    assert result.errors == {}
    assert result.requests == 100
    assert result.failures == 25
    assert result.received_bytes == 75 * len(OK) + 25 * len(BUSY)
    assert result.loop == ("open" if options else "closed")
    assert 0 < result.latency.min_ms <= result.latency.p50_ms <= result.latency.p99_9_ms <= result.latency.max_ms
    assert result.duration_s < 20


def test_a_connection_that_the_server_closes_is_opened_again():
    with answering(forever(CLOSE)) as target:
        result = run(load(target, max_requests=20))
    assert result.statuses == {"200": 20}
    assert result.errors == {}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(None, "closed without an answer"), (GARBAGE, "no HTTP/1.1 response"), (OK[:-1] + b"kk", "follow the response")],
)
def test_lost_requests_are_errors_and_the_run_goes_on(answer, reason):
    with answering(forever(OK, answer)) as target:
        result = run(load(target, max_requests=10))
    assert result.statuses == {"200": 10}
    assert sum(result.errors.values()) in (9, 10)
    assert all(reason in error for error in result.errors)


@pytest.mark.parametrize("rate_per_s", [None, 200.0])
def test_silence_is_an_error_after_the_timeout(rate_per_s):
    with answering(forever(...)) as target:
        result = run(load(target, connections=2, rate_per_s=rate_per_s, duration_s=0.2, timeout_s=0.05))
    assert result.requests == 0
    assert result.throughput_per_s == 0
    assert set(result.errors) == {"no answer in time"}


def test_a_stall_counts_from_when_a_request_was_due():
    with answering(forever(...)) as target:
        silent = load(target, connections=1, rate_per_s=100.0, arrivals="constant", duration_s=0.3, timeout_s=0.3)
        result = run(silent)
    assert result.errors["no answer in time"] == 30


def test_nobody_there():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        target = Target(*closed.getsockname())
        result = run(load(target, duration_s=0.1))
        assert set(result.errors) == {"cannot connect"}
        with pytest.raises(UnavailableError, match="no answer from http://127"):
            target.exchange(target.request("GET", "/"), 1)


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "https://x", "http://", "http://x:99999", "http://x/path", "http://x:a"])
def test_base_urls_are_checked(url):
    with pytest.raises(InvalidRequestError, match="base URL"):
        Target.of(url)


def test_requests_are_plain_bytes():
    target = Target.of("http://[::1]:81")
    request = target.request("POST", "/x?y=1", b"{}", "application/json", ("A: b",))
    headers = ["Host: [::1]:81", "Accept: */*", "Content-Type: application/json", "A: b", "Content-Length: 2"]
    head = "\r\n".join(["POST /x?y=1 HTTP/1.1", *headers, "", ""]).encode()
    assert request == head + b"{}"


@pytest.mark.parametrize("path", ["x", "/a b", "/a\r\nb"])
def test_paths_cannot_break_a_request(path):
    with pytest.raises(InvalidRequestError, match="path"):
        Target("x", 1).request("GET", path)
