"""Frames over the Unix socket of a worker, on the server's side.

A `BufferedProtocol`: small frames are cut out of one scratch buffer, a large body is received straight into the memory that
the values will refer to, so that it is copied once, by the kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from flowyard.schemas.frames import (
    PREFIX_BYTES,
    BodyReader,
    FrameError,
    ToServer,
    ToWorker,
    pack,
    read_prefix,
    unpack_to_server,
)
from flowyard.schemas.values import Buffer

SCRATCH_BYTES = 256 << 10

OnFrame = Callable[[ToServer, BodyReader], None]
OnLost = Callable[[str], None]


class WorkerChannel(asyncio.BufferedProtocol):
    """Sends and receives frames.

    Args:
        on_frame: Called with each message and the reader of its body.
        on_lost: Called once when the connection is gone or broken, with the reason.
    """

    def __init__(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._filled = 0
        self._head: bytes | None = None
        self._body: Any = None
        self._body_view: memoryview = memoryview(b"")
        self._body_filled = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Reports the end of the connection."""
        self._lose(str(exc) if exc else "the connection ended")

    def send(self, message: ToWorker, buffers: Sequence[Buffer] = ()) -> None:
        """Writes a frame. Without a connection it goes nowhere: the loss is reported through `on_lost`."""
        if self._transport is not None:
            self._transport.writelines(pack(message, buffers))

    def close(self) -> None:
        """Ends the connection, which tells the worker to end."""
        if self._transport is not None:
            self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes are to be put."""
        if self._body is not None:
            return self._body_view[self._body_filled :]
        return self._scratch[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        try:
            if self._body is not None:
                self._body_filled += nbytes
                if self._body_filled == len(self._body_view):
                    self._deliver()
            else:
                self._filled += nbytes
                self._cut()
        except FrameError as error:
            self._lose(f"broken frame: {error}")

    def _cut(self) -> None:
        """Cuts whole frames out of the scratch buffer."""
        start = 0
        while self._body is None and self._filled - start >= PREFIX_BYTES:
            head_size, body_size = read_prefix(self._scratch[start : start + PREFIX_BYTES])
            head_end = start + PREFIX_BYTES + head_size
            if head_end > self._filled:
                self._make_room(start, PREFIX_BYTES + head_size)
                return
            self._head = bytes(self._scratch[start + PREFIX_BYTES : head_end])
            taken = min(body_size, self._filled - head_end)
            self._begin_body(body_size, self._scratch[head_end : head_end + taken])
            start = head_end + taken
        self._make_room(start, 0)

    def _begin_body(self, size: int, first: memoryview) -> None:
        body = np.empty(size, np.uint8)
        view = memoryview(body.data)
        view[: len(first)] = first
        self._body, self._body_view, self._body_filled = body, view, len(first)
        if self._body_filled == size:
            self._deliver()

    def _deliver(self) -> None:
        head, body = self._head, self._body_view
        assert head is not None
        self._head = self._body = None
        self._body_view = memoryview(b"")
        self._on_frame(unpack_to_server(head), BodyReader(body))

    def _make_room(self, start: int, needed: int) -> None:
        """Moves what is left to the front of a scratch buffer that holds at least `needed` bytes."""
        left = self._filled - start
        if start == 0 and needed <= len(self._scratch) and left < len(self._scratch):
            return
        scratch = self._scratch
        if needed > len(scratch) or left == len(scratch):
            scratch = memoryview(bytearray(max(needed, 2 * len(scratch))))
        scratch[:left] = bytes(self._scratch[start : self._filled])
        self._scratch, self._filled = scratch, left

    def _lose(self, reason: str) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
            self._on_lost(reason)
