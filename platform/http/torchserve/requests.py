"""A request as the dialects read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from flowyard.platform.held import Held
from flowyard.platform.http.bodies import Receive, read_body
from flowyard.platform.http.torchserve.parameters import query_pairs
from flowyard.platform.http.torchserve.routes import segments_of
from flowyard.schemas.errors import InvalidRequestError, TooLargeError


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """What of a request reaches a model, whatever it came in by.

    Attributes:
        headers: Names in lower case; of a repeated one the last value.
        request_id: The id that the server gave it.
        query: Query parameters in order.
        body: The body; `None` where there are only inputs.
    """

    headers: Mapping[str, str]
    request_id: str
    query: Sequence[tuple[str, str]] = ()
    body: bytes | None = b""


class HttpRequest(Received, frozen=True, kw_only=True):
    """One request, with its body.

    Attributes:
        method: The method.
        segments: Segments of the decoded path.
        body: The body.
    """

    method: str
    segments: tuple[str, ...]
    body: bytes = b""

    @property
    def media_type(self) -> str:
        """The type of the body, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_head(scope: Mapping[str, Any], request_id: str) -> HttpRequest:
    """Reads everything but the body.

    Raises:
        InvalidRequestError: A query that has more parameters than any call takes.
    """
    try:
        query = query_pairs(scope["query_string"])
    except ValueError:
        raise InvalidRequestError("The query has too many parameters.") from None
    return HttpRequest(
        method=scope["method"],
        segments=segments_of(scope["path"]),
        query=query,
        headers={key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]},
        request_id=request_id,
    )


async def with_body(request: HttpRequest, receive: Receive, limit_bytes: int, held: Held) -> HttpRequest:
    """The same with its body, which counts as held. One that says it is too long is not waited for.

    Raises:
        TooLargeError: It is longer than allowed.
        MemoryFullError: There is no room for it now.
        ClientGoneError: The client went away.
    """
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit_bytes:
        raise TooLargeError(f"the body is larger than {limit_bytes} bytes (setting max_request_size)")
    return msgspec.structs.replace(request, body=bytes(await read_body(receive, limit_bytes, held)))
