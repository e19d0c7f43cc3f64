"""Requests on the direct way, over real connections: the same promises as on the long one."""

from __future__ import annotations

import asyncio
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.protocol import head, read_all, read_until, serve

from flowyard.platform.http.connections import TICK_S
from flowyard.platform.http.protocol import BODY_GRACE_S


class Call:
    def __init__(self, way, url):
        self.way, self.url = way, url
        self.answered = None
        self.cancelled = False

    def run(self, body, answered):
        if self.url == b"/late":
            return False
        self.body, self.answered = body, answered
        self.way.running.append(self)
        if self.url != b"/direct/wait":
            self.answer()
        return True

    def answer(self):
        body = b"direct:" + self.body
        self.answered(200, b"content-length: %d\r\n" % len(body), body)

    def cancel(self):
        self.cancelled = True


class Way:
    """Takes what is for it, unless it is full; counts the heads that it has been shown."""

    def __init__(self):
        self.calls, self.running = [], []
        self.heads = 0
        self.full = self.too_late = False

    def read(self, url, headers):
        self.heads += 1
        if not url.startswith((b"/direct", b"/late")) or b"transfer-encoding" in dict(headers):
            return None
        return url

    def take(self, head, client):
        assert client[0] == "127.0.0.1"
        if self.full:
            return None
        self.calls.append(Call(self, b"/late" if self.too_late else head))
        return self.calls[-1]


class App:
    """Answers what goes the long way with its path and body."""

    def __init__(self):
        self.direct = Way()
        self.paths = []

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        assert scope["headers"][0] == (b"host", b"x")
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        body = b"long:" + scope["path"].encode() + body
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def post(path, body=b"", *more, version=b"1.1"):
    return head(b"content-length: %d" % len(body), *more, start=b"POST " + path + b" HTTP/" + version) + body


LAST = b"connection: close"


def bodies(answer):
    return re.findall(rb"\r\n\r\n(.*?)(?=HTTP/1\.1|\Z)", answer, re.DOTALL)


def on_server(test):
    serve(App(), test)


@pytest.mark.parametrize(("version", "more"), [(b"1.1", (LAST,)), (b"1.0", ())])
def test_an_answer_in_one_piece_and_the_end_of_the_connection(version, more):
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/direct", b"ab", *more, version=version))
        assert await read_all(reader) == b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\ndirect:ab"
        assert served.app.paths == []

    on_server(test)


def test_a_body_in_pieces():
    async def test(served):
        reader, writer = await served.connect()
        body = bytes(range(256)) * 2000
        sent = post(b"/direct", body, LAST)
        for start in range(0, len(sent), 50_000):
            writer.write(sent[start : start + 50_000])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await read_all(reader)).endswith(b"\r\n\r\ndirect:" + body)

    on_server(test)


def test_both_ways_on_one_connection_answer_in_order():
    async def test(served):
        reader, writer = await served.connect()
        for number in range(4):
            writer.write(post((b"/direct", b"/long")[number % 2], b"%d" % number))
            await read_until(reader, b"%d" % number)
        writer.write(post(b"/direct", b"a") + post(b"/long", b"b") + post(b"/direct", b"c") + post(b"/direct", b"d", LAST))
        assert bodies(await read_all(reader)) == [b"direct:a", b"long:/longb", b"long:/directc", b"long:/directd"]

    on_server(test)


def test_what_comes_while_a_direct_request_is_answered_waits_for_it():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/direct/wait", b"a") + post(b"/direct", b"b") + post(b"/long", b"c", LAST))
        await served.settle(lambda: served.app.direct.running)
        served.ticks(1000)
        assert served.app.paths == []
        served.app.direct.running[0].answer()
        assert bodies(await read_all(reader)) == [b"direct:a", b"long:/directb", b"long:/longc"]
        assert len(served.app.direct.calls) == 1

    on_server(test)


def test_other_methods_and_chunked_bodies_go_the_long_way():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(head(start=b"GET /direct HTTP/1.1"))
        await read_until(reader, b"long:/direct")
        writer.write(head(b"transfer-encoding: chunked", LAST, start=b"POST /direct HTTP/1.1") + b"1\r\na\r\n0\r\n\r\n")
        assert (await read_all(reader)).endswith(b"long:/directa")
        assert served.app.direct.calls == []

    on_server(test)


