"""Large bodies, which come past the parser, over real connections."""

from __future__ import annotations

import asyncio
import functools
import gc

import pytest
import uvloop
from support.protocol import head, read_all, read_until, serve
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from flowyard.platform.held import Held
from flowyard.platform.http.bodies import STEP_BYTES, ClientGoneError, read_body
from flowyard.platform.http.connections import TICK_S
from flowyard.platform.http.large_bodies import HEAD_PIECE_BYTES, LARGE_BYTES, LargeBody
from flowyard.platform.http.protocol import BODY_GRACE_S
from flowyard.schemas.errors import MemoryFullError, TooLargeError

LIMIT = 8 * STEP_BYTES
SIZES = [LARGE_BYTES + 1, 300_000, STEP_BYTES, STEP_BYTES + 1, 3 * STEP_BYTES - 7]


def body_of(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def request(body, *lines, path=b"/whole"):
    return head(b"content-length: %d" % len(body), *lines, start=b"POST %b HTTP/1.1" % path) + body


class App:
    """Answers with the length of the body and a word on whether it is right.

    `/whole` reads it with `read_body`, `/messages` from messages alone, `/begun` by messages after a first piece in given memory,
    `/given-up` likewise after having given up filling memory.
    """

    def __init__(self, limit=LIMIT):
        self.held = Held(LIMIT)
        self.limit = limit
        self.ended = []
        #: What each body begins with that has come through the parser.
        self.through_parser = []
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope, receive, send):
        try:
            read = {"/messages": self.messages, "/begun": self.after_a_piece, "/given-up": self.given_up}.get(scope["path"])
            body = await (read(receive) if read is not None else self.whole(receive))
        except ClientGoneError as error:
            self.ended.append(error)
            return
        except (TooLargeError, MemoryFullError) as error:
            self.ended.append(error)
            body = b""
        told = b"%d %s" % (len(body), b"right" if body == body_of(len(body)) else b"wrong")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(told))]})
        await send({"type": "http.response.body", "body": told})

    async def whole(self, receive):
        async def first_told():
            message = await receive()
            self.through_parser.append(len(message["body"]))
            self.begun.set()
            await self.go.wait()
            return message

        body = await read_body(first_told, self.limit, self.held)
        self.held.give_back(len(body))
        return bytes(body)

    async def messages(self, receive):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        return body

    async def after_a_piece(self, receive):
        message = await receive()
        body = message["body"]
        if not message["more_body"]:
            return body
        piece = bytearray(min(100_000, message["rest"].remaining - 1))
        assert await message["rest"].fill(memoryview(piece))
        return body + piece + await self.messages(receive)

    async def given_up(self, receive):
        message = await receive()
        filling = asyncio.ensure_future(message["rest"].fill(memoryview(bytearray(message["rest"].remaining))))
        await asyncio.sleep(0)
        filling.cancel()
        self.begun.set()
        return message["body"] + await self.messages(receive)


def answer_of(size, *, right=True):
    told = b"%d %s" % (size, b"right" if right else b"wrong")
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(told), told)


