"""What is answered when a model has answered: a handler's status, headers and bytes as they are (TorchServe reference §2.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowyard.platform.http.native.messages import headers_of
from flowyard.platform.http.native.predictions import encode_answer
from flowyard.platform.http.native.streaming import Stream, framing
from flowyard.platform.http.torchserve.answers import Answer, Headers, head_headers
from flowyard.schemas.errors import FlowyardError, InternalError
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload

CONTENT_TYPE = b"content-type"


def answer_of(result: Payload, accept: str, sent: str) -> Answer:
    """Tells a result.

    Args:
        result: What a model or handler gave.
        accept: The Accept header of the request; empty when there is none.
        sent: Its Content-Type.

    Raises:
        FlowyardError: The result cannot be told.
    """
    message = result.message()
    if message is not None:
        return message_answer(message)
    content_type, body = encode_answer(result.value(), accept, sent)
    return Answer(200, body, content_type)


def message_answer(message: Message) -> Answer:
    """Tells a handler's answer; it has a content type only if the handler says so.

    Raises:
        InternalError: Its status is none.
    """
    if not 200 <= message.code <= 599:
        raise InternalError(f"the handler answered with status {message.code}, which is none")
    headers = headers_of(message)
    content_type = next((value for name, value in headers if name == CONTENT_TYPE), b"")
    return Answer(message.code, message.data, content_type, [header for header in headers if header[0] != CONTENT_TYPE])


async def send_stream(stream: Stream, request_id: str, common: Headers, send: Any) -> None:
    """Sends an answer that comes in pieces, each as a chunk of its own.

    One that fails half way ends without the last chunk, so that nobody takes it for complete.

    Args:
        stream: The pieces; at least one has come.
        request_id: The id of the request.
        common: Headers that every answer to this client has.
        send: ASGI's.

    Raises:
        FlowyardError: It failed before its first piece; nothing has been sent.
    """
    begin, encode, piece = await open_stream(stream)
    headers = head_headers(begin, request_id, common)
    await send({"type": "http.response.start", "status": begin.status, "headers": headers})
    try:
        while piece is not None:
            await send({"type": "http.response.body", "body": encode(piece), "more_body": True})
            piece = await stream.next()
    except FlowyardError:
        return
    await send({"type": "http.response.body", "body": b""})


async def open_stream(stream: Stream) -> tuple[Answer, Callable[[Payload], bytes], Payload | None]:
    """Takes the first piece of a stream, and what a handler says before it.

    Args:
        stream: The pieces; at least one has come.

    Returns:
        The head of the answer, what makes bytes of a piece, and the first piece, `None` where there is none.

    Raises:
        FlowyardError: It failed before its first piece.
    """
    piece = await stream.next()
    message = piece.message() if piece is not None else None
    if message is not None:
        return message_answer(message), bytes_of, await stream.next()
    content_type, encode = framing("", piece.value() if piece is not None else b"")
    head = Answer(200, content_type=content_type, headers=[(b"ts_stream_next", b"true")])
    return head, lambda one: encode(one.value()), piece


def bytes_of(piece: Payload) -> bytes:
    """A piece of a handler's answer."""
    message = piece.message()
    if message is not None:
        return message.data
    value = piece.value()
    return value if isinstance(value, bytes) else str(value).encode()