def test_a_call_may_still_go_the_long_way_when_it_is_complete():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/late", b"abc"))
        await read_until(reader, b"long:/lateabc")
        writer.write(post(b"/late", b"", LAST))
        assert (await read_all(reader)).endswith(b"long:/late")
        assert not any(call.cancelled for call in served.app.direct.calls)

    on_server(test)


@pytest.mark.parametrize("more", [b"", b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_client_that_leaves_takes_its_request_back(more):
    async def test(served):
        _, writer = await served.connect()
        writer.write(post(b"/direct/wait", b"a") + more)
        await served.settle(lambda: served.app.direct.running)
        for _ in range(10):
            await asyncio.sleep(0)
        writer.close()

        def is_cancelled():
            served.ticks(1)
            return served.app.direct.calls[0].cancelled

        await served.settle(is_cancelled)
        assert not served.bounds._open

    on_server(test)


def test_a_client_that_leaves_in_the_middle_of_a_body():
    async def test(served):
        _, writer = await served.connect()
        writer.write(post(b"/direct", b"abc")[:-1])
        await served.settle(lambda: served.app.direct.calls)
        writer.close()
        await served.settle(lambda: served.app.direct.calls[0].cancelled)
        assert served.app.direct.running == []

    on_server(test)


def test_a_body_that_does_not_come():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/direct", b"abc")[:-1])
        await served.settle(lambda: served.app.direct.calls)
        served.ticks(int(BODY_GRACE_S / TICK_S) + 4)
        assert await read_all(reader) == b""
        assert served.app.direct.calls[0].cancelled

    on_server(test)


def test_nothing_behind_the_last_request_is_run():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/direct", b"a", LAST) + post(b"/direct", b"b") + post(b"/long", b"c"))
        assert bodies(await read_all(reader)) == [b"direct:a"]
        assert (len(served.app.direct.calls), served.app.paths) == (1, [])

    on_server(test)


def test_nonsense_behind_a_direct_request_is_refused_after_its_answer():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/direct/wait", b"a") + b"nonsense\r\n\r\n")
        await served.settle(lambda: served.app.direct.running)
        served.app.direct.running[0].answer()
        answer = await read_all(reader)
        assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"400"]

    on_server(test)


def test_a_client_that_does_not_read_its_answers_is_put_on_the_long_way_where_answers_wait():
    async def test(served):
        reader, writer = await served.connect()
        body = b"b" * 4_000_000
        writer.write(post(b"/direct", body))
        await served.settle(lambda: served.app.direct.running)
        (protocol,) = served.bounds._open
        assert protocol.flow.write_paused
        writer.write(post(b"/direct", b"z", LAST))
        await served.settle(lambda: served.app.paths)
        assert (await read_all(reader)).endswith(b"long:/directz")

    on_server(test)


def test_a_server_that_stops_answers_what_it_has_and_closes():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/direct/wait", b"a"))
        await served.settle(lambda: served.app.direct.running)
        (protocol,) = served.bounds._open
        protocol.shutdown()
        served.app.direct.running[0].answer()
        assert b"connection: close" in await read_all(reader)

    on_server(test)


async def exchange(reader, writer, sent, *cuts):
    """Sends a request in pieces, each of which arrives by itself, and reads the answer's body."""
    for start, end in itertools.pairwise((0, *cuts, len(sent))):
        writer.write(sent[start:end])
        await writer.drain()
        for _ in range(10):
            await asyncio.sleep(0)
    answer = await read_until(reader, b"\r\n\r\n")
    return await reader.readexactly(int(re.search(rb"content-length: (\d+)", answer)[1]))


def test_a_head_that_comes_again_is_read_once():
    async def test(served):
        reader, writer = await served.connect()
        for number in range(10, 20):
            assert await exchange(reader, writer, post(b"/direct", b"%d" % number)) == b"direct:%d" % number
        assert (served.app.direct.heads, len(served.app.direct.calls)) == (1, 10)
        # Another length, another path, and the first one again.
        assert await exchange(reader, writer, post(b"/direct", b"abc")) == b"direct:abc"
        assert await exchange(reader, writer, post(b"/direct/x", b"ab")) == b"direct:ab"
        assert await exchange(reader, writer, post(b"/direct", b"ab", b"x-more: y")) == b"direct:ab"
        assert served.app.direct.heads == 4

    on_server(test)


def test_a_head_that_comes_again_with_something_behind_it_or_in_pieces():
    async def test(served):
        reader, writer = await served.connect()
        request = post(b"/direct", b"ab")
        for cuts in ((), (), (5,), (), (len(request) - 1,), (), (len(request) - 2,), ()):
            assert await exchange(reader, writer, request, *cuts) == b"direct:ab"
        writer.write(request + post(b"/long", b"c"))
        await read_until(reader, b"long:/longc")
        assert await exchange(reader, writer, request) == b"direct:ab"
        writer.write(request[:-1] + b"X" + post(b"/direct", b"d", LAST))
        assert bodies(await read_all(reader)) == [b"direct:aX", b"direct:d"]

    on_server(test)


def test_what_came_before_a_head_is_no_part_of_it():
    """The end of one request, which looks like the next one, came by itself and is not taken for a request."""

    async def test(served):
        reader, writer = await served.connect()
        inner = post(b"/direct/inner", b"ab")
        outer = head(b"content-length: %d" % len(inner), start=b"POST /direct/outer HTTP/1.1")
        for _ in range(3):
            assert await exchange(reader, writer, outer + inner, len(outer)) == b"direct:" + inner
        assert {call.url for call in served.app.direct.calls} == {b"/direct/outer"}

    on_server(test)


def test_a_request_with_a_known_head_may_still_go_the_long_way():
    async def test(served):
        reader, writer = await served.connect()
        way, request = served.app.direct, post(b"/direct", b"ab")
        assert await exchange(reader, writer, request) == b"direct:ab"
        way.full = True
        assert await exchange(reader, writer, request) == b"long:/directab"
        way.full = False
        for _ in range(2):
            assert await exchange(reader, writer, request) == b"direct:ab"
        way.too_late = True
        assert await exchange(reader, writer, request) == b"long:/directab"
        way.too_late = False
        assert await exchange(reader, writer, request) == b"direct:ab"
        assert served.app.paths == ["/direct"] * 2

    on_server(test)


def test_a_request_with_a_known_head_is_taken_back_and_waited_for_as_any():
    async def test(served):
        reader, writer = await served.connect()
        way, request = served.app.direct, post(b"/direct/wait", b"ab")
        for number in (1, 2):
            writer.write(request)
            await served.settle(lambda number=number: len(way.running) == number)
            served.ticks(1000)
            # One that comes before the answer waits for it.
            writer.write(request)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(way.running) == number
            way.running[-1].answer()
            assert await read_until(reader, b"wait" + b"ab") is not None
        writer.write(request)
        await served.settle(lambda: len(way.running) == 3)
        (protocol,) = served.bounds._open
        protocol.shutdown()
        way.running[-1].answer()
        assert b"connection: close" in await read_all(reader)

    on_server(test)


def test_nothing_is_remembered_of_a_connection_that_ends():
    async def test(served):
        reader, writer = await served.connect()
        writer.write(post(b"/direct", b"ab", LAST))
        assert bodies(await read_all(reader)) == [b"direct:ab"]
        other_reader, other = await served.connect()
        other.write(post(b"/direct/wait", b"ab"))
        await served.settle(lambda: len(served.app.direct.running) == 2)
        other.close()
        await served.settle(lambda: served.app.direct.calls[1].cancelled)
        assert not await read_all(other_reader)

    on_server(test)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_however_requests_are_cut_and_joined_each_gets_its_answer(data):
    wanted = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from([b"/direct", b"/direct/b", b"/long", b"/late"]), st.sampled_from([b"", b"a", b"bc", b"POST /"])
            ),
            max_size=8,
        )
    )
    sent = b"".join(post(path, body) for path, body in wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    whole = data.draw(st.booleans())

    async def test(served):
        reader, writer = await served.connect()
        pieces = (
            [post(path, body) for path, body in wanted]
            if whole
            else [sent[a:b] for a, b in itertools.pairwise((0, *cuts, len(sent)))]
        )
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(post(b"/long", b"end", LAST))
        answers = bodies(await read_all(reader))
        told = [
            answer.removeprefix(b"direct:").removeprefix(b"long:" + path)
            for answer, (path, _) in zip(answers, wanted, strict=False)
        ]
        assert told == [body for _, body in wanted]
        assert answers[-1] == b"long:/longend"

    on_server(test)
