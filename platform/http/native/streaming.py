"""Answers that come in pieces: a generator's values go to the client as they are yielded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from flowyard.platform.http.native.errors import error_body
from flowyard.platform.http.native.messages import message_answer
from flowyard.platform.workers.process import STREAMED, Outcome
from flowyard.schemas.errors import DeadlineError, FlowyardError, ShutDownError
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Value, to_jsonable

Send = Callable[[Any], Awaitable[None]]
Grant = Callable[[], None]

SSE = b"text/event-stream"
NDJSON = b"application/x-ndjson"


class Stream:
    """The pieces of one answer, between the worker that yields them and the connection that takes them.

    A worker may be only so many pieces ahead of the client: it gets the right to send another one when one has been taken.

    Args:
        limit_s: How long the next piece may take.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._limit_s = limit_s
        self._pieces: deque[tuple[Payload, Grant]] = deque()
        self._outcome: Outcome | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Is done, with an exception, when the client has gone away.
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone.add_done_callback(self._leave)

    def put(self, piece: Payload, grant: Grant) -> None:
        """A piece has come; `grant` lets its worker send another one."""
        self._pieces.append((piece, grant))
        self._wake()

    def end(self, outcome: Outcome) -> None:
        """There are no more pieces: all is well, or an error."""
        self._outcome = outcome
        self._wake()

    async def next(self) -> Payload | None:
        """The next piece, `None` after the last one.

        Raises:
            DeadlineError: It does not come in time.
            FlowyardError: The stream has failed.
        """
        while not self._pieces:
            if isinstance(self._outcome, FlowyardError):
                raise self._outcome
            if self._outcome is not None:
                return None
            await self._wait()
        piece, grant = self._pieces.popleft()
        grant()
        return piece

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._limit_s):
                await self._waiter
        except TimeoutError:
            raise DeadlineError(
                f"the next piece did not come within {self._limit_s:g} s (setting chunked_read_timeout)"
            ) from None

    def _leave(self, gone: asyncio.Future[None]) -> None:
        if not gone.cancelled() and gone.exception() is not None:
            self._pieces.clear()
            self.end(ShutDownError("the client went away"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Reply:
    """What a run gives its caller: one outcome, or first of all a stream.

    Args:
        limit_s: How long each further piece of a stream may take.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._limit_s = limit_s
        self.first: asyncio.Future[Outcome | Stream] = asyncio.get_running_loop().create_future()
        self._stream: Stream | None = None

    def on_chunk(self, piece: Payload, grant: Grant) -> None:
        """A piece has come."""
        if self._stream is None:
            self._stream = Stream(self._limit_s)
            if not self.first.done():
                self.first.set_result(self._stream)
        self._stream.put(piece, grant)

    def on_answer(self, outcome: Outcome) -> None:
        """The run is over."""
        if self._stream is not None:
            self._stream.end(outcome)
        elif not self.first.done():
            self.first.set_result(Payload.of(b"") if outcome is STREAMED else outcome)


def framing(accept: str, first: Value) -> tuple[bytes, Callable[[Value], bytes]]:
    """How a stream is told.

    Args:
        accept: The request's Accept header.
        first: The first piece, which decides unless the caller asks for server-sent events.

    Returns:
        The content type, and what makes bytes of a piece: events for `text/event-stream`, bytes and text as they are, anything
        else as a line of JSON.
    """
    if SSE.decode() in accept:
        return SSE, _event
    if isinstance(first, bytes):
        return b"application/octet-stream", _plain
    if isinstance(first, str):
        return b"text/plain; charset=utf-8", _plain
    return NDJSON, _line


def _plain(piece: Value) -> bytes:
    if isinstance(piece, bytes):
        return piece
    return piece.encode() if isinstance(piece, str) else _line(piece)


def _line(piece: Value) -> bytes:
    return msgspec.json.encode(piece, enc_hook=to_jsonable) + b"\n"


def _event(piece: Value) -> bytes:
    text = piece if isinstance(piece, str) else msgspec.json.encode(piece, enc_hook=to_jsonable).decode()
    return b"".join(b"data: " + line.encode() + b"\n" for line in text.splitlines() or [""]) + b"\n"


class Opened(NamedTuple):
    """A stream whose first piece has been taken.

    Attributes:
        status: Of the answer.
        headers: Of the answer, its content type included.
        content_type: Empty where there is none.
        encode: Makes bytes of a piece.
        piece: The first piece, `None` where there is none.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    content_type: bytes
    encode: Callable[[Value], bytes]
    piece: Payload | None


async def open_stream(stream: Stream, accept: str, headers: list[tuple[bytes, bytes]]) -> Opened:
    """Finds out how a stream is to be told.

    Args:
        stream: The pieces; at least one has come.
        accept: The request's Accept header.
        headers: Response headers besides the content type.

    Raises:
        FlowyardError: The stream failed before its first piece was taken.
    """
    piece = await stream.next()
    head = piece.message() if piece is not None else None
    if head is not None:
        # A handler's stream begins with status and headers of its own.
        piece = await stream.next()
    content_type, encode = framing(accept, piece.value() if piece is not None else b"")
    status = 200
    if head is not None:
        status, own_type, _, headers = message_answer(head, headers)
        content_type = content_type if content_type == SSE else own_type
    typed = [*headers, (b"content-type", content_type)] if content_type else headers
    return Opened(status, typed, content_type, encode, piece)


async def send_stream(stream: Stream, accept: str, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    """Writes a stream to the connection, as fast as the client takes it.

    A stream that fails half way ends without the last chunk, so that no client takes it for complete; server-sent events get an
    `error` event before.

    Args:
        stream: The pieces; at least one has come.
        accept: The request's Accept header.
        headers: Response headers besides the content type.
        send: ASGI's.

    Raises:
        FlowyardError: The stream failed before its first piece was taken; nothing has been sent.
    """
    opened = await open_stream(stream, accept, headers)
    start = [(b"cache-control", b"no-cache"), *opened.headers]
    await send({"type": "http.response.start", "status": opened.status, "headers": start})
    piece = opened.piece
    try:
        while piece is not None:
            await send({"type": "http.response.body", "body": opened.encode(piece.value()), "more_body": True})
            piece = await stream.next()
    except FlowyardError as error:
        if opened.content_type == SSE:
            event = b"event: error\ndata: " + msgspec.json.encode(error_body(error)) + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
        return
    await send({"type": "http.response.body", "body": b""})
