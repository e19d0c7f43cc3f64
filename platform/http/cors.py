"""Cross-origin requests: which pages may use the API (settings `cors_allowed_*`)."""

from __future__ import annotations

import re
from typing import Any

from flowyard.platform.http.native.predictions import request_id_of

Headers = list[tuple[bytes, bytes]]

_SEPARATOR = re.compile(r"\s*,\s*")


class CrossOrigin:
    """Adds the headers of cross-origin requests to every answer, errors too, and answers preflights (DJL §1.1 has none).

    What is configured goes out as it is. Where several origins are allowed, the one that asks is named; one that is not allowed
    gets an answer without these headers, which its browser keeps from the page.

    Args:
        app: What answers the requests.
        origin: Allowed origins separated by commas, or `*`.
        methods: Allowed methods, `None` for none.
        headers: Allowed request headers, `None` for none.
        request_id_header: Header that the id of a request is read from.
    """

    def __init__(self, app: Any, origin: str, methods: str | None, headers: str | None, request_id_header: str) -> None:
        self.app = app
        self._origins = tuple(filter(None, _SEPARATOR.split(origin.strip())))
        further = {b"access-control-allow-methods": methods, b"access-control-allow-headers": headers}
        self._further = [(name, value.encode("latin-1")) for name, value in further.items() if value]
        self._request_id_header = request_id_header

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"])
        added = self._headers(given.get(b"origin", b"").decode("latin-1"))
        if scope["method"] == "OPTIONS" and b"origin" in given and b"access-control-request-method" in given:
            names = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            request_id = request_id_of(names, self._request_id_header).encode("latin-1")
            await send({"type": "http.response.start", "status": 204, "headers": [(b"x-request-id", request_id), *added]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _headers(self, origin: str) -> Headers:
        """The headers for one origin; without one, for the only one there is."""
        vary = [] if self._origins == ("*",) else [(b"vary", b"Origin")]
        if "*" in self._origins:
            allowed = "*"
        elif origin in self._origins:
            allowed = origin
        elif not origin and len(self._origins) == 1:
            allowed = self._origins[0]
        else:
            return vary
        return [(b"access-control-allow-origin", allowed.encode("latin-1")), *self._further, *vary]
