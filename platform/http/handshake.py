"""TLS handshakes within limits: how long one may take, and that connections count which have not finished theirs."""

from __future__ import annotations

import asyncio
import ssl
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar, cast

from flowyard.platform.http.connections import Connections
from flowyard.platform.http.protocol import BoundedProtocol

T = TypeVar("T")


class Handshake(asyncio.Protocol):
    """A new connection of an https address, until it speaks TLS; then its protocol takes over.

    Left to uvicorn, which lets the event loop do the handshakes, one could take a minute, and there could be any number of them:
    a protocol hears of its connection only after it.

    Args:
        protocol: Who takes over.
        tls: What is spoken.
        bounds: The connections it is one of.
        limit_s: Longest time for the handshake.
    """

    def __init__(self, protocol: BoundedProtocol, tls: ssl.SSLContext, bounds: Connections, limit_s: float) -> None:
        self._protocol = protocol
        self._tls = tls
        self._bounds = bounds
        self._limit_s = limit_s
        self._early = b""
        self._shaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected. One too many is cut off: there is no way yet to tell it why."""
        opened = cast(asyncio.Transport, transport)
        if not self._bounds.add(self):
            opened.abort()
            return
        loop = asyncio.get_running_loop()
        beginning = loop.start_tls(opened, self, self._tls, server_side=True, ssl_handshake_timeout=self._limit_s)
        # At once, not when a task gets its first turn: what comes before would be lost for the handshake.
        awaited = beginning.send(None)
        self._shaking = loop.create_task(self._shake(opened, _rest_of(beginning, awaited)))

    def data_received(self, data: bytes) -> None:
        """A request came together with the end of the handshake."""
        self._early += data

    def tick(self, now: int) -> None:
        """Time has passed; the handshake has a clock of its own."""

    async def _shake(self, carrier: asyncio.Transport, handshake: Awaitable[asyncio.Transport | None]) -> None:
        try:
            tls = await handshake
        except OSError:
            # It failed, took too long, or the client went away: it is closed already.
            return
        finally:
            self._bounds.discard(self)
        if tls is None or tls.is_closing():
            return
        tls.set_protocol(self._protocol)
        self._protocol.carrier = carrier
        self._protocol.connection_made(tls)
        if self._early:
            self._protocol.data_received(self._early)


@types.coroutine
def _rest_of(begun: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """What is left of a coroutine that has run until it waits for something."""
    yield awaited
    result: T = yield from begun
    return result
