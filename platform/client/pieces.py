"""Answers in pieces: lines of JSON, server-sent events, text or bytes, decoded as they come."""

from __future__ import annotations

import codecs
from typing import Any, Protocol

import httpx2
import msgspec

from flowyard.platform.client.errors import ClientError, InterruptedAnswerError, UnexpectedAnswerError, error_of
from flowyard.schemas.codecs.content import media_type, value_of_body
from flowyard.schemas.errors import InvalidInputError

EVENTS = "text/event-stream"
#: Longest event.
MAX_EVENT_BYTES = 64 << 20
LINES = ("application/x-ndjson", "application/jsonlines")


class Event(msgspec.Struct, frozen=True):
    """A server-sent event.

    Attributes:
        data: Its text.
        event: Its kind, `message` where it does not say.
        id: Its id.
    """

    data: str
    event: str = "message"
    id: str = ""

    def json(self) -> Any:
        """Its text as JSON.

        Raises:
            UnexpectedAnswerError: It is none.
        """
        return _json(self.data.encode())


def events_of(response: httpx2.Response) -> httpx2.EventSource:
    """The events of an answer, to be iterated over, also asynchronously."""
    return httpx2.EventSource(response, max_event_size=MAX_EVENT_BYTES)


def event_of(told: httpx2.ServerSentEvent) -> Event:
    """An event as it comes.

    Raises:
        RefusedError: It tells that the stream failed.
    """
    if told.event == "error":
        raise failure_of(told.data)
    return Event(told.data, told.event, told.id)


def failure_of(text: str) -> ClientError:
    """The error that an `error` event tells."""
    try:
        status = msgspec.json.decode(text, type=dict[str, Any]).get("code")
    except msgspec.MsgspecError:
        status = None
    if not isinstance(status, int):
        return InterruptedAnswerError(f"the stream failed: {text[:200]}")
    return error_of(status, {}, text.encode())


class Decoder(Protocol):
    """Makes pieces of the bytes of an answer."""

    def feed(self, data: bytes) -> list[Any]:
        """The pieces that are complete with these bytes."""

    def end(self) -> list[Any]:
        """What is left when the answer has ended."""


class _Lines:
    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        self._rest += data
        if b"\n" not in data:
            return []
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        return [_json(line) for line in lines if line.strip()]

    def end(self) -> list[Any]:
        return [_json(self._rest)] if self._rest.strip() else []


class _Events:
    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Any]:
        whole, end, self._rest = (self._rest + data).rpartition(b"\n\n")
        events: list[Any] = value_of(EVENTS, whole + end) if end else []
        return events

    def end(self) -> list[Any]:
        events: list[Any] = value_of(EVENTS, self._rest)
        return events


class _Text:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> list[Any]:
        text = self._decoder.decode(data)
        return [text] if text else []

    def end(self) -> list[Any]:
        text = self._decoder.decode(b"", final=True)
        return [text] if text else []


class _Bytes:
    def feed(self, data: bytes) -> list[Any]:
        return [data] if data else []

    def end(self) -> list[Any]:
        return []


class _Whole:
    def __init__(self, content_type: str) -> None:
        self._content_type, self._body = content_type, bytearray()

    def feed(self, data: bytes) -> list[Any]:
        self._body += data
        return []

    def end(self) -> list[Any]:
        return [value_of(self._content_type, bytes(self._body))] if self._body else []


def decoder_of(content_type: str) -> Decoder:
    """What decodes an answer of this type: lines, events, text and bytes as they come, anything else at its end."""
    kind = media_type(content_type)
    if kind == EVENTS:
        return _Events()
    if kind in LINES:
        return _Lines()
    if kind.startswith("text/"):
        return _Text()
    return _Bytes() if kind in ("", "application/octet-stream") else _Whole(content_type)


def value_of(content_type: str, body: bytes) -> Any:
    """A complete answer as a value.

    Args:
        content_type: Its Content-Type.
        body: Its body.

    Returns:
        JSON as its value, arrays as such, text as text; a list of the pieces of lines and events; bytes for everything else.

    Raises:
        UnexpectedAnswerError: It is not what its type promises.
        RefusedError: It is events, and one of them tells that the stream failed.
    """
    kind = media_type(content_type)
    if kind == EVENTS:
        request = httpx2.Request("POST", "http://localhost")
        response = httpx2.Response(200, headers={"content-type": EVENTS}, content=body, request=request)
        return [event_of(event) for event in events_of(response)]
    if kind in LINES:
        decoder = _Lines()
        return [*decoder.feed(body), *decoder.end()]
    if kind in ("", "application/octet-stream"):
        return body
    try:
        return value_of_body(content_type, body)
    except InvalidInputError as error:
        raise UnexpectedAnswerError(f"an answer that is not {kind} as it says: {error.message}") from None


def _json(text: bytes | bytearray) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnexpectedAnswerError(f"a piece that is not JSON ({error}): {bytes(text[:100])!r}") from None
