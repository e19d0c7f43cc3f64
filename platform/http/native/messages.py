"""Answers of DJL's handlers: status, headers and body are the handler's own (DJL §2.7)."""

from __future__ import annotations

import re
from typing import TypeAlias

from flowyard.platform.http.native.errors import error_body, to_json
from flowyard.schemas.errors import InternalError
from flowyard.schemas.messages import Message

Headers: TypeAlias = list[tuple[bytes, bytes]]
#: Status, content type (empty for none), body, further headers.
Answer: TypeAlias = tuple[int, bytes, bytes, Headers]

CONTENT_TYPE = b"content-type"
#: Headers that are the server's business, whatever a handler says.
_OURS = frozenset(b"connection content-length date keep-alive server trailer transfer-encoding upgrade x-request-id".split())
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]+")


def message_answer(message: Message, extra: Headers) -> Answer:
    """Tells a message.

    Args:
        message: What the handler answered.
        extra: Further headers.
    """
    if not 200 <= message.code <= 599:
        body = error_body(InternalError(f"the handler answered with status {message.code}, which is none"))
        return body.code, b"application/json", to_json(body), extra
    headers = headers_of(message)
    own_type = next((value for name, value in headers if name == CONTENT_TYPE), b"")
    content_type = own_type or message.content_type.encode("latin-1", "replace")
    return message.code, content_type, message.data, [header for header in headers if header[0] != CONTENT_TYPE] + extra


def headers_of(message: Message) -> Headers:
    """A message's properties as response headers; of a repeated name the last counts, and what can be no header is left out."""
    headers: dict[bytes, bytes] = {}
    for name, value in message.properties:
        key = name.strip().lower().encode("latin-1", "replace")
        if _NAME.fullmatch(key) and key not in _OURS:
            headers[key] = _NOT_IN_A_VALUE.sub(b" ", value.encode("latin-1", "replace")).strip()
    return list(headers.items())
