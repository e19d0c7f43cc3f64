"""Answers of TorchServe and MMS: their JSON and their headers (TorchServe reference §1.1)."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import msgspec

Headers: TypeAlias = list[tuple[bytes, bytes]]

JSON = b"application/json"
#: Sent with every answer, unless a handler says otherwise.
NOT_CACHED: Headers = [
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
]
CLOSE = (b"connection", b"close")
KEEP = (b"connection", b"keep-alive")
_NO_BODY = (204, 304)


class Answer(msgspec.Struct, frozen=True):
    """One answer, complete.

    Attributes:
        status: HTTP status.
        body: The body.
        content_type: Its type; empty for none, as where a handler says nothing.
        headers: Further headers.
    """

    status: int
    body: bytes = b""
    content_type: bytes = b""
    headers: Headers = []


class Status(msgspec.Struct, frozen=True):
    """The body of an answer to a change."""

    status: str


class Change(NamedTuple):
    """What became of a change.

    Attributes:
        text: The original's words.
        status: HTTP status.
    """

    text: str
    status: int = 200


def json_answer(body: object, status: int = 200) -> Answer:
    """Tells something in JSON as Gson does: two blanks of indent, members that are not set left out, a final newline."""
    return Answer(status, to_json(body), JSON)


def status_answer(text: str, status: int = 200) -> Answer:
    """Tells what became of a change."""
    return json_answer(Status(text), status)


def to_json(body: object) -> bytes:
    """Encodes a body; an empty list is `[]`."""
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


def head(answer: Answer, request_id: str, common: Headers) -> dict[str, Any]:
    """The ASGI message that begins an answer.

    Args:
        answer: The answer.
        request_id: The id that the server gave the request; one that the client sent is not repeated.
        common: Headers that every answer to this client has.
    """
    headers = head_headers(answer, request_id, common)
    if answer.status not in _NO_BODY:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    return {"type": "http.response.start", "status": answer.status, "headers": headers}


def head_headers(answer: Answer, request_id: str, common: Headers) -> Headers:
    """The headers of an answer, without its length. An error ends the connection, as it always did."""
    own = {name for name, _ in answer.headers}
    headers = [(b"x-request-id", request_id.encode("latin-1")), *answer.headers]
    if answer.status >= 400:
        own.add(CLOSE[0])
        headers.append(CLOSE)
    headers += [header for header in (*NOT_CACHED, *common) if header[0] not in own]
    if answer.content_type:
        headers.append((b"content-type", answer.content_type))
    return headers