@pytest.fixture(params=[None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def on_server(request):
    return functools.partial(serve, new_loop=request.param)


@pytest.mark.parametrize("path", [b"/whole", b"/messages", b"/begun"])
@pytest.mark.parametrize("size", SIZES)
def test_bodies_come_whole_one_after_the_other(on_server, size, path):
    """In one piece with the requests before and after them, which are small ones too."""
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        for _ in range(2):
            writer.write(request(body_of(size), path=path) * 2 + request(b"") + request(body_of(500)))
            for expected in (size, size, 0, 500):
                assert await read_until(reader, b"right") == answer_of(expected)
        assert app.held.size_bytes == 0

    on_server(app, test)


@pytest.mark.parametrize("cut", [1, 70_000, 1_000_000])
def test_a_body_in_pieces_with_its_successor_on_its_heels(on_server, cut):
    app = App()
    sent = request(body_of(1_500_000)) + request(body_of(200_000), path=b"/messages")

    async def test(served):
        reader, writer = await served.connect()
        app.go.clear()
        writer.write(sent[:-1_000_000])
        await asyncio.wait_for(app.begun.wait(), 20)
        app.go.set()
        for start in range(len(sent) - 1_000_000, len(sent), cut if cut > 1 else 99_999):
            writer.write(sent[start : start + (cut if cut > 1 else 99_999)])
            await asyncio.wait_for(writer.drain(), 20)
        assert await read_until(reader, b"right") == answer_of(1_500_000)
        assert await read_until(reader, b"right") == answer_of(200_000)

    on_server(app, test)


def test_the_client_is_told_to_go_on_and_the_connection_ends_when_it_is_to(on_server):
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        whole = request(body_of(300_000), b"expect: 100-continue", b"connection: close")
        writer.write(whole[:-300_000])
        assert await read_until(reader, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(whole[-300_000:])
        assert (await read_all(reader)).endswith(b"300000 right")

    on_server(app, test)


@pytest.mark.parametrize("how", ["close", "abort", "half"])
@pytest.mark.parametrize("sent", [100, 70_000, 2_000_000])
def test_a_client_that_goes_away_in_the_middle(on_server, how, sent):
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        writer.write(request(body_of(3_000_000))[:sent])
        await asyncio.wait_for(app.begun.wait(), 20)
        await asyncio.wait_for(writer.drain(), 20)
        {"close": writer.close, "abort": writer.transport.abort, "half": writer.write_eof}[how]()
        await served.settle(lambda: app.ended)
        assert isinstance(app.ended[0], ClientGoneError)
        assert app.held.size_bytes == 0
        assert await read_all(reader) == b""

    on_server(app, test)


def test_a_body_that_is_too_large_is_not_waited_for_and_the_connection_goes_on(on_server):
    app = App(limit=1_000_000)

    async def test(served):
        reader, writer = await served.connect()
        whole = request(body_of(2_000_000))
        writer.write(whole[:200_000])
        assert await read_until(reader, b"right") == answer_of(0)
        writer.write(whole[200_000:] + request(body_of(900_000)))
        assert await read_until(reader, b"right") == answer_of(900_000)
        assert isinstance(app.ended[0], TooLargeError)
        assert app.held.size_bytes == 0

    on_server(app, test)


def test_a_body_for_which_memory_runs_out_half_way_is_passed_over(on_server):
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        whole = request(body_of(3 * STEP_BYTES))
        app.held.keep(LIMIT - 2 * STEP_BYTES)
        writer.write(whole[: 2 * STEP_BYTES + LARGE_BYTES])
        assert await read_until(reader, b"right") == answer_of(0)
        assert isinstance(app.ended[0], MemoryFullError)
        assert app.held.size_bytes == LIMIT - 2 * STEP_BYTES
        app.held.give_back(LIMIT - 2 * STEP_BYTES)
        writer.write(whole[2 * STEP_BYTES + LARGE_BYTES :] + request(body_of(900_000)))
        assert await read_until(reader, b"right") == answer_of(900_000)
        assert app.held.size_bytes == 0

    on_server(app, test)


def test_what_has_not_come_is_not_held(on_server):
    app = App()

    async def test(served):
        _, writer = await served.connect()
        writer.write(request(body_of(6 * STEP_BYTES))[:LARGE_BYTES])
        await asyncio.wait_for(app.begun.wait(), 20)
        await served.settle(lambda: app.held.size_bytes >= STEP_BYTES)
        assert app.held.size_bytes <= STEP_BYTES + LARGE_BYTES

    on_server(app, test)


def test_whoever_gives_up_filling_memory_finds_the_rest_in_messages(on_server):
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        whole = request(body_of(2_000_000), path=b"/given-up") + request(b"abc", path=b"/messages")
        writer.write(whole[:1000])
        await asyncio.wait_for(app.begun.wait(), 20)
        writer.write(whole[1000:])
        assert await read_until(reader, b"right") == answer_of(2_000_000)
        assert await read_until(reader, b"wrong") == answer_of(3, right=False)

    on_server(app, test)


def test_a_client_that_stops_sending_is_cut_off(on_server):
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        writer.write(request(body_of(3_000_000))[:1_500_000])
        await asyncio.wait_for(app.begun.wait(), 20)
        await served.settle(lambda: app.held.size_bytes > STEP_BYTES)
        served.ticks(int(BODY_GRACE_S / TICK_S) + 1)
        assert not app.ended
        # What has come in good time is as good as time.
        served.ticks(4000)
        await served.settle(lambda: app.ended)
        assert isinstance(app.ended[0], ClientGoneError)
        assert await read_all(reader) == b""

    on_server(app, test)


def test_little_of_the_next_body_comes_along_with_its_head(on_server):
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        for _ in range(3):
            writer.write(request(body_of(300_000)))
            assert await read_until(reader, b"right") == answer_of(300_000)
        # Small ones are read as before.
        writer.write(request(b"") + request(body_of(50_000), path=b"/messages"))
        assert await read_until(reader, b"right") == answer_of(0)
        assert await read_until(reader, b"right") == answer_of(50_000)
        assert max(app.through_parser[1:3]) <= HEAD_PIECE_BYTES

    on_server(app, test)


def test_what_is_over_is_let_go_of_without_the_garbage_collector(on_server):
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                writer.write(request(body_of(300_000)))
                assert await read_until(reader, b"right") == answer_of(300_000)
            left = [type(one).__name__ for one in gc.get_objects() if type(one) in (LargeBody, RequestResponseCycle)]
        finally:
            gc.enable()
        # The connection's own last ones.
        assert sorted(left) == ["LargeBody", "RequestResponseCycle"]

    on_server(app, test)


def test_a_chunked_body_has_no_length_to_go_by(on_server):
    app = App()

    async def test(served):
        reader, writer = await served.connect()
        chunks = b"".join(b"%x\r\n%b\r\n" % (251 * 400, body_of(251 * 400)) for _ in range(3))
        writer.write(head(b"transfer-encoding: chunked", start=b"POST /whole HTTP/1.1") + chunks + b"0\r\n\r\n" + request(b""))
        assert await read_until(reader, b"right") == answer_of(3 * 251 * 400)
        assert await read_until(reader, b"right") == answer_of(0)

    on_server(app, test)
