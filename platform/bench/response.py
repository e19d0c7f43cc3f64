"""The least of an HTTP/1.1 response that a load generator must understand: where it ends, and its status."""

from __future__ import annotations

import msgspec

_BODILESS = frozenset({204, 304})
MAX_HEAD_BYTES = 65_536


class BadResponseError(Exception):
    """What came is no HTTP/1.1 response; the message says why."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """One complete response.

    Attributes:
        status: Its status code.
        length: Bytes it took on the wire, head included.
        keep_alive: Whether the connection can be used again.
        head: Status line and headers, only when bodies are kept.
        body: The body without chunk sizes, only when bodies are kept.
    """

    status: int
    length: int
    keep_alive: bool
    head: bytes = b""
    body: bytes = b""


class ResponseParser:
    """Finds the ends of responses in a stream of bytes; at most one response may be outstanding.

    Args:
        keep_body: Whether heads and bodies are wanted, not only their lengths.
    """

    def __init__(self, *, keep_body: bool = False) -> None:
        self._keep = keep_body
        self._reset()

    def _reset(self) -> None:
        self._pending = b""
        self._head = b""
        self._status = 0
        self._length = 0
        self._left: int | None = None
        self._chunked = False
        self._trailers = False
        self._keep_alive = True
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> Response | None:
        """Takes the next bytes.

        Args:
            data: What was received.

        Returns:
            The response once it is complete, `None` before.

        Raises:
            BadResponseError: The bytes are no HTTP/1.1 response, or more than one.
        """
        self._length += len(data)
        if not self._status:
            data = self._pending + data if self._pending else data
            self._pending = b""
            found = self._read_head(data)
            if found is None:
                return None
            data = found
        return self._read_chunks(data) if self._chunked else self._read_plain(data)

    def eof(self) -> Response | None:
        """Takes the end of the stream.

        Returns:
            The response, when its end is the end of the stream; `None` when nothing was outstanding.

        Raises:
            BadResponseError: The stream ended in the middle of a response.
        """
        if not self._length:
            return None
        if self._status and self._left is None and not self._chunked:
            return self._complete()
        raise BadResponseError("the connection was closed in the middle of a response")

    def _read_head(self, data: bytes) -> bytes | None:
        """Reads the head, skipping those of 1xx answers; returns what follows it, `None` while it is not complete."""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD_BYTES or not b"HTTP/1.".startswith(data[:7]):
                    raise BadResponseError("the answer is no HTTP/1.1 response")
                self._pending = data
                return None
            head = data[: end + 2]
            status = _status_of(head)
            data = data[end + 4 :]
            if status >= 200:
                self._status = status
                self._read_headers(head)
                return data

    def _read_headers(self, head: bytes) -> None:
        lowered = head.lower()
        if self._keep:
            self._head = head
        self._keep_alive = head.startswith(b"HTTP/1.1") and b"\r\nconnection: close\r\n" not in lowered
        if self._status in _BODILESS:
            self._left = 0
            return
        start = lowered.find(b"\r\ncontent-length:")
        if start >= 0:
            self._left = _number(lowered[start + 17 : lowered.index(b"\r\n", start + 17)], 10)
        else:
            start = lowered.find(b"\r\ntransfer-encoding:")
            self._chunked = start >= 0 and b"chunked" in lowered[start : lowered.index(b"\r\n", start + 2)]

    def _read_plain(self, data: bytes) -> Response | None:
        if self._keep and data:
            self._body.append(data)
        if self._left is None:
            return None
        self._left -= len(data)
        if self._left > 0:
            return None
        if self._left < 0:
            raise BadResponseError(f"{-self._left} bytes follow the response")
        return self._complete()

    def _read_chunks(self, data: bytes) -> Response | None:
        data = self._pending + data
        position = 0
        while True:
            if self._left:
                taken = min(self._left, len(data) - position)
                if self._keep:
                    self._body.append(data[position : position + max(0, min(taken, self._left - 2))])
                position += taken
                self._left -= taken
            end = data.find(b"\r\n", position)
            if self._left or end < 0:
                self._pending = data[position:]
                return None
            line, position = data[position:end], end + 2
            if self._trailers:
                if line:
                    continue
                if position < len(data):
                    raise BadResponseError(f"{len(data) - position} bytes follow the response")
                return self._complete()
            size = _number(line.split(b";")[0], 16)
            self._trailers = size == 0
            self._left = size + 2 if size else 0

    def _complete(self) -> Response:
        response = Response(self._status, self._length, self._keep_alive, self._head, b"".join(self._body))
        self._reset()
        return response


def _status_of(head: bytes) -> int:
    if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
        raise BadResponseError("the answer is no HTTP/1.1 response")
    return int(head[9:12])


def _number(text: bytes, base: int) -> int:
    try:
        return int(text.strip(), base)
    except ValueError:
        raise BadResponseError(f"{text[:20]!r} is no length") from None
