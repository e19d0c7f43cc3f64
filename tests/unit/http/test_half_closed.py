"""Clients that close their sending side: those that still read get their answers, those that have left are found out."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket

import pytest
import uvloop
from support.protocol import head, read_all, read_until, serve

from flowyard.platform.http import protocol as protocol_module

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Call:
    """Answers when it is told to."""

    def __init__(self, app):
        self.app = app
        self.cancelled = False

    def run(self, body, answered):
        self.app.running.append(self)
        self.body, self.answered = body, answered
        return True

    def answer(self):
        self.answered(200, b"content-length: %d\r\n" % len(self.body), self.body)

    def cancel(self):
        self.cancelled = True


class App:
    """Has both ways; what goes the long one is answered piece by piece, a piece whenever `go` is set."""

    def __init__(self):
        self.direct = self
        self.running = []
        self.paths = []
        self.go = asyncio.Event()
        self.left = asyncio.Event()

    def read(self, url, headers):
        return url if url == b"/direct" else None

    def take(self, head, client):
        return Call(self)

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        while (await receive())["more_body"]:
            pass
        listening = asyncio.ensure_future(receive())
        try:
            if scope["path"] == "/stream":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                for number in range(3):
                    await send({"type": "http.response.body", "body": b"piece%d" % number, "more_body": True})
                    if not await self.told(listening):
                        return
                await send({"type": "http.response.body", "body": b"end"})
            elif await self.told(listening):
                body = scope["path"].encode()
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
                await send({"type": "http.response.body", "body": body})
        finally:
            listening.cancel()

    async def told(self, listening):
        """Whether to go on; false where the client has left."""
        going = asyncio.ensure_future(self.go.wait())
        await asyncio.wait([going, listening], return_when=asyncio.FIRST_COMPLETED)
        going.cancel()
        if listening.done():
            self.left.set()
            return False
        self.go.clear()
        return True


def post(path, body=b"abc", version=b"1.1"):
    return head(b"content-length: %d" % len(body), start=b"POST " + path + b" HTTP/" + version) + body


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@pytest.fixture(params=LOOPS.values(), ids=LOOPS)
def on_server(request):
    return lambda test: serve(App(), test, new_loop=request.param)


async def send_and_end(served, *pieces):
    """Sends, closes the sending side, and waits until the server has seen that."""
    reader, writer = await served.connect()
    for piece in pieces:
        writer.write(piece)
    writer.write_eof()
    return reader, writer


async def turns():
    """Lets the loop go round a few times."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def asked_at_once(monkeypatch):
    monkeypatch.setattr(protocol_module, "ASK_AFTER_S", 0.0)


def half_closed(served):
    return any(protocol._is_half_closed for protocol in served.bounds._open)


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_directly(on_server, version):
    async def test(served):
        reader, _ = await send_and_end(served, post(b"/direct", version=version))
        await served.settle(lambda: served.app.running and half_closed(served))
        served.app.running[0].answer()
        assert await read_all(reader) == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
        await served.settle(lambda: not served.bounds._open)

    on_server(test)


def test_through_asgi(on_server):
    async def test(served):
        reader, _ = await send_and_end(served, post(b"/long"))
        await served.settle(lambda: half_closed(served))
        served.app.go.set()
        assert await read_all(reader) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n/long"
        await served.settle(lambda: not served.bounds._open)

    on_server(test)


@pytest.mark.usefixtures("asked_at_once")
def test_a_stream(on_server):
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/stream"))
        await read_until(reader, b"piece0\r\n")
        writer.write_eof()
        await served.settle(lambda: half_closed(served))
        await turns()
        # It is asked by a digit more than the size of the next chunk needs.
        assert await reader.readexactly(1) == b"0"
        for number in (1, 2):
            served.app.go.set()
            assert await read_until(reader, b"piece%d\r\n" % number) == b"6\r\npiece%d\r\n" % number
        served.app.go.set()
        assert await read_all(reader) == b"3\r\nend\r\n0\r\n\r\n"
        await served.settle(lambda: not served.bounds._open)

    on_server(test)


