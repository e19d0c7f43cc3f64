"""One keep-alive connection with one request outstanding at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from flowyard.platform.bench.response import BadResponseError, Response, ResponseParser
from flowyard.platform.bench.target import Target

RECONNECT_AFTER_S = 0.05
CONNECT_TIMEOUT_S = 5.0

_now = time.perf_counter


class Connection(asyncio.Protocol):
    """Sends what it is told and reports answers; connects again when it has lost its server.

    Args:
        target: The server.
        on_idle: Called when a request can be sent: after connecting and after each outcome.
        on_answer: Called with the intended send time and the response.
        on_error: Called with what went wrong with the outstanding request, or with connecting.

    Attributes:
        intended: When the outstanding request was meant to be sent, on the clock of `time.perf_counter`.
        sent: When it was.
        busy: Whether a request is outstanding.
    """

    def __init__(
        self,
        target: Target,
        on_idle: Callable[[Connection], None],
        on_answer: Callable[[float, Response], None],
        on_error: Callable[[str], None],
    ) -> None:
        self.intended = 0.0
        self.sent = 0.0
        self.busy = False
        self._target = target
        self._on_idle = on_idle
        self._on_answer = on_answer
        self._on_error = on_error
        self._transport: asyncio.Transport | None = None
        self._parser = ResponseParser()
        self._closed = False
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_free(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self.busy

    def open(self) -> None:
        """Connects; `on_idle` follows."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.create_connection(lambda: self, self._target.host, self._target.port)
            except (OSError, TimeoutError):
                self._on_error("cannot connect")
                await asyncio.sleep(RECONNECT_AFTER_S)
            else:
                return

    def send(self, request: bytes, intended: float) -> None:
        """Sends a request.

        Args:
            request: Its bytes.
            intended: When it was meant to be sent; latency counts from there.
        """
        assert self._transport is not None
        self.busy = True
        self.intended = intended
        self.sent = _now()
        self._transport.write(request)

    def give_up(self, reason: str) -> None:
        """Drops the outstanding request and the connection with it; connects again once that is closed."""
        self.busy = False
        self._on_error(reason)
        self._abort()

    def _abort(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def close(self) -> None:
        """Closes for good."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        self._abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        # A cast, not an assertion: uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._parser = ResponseParser()
        self._on_idle(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if not self.busy:
            return
        try:
            response = self._parser.feed(data)
        except BadResponseError as error:
            self.give_up(str(error))
            return
        if response is not None:
            self._answered(response)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        if self._closed:
            return
        if self.busy:
            self._end_of_stream()
        self.open()

    def _end_of_stream(self) -> None:
        self.busy = False
        try:
            response = self._parser.eof()
        except BadResponseError as reason:
            self._on_error(str(reason))
            return
        if response is not None:
            self._on_answer(self.intended, response)
        else:
            self._on_error("the connection was closed without an answer")

    def _answered(self, response: Response) -> None:
        self.busy = False
        self._on_answer(self.intended, response)
        if response.keep_alive:
            self._on_idle(self)
        else:
            self._abort()
