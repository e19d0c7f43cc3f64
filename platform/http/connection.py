"""How responses reach the socket."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any

#: Time that the client of a TLS connection gets to read what was written and to answer that the connection ends.
GOODBYE_S = 3.0


class OneWriteTransport:
    """Joins the head of a response and what follows it at once into one write.

    uvicorn writes them one after the other: two system calls, two packets, and a client that wakes up twice.

    Args:
        transport: The connection's own.
        loop: The event loop.
        carrier: What it writes to in turn, where it speaks TLS and that is known: it does not count what waits there.
        lingers: Asked before the connection is closed, whether it must not be closed yet; who says so closes it later.

    Attributes:
        is_tls: Whether it speaks TLS.
    """

    __slots__ = ("_carrier", "_head", "_lingers", "_loop", "_transport", "_write", "is_closing", "is_tls")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        carrier: asyncio.Transport | None = None,
        lingers: Callable[[], bool] | None = None,
    ) -> None:
        self._transport = transport
        self._carrier = carrier
        self._lingers = lingers
        self._write = transport.write
        self.is_closing = transport.is_closing
        self._loop = loop
        self._head: bytes | None = None
        self.is_tls = transport.get_extra_info("ssl_object") is not None

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Holds the head of a response until the next write, or until the loop comes round."""
        if self._head is not None:
            data, self._head = self._head + data, None
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._write(data)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent, encrypted or not."""
        waiting = self._transport.get_write_buffer_size()
        return waiting if self._carrier is None else waiting + self._carrier.get_write_buffer_size()

    def write_whole(self, data: bytes) -> None:
        """Writes a whole response."""
        self._flush()
        self._write(data)

    def write_eof(self) -> None:
        """Says that nothing more will be written."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Closes the connection after what was written."""
        self._flush()
        if self._lingers is not None and self._lingers():
            return
        self._transport.close()
        if self.is_tls:
            self._loop.call_later(GOODBYE_S, self._leave)

    def _leave(self) -> None:
        """Ends a TLS connection whose client does not answer: uvloop, and the server's end with it, would wait for 30 s."""
        if self.get_write_buffer_size():
            self._loop.call_later(GOODBYE_S, self._leave)
        else:
            self._transport.abort()

    def _flush(self) -> None:
        if self._head is not None:
            data, self._head = self._head, None
            self._write(data)


def is_hung_up(transport: asyncio.Transport) -> bool:
    """Whether the other side is known to be gone altogether, not only to send nothing more."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return bool(poll.poll(0))
