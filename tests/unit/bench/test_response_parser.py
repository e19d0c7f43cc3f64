"""A response ends where it ends, however the network cuts it."""

from __future__ import annotations

import pytest

from flowyard.platform.bench.response import MAX_HEAD_BYTES, BadResponseError, ResponseParser

PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 12\r\n\r\nhello\r\n\r\nyou"
EMPTY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\nB;name=value\r\n, wide\r\nwor\r\n2\r\nld\r\n0\r\nx-trailer: 1\r\n\r\n"
)
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nhi"
OLD = b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CASES = [
    (PLAIN, 200, b"hello\r\n\r\nyou", True),
    (EMPTY, 503, b"", True),
    (NO_CONTENT, 204, b"", True),
    (CHUNKED, 200, b"hello, wide\r\nworld", True),
    (CONTINUED, 200, b"hello\r\n\r\nyou", True),
    (CLOSING, 200, b"hi", False),
    (OLD, 200, b"hi", False),
]
NAMES = ["plain", "empty", "no-content", "chunked", "continued", "closing", "old"]


def check(parser, pieces, status, body, keep_alive, length):
    found = [parser.feed(piece) for piece in pieces]
    assert found[:-1] == [None] * (len(pieces) - 1)
    response = found[-1]
    assert (response.status, response.body, response.keep_alive, response.length) == (status, body, keep_alive, length)


@pytest.mark.parametrize(("wire", "status", "body", "keep_alive"), CASES, ids=NAMES)
def test_split_at_every_byte(wire, status, body, keep_alive):
    parser = ResponseParser(keep_body=True)
    for cut in range(1, len(wire)):
        check(parser, [wire[:cut], wire[cut:]], status, body, keep_alive, len(wire))


@pytest.mark.parametrize(("wire", "status", "body", "keep_alive"), CASES, ids=NAMES)
def test_byte_by_byte_and_one_after_the_other(wire, status, body, keep_alive):
    parser = ResponseParser(keep_body=True)
    for _ in range(3):
        check(parser, [bytes([byte]) for byte in wire], status, body, keep_alive, len(wire))
        check(parser, [wire], status, body, keep_alive, len(wire))


def test_bodies_are_dropped_unless_wanted():
    response = ResponseParser().feed(CHUNKED)
    assert (response.body, response.head, response.length) == (b"", b"", len(CHUNKED))


def test_heads_are_kept_with_bodies():
    assert ResponseParser(keep_body=True).feed(CLOSING).head.startswith(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")


def test_the_end_of_the_stream_ends_a_response_without_a_length():
    parser = ResponseParser(keep_body=True)
    assert parser.feed(b"HTTP/1.1 200 OK\r\n\r\nall of") is None
    assert parser.feed(b" it") is None
    assert parser.eof().body == b"all of it"


def test_the_end_of_the_stream_between_responses_is_none():
    parser = ResponseParser()
    assert parser.eof() is None
    parser.feed(PLAIN)
    assert parser.eof() is None


@pytest.mark.parametrize("wire", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_the_end_of_the_stream_in_the_middle_is_an_error(wire):
    for cut in range(1, len(wire)):
        parser = ResponseParser()
        parser.feed(wire[:cut])
        with pytest.raises(BadResponseError, match="closed in the middle"):
            parser.eof()


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        PLAIN + b"more",
        CHUNKED + b"more",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * MAX_HEAD_BYTES,
    ],
    ids=["ssh", "http2", "status", "length", "chunk", "after", "after-chunks", "endless"],
)
def test_what_is_no_response_is_refused(wire):
    with pytest.raises(BadResponseError):
        ResponseParser().feed(wire)