def test_several_requests_are_answered_in_order(on_server):
    async def test(served):
        reader, _ = await send_and_end(served, post(b"/direct"), post(b"/long"), post(b"/more"))
        await served.settle(lambda: served.app.running)
        served.app.running[0].answer()
        for path in ("/long", "/more"):
            await served.settle(lambda path=path: served.app.paths[-1:] == [path])
            served.app.go.set()
            await served.settle(lambda: not served.app.go.is_set())
        answer = await read_all(reader)
        assert statuses(answer) == [200] * 3
        assert re.findall(rb"\r\n\r\n(abc|/long|/more)", answer) == [b"abc", b"/long", b"/more"]
        assert answer.count(b"connection: close") == 1
        await served.settle(lambda: not served.bounds._open)

    on_server(test)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /dir", post(b"/direct")[:-1], post(b"/long")[:-1], head(start=b"GET /x HTTP/1.1")[:-1]]
)
def test_what_has_not_come_whole_is_not_waited_for(on_server, sent):
    async def test(served):
        reader, _ = await send_and_end(served, sent)
        assert await read_all(reader) == b""
        await served.settle(lambda: not served.bounds._open)
        assert not served.app.running

    on_server(test)


def test_nor_is_there_a_next_request(on_server):
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/direct"))
        await served.settle(lambda: served.app.running)
        served.app.running[0].answer()
        await read_until(reader, b"abc")
        writer.write_eof()
        assert await read_all(reader) == b""

    on_server(test)


def test_nonsense_behind_a_request_is_still_refused(on_server):
    async def test(served):
        reader, _ = await send_and_end(served, post(b"/direct"), b"nonsense\r\n\r\n")
        await served.settle(lambda: served.app.running)
        served.ticks(1)
        served.app.running[0].answer()
        assert statuses(await read_all(reader)) == [200, 400]

    on_server(test)


@pytest.mark.parametrize("path", [b"/direct", b"/long"])
def test_a_client_that_waits_long_is_asked_once_whether_it_is_there(on_server, path):
    async def test(served):
        reader, _ = await send_and_end(served, post(path))
        await read_until(reader, CONTINUE)
        await turns()
        served.ticks(10)
        served.app.go.set()
        for call in served.app.running:
            call.answer()
        assert statuses(await read_all(reader)) == [200]

    on_server(test)


@pytest.mark.usefixtures("asked_at_once")
def test_a_client_of_http_1_0_is_not_asked(on_server):
    async def test(served):
        reader, _ = await send_and_end(served, post(b"/direct", version=b"1.0"))
        await served.settle(lambda: half_closed(served))
        await turns()
        served.ticks(10)
        served.app.running[0].answer()
        assert statuses(await read_all(reader)) == [200]

    on_server(test)


@pytest.mark.parametrize("path", [b"/direct", b"/long"])
@pytest.mark.parametrize("resets", [False, True])
def test_a_client_that_has_left_takes_its_request_back(on_server, path, resets):
    async def test(served):
        _, writer = await served.connect()
        writer.write(post(path))
        await served.settle(lambda: served.app.running or served.app.paths)
        if resets:
            opened = writer.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()

        await served.settle(lambda: served.app.left.is_set() or any(call.cancelled for call in served.app.running))
        await served.settle(lambda: not served.bounds._open)

    on_server(test)


def test_a_client_of_a_stream_that_has_left_is_noticed_while_pieces_go_out(on_server):
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/stream"))
        await read_until(reader, b"piece0\r\n")
        writer.close()
        await served.settle(lambda: half_closed(served))
        served.app.go.set()

        def is_noticed():
            served.ticks(1)
            return served.app.left.is_set()

        await served.settle(is_noticed)

    on_server(test)


def test_a_client_of_a_stream_that_has_left_is_noticed_while_there_is_nothing_to_send(on_server):
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/stream"))
        await read_until(reader, b"piece0\r\n")
        writer.close()
        await served.settle(served.app.left.is_set)
        await served.settle(lambda: not served.bounds._open)

    on_server(test)


@pytest.mark.usefixtures("asked_at_once")
def test_a_client_that_only_reads_understands_what_it_is_asked(on_server):
    """Through a client of this language's own library, which closes its sending side in the middle of a stream."""

    async def test(served):
        def whole():
            with socket.create_connection(("127.0.0.1", served.port)) as opened:
                opened.sendall(post(b"/stream"))
                opened.shutdown(socket.SHUT_WR)
                response = http.client.HTTPResponse(opened)
                response.begin()
                return response.read()

        reading = asyncio.create_task(asyncio.to_thread(whole))
        await served.settle(lambda: half_closed(served))
        while not reading.done():
            served.app.go.set()
            await asyncio.sleep(0)
        assert await reading == b"piece0piece1piece2end"

    on_server(test)
