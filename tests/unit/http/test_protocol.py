"""HTTP within limits, over real connections and with a clock that the tests turn."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket

import pytest
import uvloop
from support.protocol import head, read_all, read_until, serve

from flowyard.platform.http import connections
from flowyard.platform.http.connections import TICK_S
from flowyard.platform.http.protocol import BODY_GRACE_S, GOODBYE_S, HEAD_S, LINGER_S, MAX_HEAD_BYTES, MAX_PIPELINED

GOOD = b"GET /good HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD_TICKS, BODY_TICKS = int(HEAD_S / TICK_S), int(BODY_GRACE_S / TICK_S)


class App:
    """Answers with the body it got; `/wait` when it is let go, `/unread` without reading, `/large` with `LARGE` bytes."""

    def __init__(self):
        self.go = asyncio.Event()
        self.paths = []
        self.headers = []
        self.disconnected = asyncio.Event()

    async def __call__(self, scope, receive, send):
        path = scope["path"]
        self.paths.append(path)
        self.headers = scope["headers"]
        body = b""
        if path != "/unread":
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.disconnected.set()
                    return
                body += message["body"]
                if not message["more_body"]:
                    break
        if path == "/wait":
            await self.go.wait()
        body = b"x" * LARGE if path == "/large" else body or path.encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def on_server(test, limit=100, **bounds):
    serve(App(), test, limit, **bounds)


BROKEN = {
    "length and chunked": (head(b"content-length: 3", b"transfer-encoding: chunked") + b"0\r\n\r\n", (400,)),
    "chunked and length": (head(b"transfer-encoding: chunked", b"content-length: 3") + b"0\r\n\r\n", (400,)),
    "two lengths": (head(b"content-length: 3", b"content-length: 4") + b"abcd", (400,)),
    "one length twice": (head(b"content-length: 3", b"content-length: 3") + b"abc", (400,)),
    "a list of lengths": (head(b"content-length: 3, 3") + b"abc", (400,)),
    "a negative length": (head(b"content-length: -1"), (400,)),
    "a length with a sign": (head(b"content-length: +3") + b"abc", (400,)),
    "a hexadecimal length": (head(b"content-length: 0x3") + b"abc", (400,)),
    "a huge length": (head(b"content-length: 99999999999999999999999"), (400,)),
    "NUL in a value": (head(b"x-a: b\x00c"), (400,)),
    "NUL in a name": (head(b"x\x00a: b"), (400,)),
    "a bare CR in a value": (head(b"x-a: b\rc: d"), (400,)),
    "a folded header": (head(b"x-a: b", b" c"), (400,)),
    "a blank before the colon": (head(b"content-length : 3") + b"abc", (400,)),
    "an unknown coding": (head(b"transfer-encoding: gzip"), (400,)),
    "an unknown coding before chunked": (head(b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n", (400,)),
    "two codings": (head(b"transfer-encoding: gzip", b"transfer-encoding: chunked") + b"0\r\n\r\n", (400,)),
    "chunked twice": (head(b"transfer-encoding: chunked, chunked") + b"0\r\n\r\n", (400,)),
    "a coding in quotes": (head(b'transfer-encoding: "chunked"') + b"0\r\n\r\n", (400,)),
    "a vertical tab": (head(b"transfer-encoding: \x0bchunked") + b"0\r\n\r\n", (400,)),
    "a chunk size that is none": (head(b"transfer-encoding: chunked") + b"zz\r\nabc\r\n0\r\n\r\n", (400,)),
    "a negative chunk size": (head(b"transfer-encoding: chunked") + b"-3\r\nabc\r\n0\r\n\r\n", (400,)),
    "a huge chunk size": (head(b"transfer-encoding: chunked") + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n", (400,)),
    "a chunk longer than its size": (head(b"transfer-encoding: chunked") + b"3\r\nabcdef\r\n0\r\n\r\n", (400,)),
    "a chunk size with 0x": (head(b"transfer-encoding: chunked") + b"0x3\r\nabc\r\n0\r\n\r\n", (400,)),
    "a megabyte of headers": (head(*(b"x-%d: %s" % (n, b"a" * 1000) for n in range(1000))), (431,)),
    "one header of a megabyte": (head(b"x: " + b"a" * 2**20), (431,)),
    "a request line of a megabyte": (head(start=b"GET /" + b"a" * 2**20 + b" HTTP/1.1"), (431,)),
    "a header that never ends": (b"GET / HTTP/1.1\r\nx: " + b"a" * 2**20, (431,)),
    "a request line that never ends": (b"GET /" + b"a" * 2**20, (431,)),
    "a bit too much": (head(*(b"x-%d: %s" % (n, b"a" * 990) for n in range(66))), (431,)),
    "a NUL in the target": (head(start=b"GET /a\x00b HTTP/1.1"), (400,)),
    "bytes in the target": (head(start=b"GET /\xff\xfe HTTP/1.1"), (400,)),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,)),
    "a version that is none": (head(start=b"GET / HTTP/9.9"), (400,)),
    "no method": (b"NOTHING\r\n\r\n", (400,)),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), (400,)),
    "an empty header name": (head(b": x"), (400,)),
    "a line that is no header": (head(b"nothing"), (400,)),
}


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@pytest.mark.parametrize(("sent", "allowed"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_is_no_request_is_refused_after_what_came_before(sent, allowed, before):
    async def test(served):
        reader, writer = await served.connect()
        writer.write(GOOD * before + sent)
        answer = await read_all(reader)
        assert statuses(answer)[:before] == [200] * before
        assert statuses(answer)[before:] == list(allowed)
        assert answer.count(b"connection: close") == 1
        assert "/after" not in served.app.paths

    on_server(test)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_pieces_change_nothing(size):
    async def test(served):
        for sent, allowed in BROKEN.values():
            if len(sent) > 100_000 and size < 4096:
                continue
            reader, writer = await served.connect()
            for start in range(0, len(sent), size):
                writer.write(sent[start : start + size])
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                await asyncio.sleep(0)
            assert statuses(await read_all(reader)) in ([allowed[0]], []), sent[:200]

    on_server(test)


def test_a_request_of_the_largest_head_passes():
    async def test(served):
        reader, writer = await served.connect()
        line = b"x: " + b"a" * (MAX_HEAD_BYTES - 200)
        writer.write(head(line, b"connection: close", start=b"GET /a HTTP/1.1"))
        assert statuses(await read_all(reader)) == [200]

    on_server(test)


def test_a_large_body_after_a_head_in_two_pieces_is_no_large_head():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(b"POST /a HTTP/1.1\r\nhost: x\r\nconnec")
        await served.settle(lambda: len(served.bounds._open) == 1)
        await asyncio.sleep(0)
        body = b"b" * 300_000
        writer.write(b"tion: close\r\ncontent-length: 300000\r\n\r\n" + body)
        assert (await read_all(reader)).endswith(b"\r\n\r\n" + body)

    on_server(test)


def test_what_is_broken_waits_for_the_answers_before_it():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(
            b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" + GOOD + b"nonsense\r\n\r\n" + b"GET /after HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        await served.settle(lambda: served.app.paths)
        served.ticks(10 * HEAD_TICKS)
        served.app.go.set()
        assert statuses(await read_all(reader)) == [200, 200, 400]
        assert served.app.paths == ["/wait", "/good"]

    on_server(test)


def test_a_body_that_breaks_while_it_is_awaited():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(head(b"transfer-encoding: chunked", start=b"POST /a HTTP/1.1") + b"3\r\nabc\r\n")
        await served.settle(lambda: served.app.paths)
        writer.write(b"nonsense\r\n")
        assert statuses(await read_all(reader)) == [400]
        await served.settle(served.app.disconnected.is_set)

    on_server(test)


def test_a_broken_body_of_a_request_that_waits_its_turn_is_never_run():
    async def test(served):
        reader, writer = await served.connect()
        broken = head(b"transfer-encoding: chunked", start=b"POST /never HTTP/1.1") + b"zz\r\n"
        writer.write(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" + broken)
        await served.settle(lambda: served.app.paths)
        served.app.go.set()
        assert statuses(await read_all(reader)) == [200, 400]
        assert served.app.paths == ["/wait"]

    on_server(test)


CHUNKED = head(b"transfer-encoding: chunked", start=b"POST /good HTTP/1.1")


@pytest.mark.parametrize("in_pieces", [False, True])
def test_trailers_are_no_headers(in_pieces):
    sent = CHUNKED + b"3\r\nabc\r\n0\r\nauthorization: Bearer x\r\nhost: y\r\n\r\n"

    async def test(served):
        reader, writer = await served.connect()
        if in_pieces:
            for byte in sent:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
        else:
            writer.write(sent)
        assert statuses(await read_until(reader, b"abc")) == [200]
        assert served.app.headers == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]
        writer.write(GOOD)
        assert statuses(await read_until(reader, b"/good")) == [200]

    on_server(test)


@pytest.mark.parametrize("path", [b"/good", b"/unread"])
@pytest.mark.parametrize(
    ("before", "endless"),
    [
        (b"3\r\nabc\r\n0\r\n", b"x-a: b\r\n"),
        (b"3\r\nabc\r\n0\r\nx-a: ", b"b"),
        (b"3\r\nabc\r\n3;", b"b"),
    ],
    ids=["trailers", "a trailer", "a chunk extension"],
)
def test_what_goes_with_a_body_is_bounded(path, before, endless):
    async def test(served):
        reader, writer = await served.connect()
        writer.write(CHUNKED.replace(b"/good", path) + before)
        await served.settle(lambda: served.app.paths)
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                writer.write(endless * (16_384 // len(endless)))
                await writer.drain()
                await asyncio.sleep(0)
        assert statuses(await read_all(reader)) == ([431] if path == b"/good" else [200])

    on_server(test)


def test_large_chunks_and_many_small_ones_pass():
    async def test(served):
        reader, writer = await served.connect()
        many = b"1;a=b\r\nx\r\n" * 50_000
        closing = CHUNKED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        writer.write(closing + b"100000\r\n" + b"y" * 2**20 + b"\r\n" + many + b"0\r\nx-a: b\r\n\r\n")
        answer = await read_all(reader)
        assert statuses(answer) == [200]
        assert answer.endswith(b"y" + b"x" * 50_000)

    on_server(test)


def test_too_many_requests_ahead_of_their_answers():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(GOOD * (MAX_PIPELINED + 500))
        found = statuses(await read_all(reader))
        assert set(found[:-1]) == {200}
        assert len(found) > MAX_PIPELINED
        assert found[-1] in (200, 503)

    async def waiting(served):
        reader, writer = await served.connect()
        writer.write(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n" + GOOD * (3 * MAX_PIPELINED))
        await served.settle(lambda: served.app.paths)
        served.app.go.set()
        found = statuses(await read_all(reader))
        assert found == [200] * (1 + MAX_PIPELINED) + [503]

    on_server(waiting)


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /a HTTP/1.1\r\nhost: x\r\n", b"\r\n\r\n", GOOD + b"GET"])
def test_a_head_that_does_not_come(sent):
    async def test(served):
        reader, writer = await served.connect()
        await served.settle(lambda: served.bounds._open)
        writer.write(sent)
        if sent.startswith(GOOD):
            await read_until(reader, b"/good")
        for _ in range(10):
            await asyncio.sleep(0)
        served.ticks(HEAD_TICKS)
        await asyncio.sleep(0)
        assert not reader.at_eof()
        served.ticks(2)
        assert await read_all(reader) == b""

    on_server(test)


def test_bytes_of_a_head_do_not_win_time():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(b"GET /a HTTP/1.1\r\n")
        await served.settle(lambda: served.bounds._open)
        for number in range(2 * HEAD_TICKS):
            served.ticks(1)
            with contextlib.suppress(ConnectionError):
                writer.write(b"x-%d: y\r\n" % number)
                await writer.drain()
            await asyncio.sleep(0)
        assert await read_all(reader) == b""
        assert served.app.paths == []

    on_server(test)


def test_a_connection_that_rests_is_closed_whatever_empty_lines_come():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(GOOD)
        await read_until(reader, b"/good")
        (protocol,) = served.bounds._open
        await served.settle(lambda: not protocol._unanswered)
        ticks = int(protocol.timeout_keep_alive / TICK_S)
        for _ in range(ticks):
            served.ticks(1)
            writer.write(b"\r\n")
            await asyncio.sleep(0)
        assert served.bounds._open
        served.ticks(1)
        assert await read_all(reader) == b""

    on_server(test)


@pytest.mark.parametrize("path", [b"/a", b"/unread"])
def test_a_body_that_does_not_come(path):
    async def test(served):
        reader, writer = await served.connect()
        writer.write(head(b"content-length: 100000", start=b"POST " + path + b" HTTP/1.1") + b"a")
        await served.settle(lambda: served.app.paths)
        served.ticks(BODY_TICKS)
        await asyncio.sleep(0)
        assert not reader.at_eof()
        served.ticks(4)
        answer = await read_all(reader)
        assert statuses(answer) == ([200] if path == b"/unread" else [])

    on_server(test)


@pytest.mark.parametrize(("bytes_per_tick", "passes"), [(512, True), (600, True), (400, False), (1, False)])
def test_a_body_at_its_least_speed(bytes_per_tick, passes):
    async def test(served):
        reader, writer = await served.connect()
        ticks = 200
        writer.write(head(b"content-length: %d" % (ticks * bytes_per_tick), b"connection: close", start=b"POST /a HTTP/1.1"))
        await served.settle(lambda: served.app.paths)
        (protocol,) = served.bounds._open
        for _ in range(ticks):
            before = protocol._late_bytes
            try:
                writer.write(b"b" * bytes_per_tick)
                await writer.drain()
            except ConnectionError:
                break
            await served.settle(
                lambda before=before: protocol._late_bytes > before or protocol._phase == "rest" or not served.bounds._open
            )
            served.ticks(1)
        assert statuses(await read_all(reader)) == ([200] if passes else [])

    on_server(test)


def test_who_waits_for_an_answer_is_not_late():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\nGET /half")
        await served.settle(lambda: served.app.paths)
        served.ticks(10 * HEAD_TICKS)
        served.app.go.set()
        assert b"200" in await read_until(reader, b"/wait")
        writer.write(b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert statuses(await read_all(reader)) == [200]

    on_server(test)


LARGE = 32 << 20
READER_LIMIT_S = 5.0
READER_TICKS = int(READER_LIMIT_S / TICK_S)


@contextlib.contextmanager
def lazy_reader(served):
    """A client that has asked for more than the kernel keeps for it, and reads nothing on its own."""
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", served.port))
        opened.setblocking(False)
        opened.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        yield opened


async def waits(served):
    """Comes back when an answer waits for the only client."""
    await served.settle(lambda: served.bounds._open)
    (protocol,) = served.bounds._open
    await served.settle(protocol.transport.get_write_buffer_size)
    return protocol


@pytest.mark.parametrize("is_counted", [True, False])
def test_an_answer_that_is_not_read(is_counted, monkeypatch):
    if not is_counted:
        monkeypatch.setattr(connections, "_acknowledged_bytes", lambda transport: 0)

    async def test(served):
        with lazy_reader(served) as opened:
            await waits(served)
            served.ticks(READER_TICKS)
            assert served.bounds._open
            served.ticks(3)
            await served.settle(lambda: not served.bounds._open)
            with pytest.raises(ConnectionResetError):
                while opened.recv(1 << 20):
                    pass

    on_server(test, slow_reader_limit_s=READER_LIMIT_S)


@pytest.mark.parametrize(("bytes_per_tick", "passes"), [(100_000, True), (1, False)])
def test_an_answer_that_is_read_slowly(bytes_per_tick, passes):
    async def test(served):
        with lazy_reader(served) as opened:
            await waits(served)
            for _ in range(4 * READER_TICKS):
                taken = 0
                while taken < bytes_per_tick and served.bounds._open:
                    with contextlib.suppress(BlockingIOError, ConnectionResetError):
                        taken += len(opened.recv(bytes_per_tick - taken))
                    await asyncio.sleep(0)
                served.ticks(1)
                await asyncio.sleep(0)
            assert bool(served.bounds._open) is passes

    on_server(test, slow_reader_limit_s=READER_LIMIT_S)


def test_who_has_taken_all_of_an_answer_may_wait():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(GOOD)
        await read_until(reader, b"/good")
        (protocol,) = served.bounds._open
        # Not for ever: that it rests has a limit of its own.
        protocol.timeout_keep_alive = 20 * READER_TICKS * TICK_S
        served.ticks(10 * READER_TICKS)
        await asyncio.sleep(0)
        assert served.bounds._open

    on_server(test, slow_reader_limit_s=READER_LIMIT_S)


def test_too_many_connections():
    async def test(served):
        for _ in range(2):
            await served.connect()
        await served.settle(lambda: len(served.bounds._open) == 2)
        reader, _ = await served.connect()
        answer = await read_all(reader)
        assert statuses(answer) in ([503], [])
        assert b"max_connections" in answer
        served.writers[0].close()
        await served.settle(lambda: len(served.bounds._open) == 1)
        reader, writer = await served.connect()
        writer.write(GOOD)
        await read_until(reader, b"/good")

    on_server(test, limit=2)


def _exchange(port, sent):
    """All that is answered to a client that reads nothing before it has sent everything."""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(sent)
        answer = b""
        while piece := client.recv(1 << 16):
            answer += piece
        return answer


@pytest.mark.parametrize("start", [b"POST /unread HTTP/1.1", b"POST /unread HTTP/1.0"])
@pytest.mark.parametrize("size", [1000, 200_000, 3_000_000])
@pytest.mark.parametrize("new_loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_who_is_answered_before_the_body_is_read_gets_the_answer(size, start, new_loop):
    """A connection that is closed with something unread is reset, and takes the answer along that is under way."""

    async def test(served):
        lines = (b"connection: close",) if start.endswith(b"1") else ()
        sent = head(b"content-length: %d" % size, *lines, start=start) + b"x" * size
        answers = await asyncio.gather(*(asyncio.to_thread(_exchange, served.port, sent) for _ in range(4)))
        assert all(answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n/unread") for answer in answers)
        await served.settle(lambda: not served.tasks.connections)

    serve(App(), test, new_loop=new_loop)


def test_who_goes_on_sending_after_the_last_answer_is_cut_off():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(head(b"content-length: 1000000", b"connection: close", start=b"POST /unread HTTP/1.1") + b"x" * 300_000)
        assert (await read_all(reader)).endswith(b"/unread")
        served.ticks(int(GOODBYE_S / TICK_S))
        assert not writer.is_closing()
        for _ in range(int(LINGER_S / TICK_S) - int(GOODBYE_S / TICK_S)):
            writer.write(b"x")
            await asyncio.sleep(0.001)
            served.ticks(1)
        served.ticks(2)
        await served.settle(lambda: not served.tasks.connections)

    on_server(test)
