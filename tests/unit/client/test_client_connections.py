"""Servers that are not there, go away, say nothing or something else: which error that is, and what is sent twice."""

from __future__ import annotations

import asyncio
import gc
import ssl
from pathlib import Path

import pytest
from support.loopback import CLOSE, SILENCE, answer, loopback

from flowyard.platform.client import (
    AsyncClient,
    Client,
    InterruptedAnswerError,
    InvalidArgumentError,
    NoAnswerError,
    NodeError,
    TimedOutError,
    TlsError,
    UnexpectedAnswerError,
    UnreachableError,
)

PEM = Path(__file__).parent / "localhost.pem"
HALF = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n4\r\n[1]\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def error_of(kind, url, call, **options):
    """The error of a call, which must be the same for both clients."""

    async def go():
        async with AsyncClient(url, **options) as client:
            await call(client)

    if kind == "async":
        with pytest.raises(Exception) as caught:
            asyncio.run(go())
        return caught.value
    with pytest.raises(Exception) as caught, Client(url, **options) as client:
        call(client)
    return caught.value


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


def free_port() -> int:
    with loopback() as server:
        return int(server.url.rpartition(":")[2])


def test_nobody_there(kind):
    port = free_port()
    error = error_of(kind, f"http://127.0.0.1:{port}", lambda client: client.ping())
    assert type(error) is UnreachableError
    assert error.message == f"no connection to http://127.0.0.1:{port}: Connection refused"


# httpcore2 2.16 leaves the socket that it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_socket_there(kind, tmp_path):
    error = error_of(kind, f"unix:{tmp_path}/none", lambda client: client.ping())
    told = type(error), str(error)
    del error
    gc.collect()
    assert told == (UnreachableError, f"no connection to unix:{tmp_path}/none: No such file or directory")


def test_a_unix_socket(tmp_path):
    with loopback(answer(b"{}"), path=tmp_path / "socket") as server, Client(server.url) as client:
        assert client.ping().healthy
        assert server.requests[0].startswith(b"GET /ping HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("script", "cls", "words"),
    [
        (CLOSE, InterruptedAnswerError, "closed the connection before it answered"),
        (b"ho ho ho\r\n\r\n", UnexpectedAnswerError, "does not speak HTTP"),
        (SILENCE, TimedOutError, "within 0.2 s"),
        ([HALF, CLOSE], InterruptedAnswerError, "broke off"),
        ([HALF, SILENCE], TimedOutError, "in the middle of its answer"),
        (
            answer(b"<html>gone</html>", "502 Bad Gateway", content_type="text/html"),
            UnexpectedAnswerError,
            "status 502, text/html",
        ),
        (answer(b"", "302 Found", location="https://elsewhere/"), UnexpectedAnswerError, "status 302 to https://elsewhere/"),
        (answer(b"[1", "200 OK"), UnexpectedAnswerError, "not application/json as it says"),
    ],
)
def test_a_prediction_that_gets_no_proper_answer(kind, script, cls, words):
    with loopback(script) as server:
        error = error_of(kind, server.url, lambda client: client.predict("m", 1), timeout_s=0.2)
        assert type(error) is cls, error
        assert isinstance(error, NoAnswerError)
        assert words in error.message
        assert len(server.requests) == 1, "it may have been executed: it must not be sent twice"


def test_a_management_answer_that_is_something_else(kind):
    with loopback(answer(b'{"models": 7}')) as server:
        error = error_of(kind, server.url, lambda client: client.describe("m"))
        assert type(error) is UnexpectedAnswerError
        assert error.message.startswith(server.url)
        assert (error.status, '{"models": 7}' in error.message) == (200, True)


def test_a_kept_connection_that_was_closed_is_replaced_for_a_get(kind):
    async def twice(client):
        await client.ping()
        return await client.ping()

    with loopback(answer(b"{}"), CLOSE, answer(b'{"m": {"status": "Healthy"}}')) as server:
        if kind == "sync":
            with Client(server.url) as client:
                client.ping()
                health = client.ping()
        else:

            async def go():
                async with AsyncClient(server.url) as client:
                    return await twice(client)

            health = asyncio.run(go())
        assert health.models == {"m": "Healthy"}
        assert len(server.requests) == 3


def test_a_stream_that_breaks_gives_what_came_before():
    with loopback([HALF, CLOSE]) as server, Client(server.url) as client:
        received = []
        with pytest.raises(InterruptedAnswerError, match="broke off"), client.stream("m", 1) as pieces:
            received.extend(pieces)
        # `extend` keeps what it got before the error.
        assert received == [[1]]


def test_an_event_that_tells_of_a_failure_is_that_failure(kind):
    failure = b'event: error\ndata: {"code": 424, "type": "TranslateException", "message": "half way"}\n\n'
    received = []

    def read(client):
        with client.stream("m", 1) as pieces:
            received.extend(pieces)

    async def read_async(client):
        async with client.stream("m", 1) as pieces:
            async for piece in pieces:
                received.append(piece)  # noqa: PERF401 - keeps what came before the error

    with loopback([EVENTS + chunk(b"data: 1\n\n") + chunk(failure), CLOSE]) as server:
        error = error_of(kind, server.url, read if kind == "sync" else read_async)
    assert type(error) is NodeError
    assert (error.message, error.status) == ("half way", 424)
    assert [event.json() for event in received] == [1]


def tls_server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def test_a_certificate_that_nobody_vouches_for(kind):
    with loopback(answer(b"{}"), answer(b"{}"), tls=tls_server()) as server:
        error = error_of(kind, server.url, lambda client: client.ping())
        assert type(error) is TlsError
        assert "self-signed certificate" in error.message
        assert server.requests == []


def test_a_certificate_that_the_caller_trusts():
    with (
        loopback(answer(b"{}"), tls=tls_server()) as server,
        Client(server.url, verify=ssl.create_default_context(cafile=PEM)) as client,
    ):
        assert client.ping().healthy


def test_https_to_a_server_without():
    with loopback(b"HTTP/1.1 400 Bad Request\r\n\r\n", CLOSE) as server:
        error = error_of("sync", server.url.replace("http:", "https:"), lambda client: client.ping())
        assert type(error) is TlsError


def test_the_token_goes_along_and_into_no_message(monkeypatch):
    monkeypatch.setenv("FLOWYARD_TOKEN", "from-the-environment")
    with loopback(answer(b"{}"), answer(b"{}")) as server:
        for token in ("given", None):
            with Client(server.url, token=token) as client:
                client.ping()
        assert b"authorization: bearer given" in server.requests[0].lower()
        assert b"authorization: bearer from-the-environment" in server.requests[1].lower()
    with pytest.raises(InvalidArgumentError) as caught:
        Client(token="se cret")
    assert "cret" not in str(caught.value)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with loopback(answer(b"{}")) as server, Client(server.url) as client:
        assert client.ping().healthy
