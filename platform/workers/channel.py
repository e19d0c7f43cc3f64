"""Frames over the Unix socket of a worker, on the server's side.

A `BufferedProtocol`: small frames are cut out of one scratch buffer, a large body is received straight into the memory that
the values will refer to, so that it is copied once, by the kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

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
from flowyard.schemas.values import Buffer, aligned_memory

SCRATCH_BYTES = 256 << 10

OnFrame = Callable[[ToServer, BodyReader], None]
OnLost = Callable[[str], None]
OnBroken = Callable[[str], None]


class WorkerChannel(asyncio.BufferedProtocol):
    """Sends and receives frames.

    Args:
        on_frame: Called with each message and the reader of its body.
        on_lost: Called when the connection is gone, with the reason.
        on_broken: Called when what comes is no frame, with the reason; the connection is of no further use. Of these two one is
            called, once.

    Attributes:
        heard: How often something has come; changes as long as the worker gives signs of life.
    """

    def __init__(self, on_frame: OnFrame, on_lost: OnLost, on_broken: OnBroken) -> None:
        self.heard = 0
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._on_broken = on_broken
        self._transport: asyncio.Transport | None = None
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._filled = 0
        self._head: bytes | None = None
        self._body: memoryview | None = None
        self._body_filled = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Reports the end of the connection."""
        if self._abandon():
            self._on_lost(str(exc) if exc else "the connection ended")

    def send(self, message: ToWorker, buffers: Sequence[Buffer] = ()) -> None:
        """Writes a frame. Without a connection it goes nowhere: the loss is reported through `on_lost`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(pack(message, buffers))

    def close(self) -> None:
        """Ends the connection, which tells the worker to end."""
        if self._transport is not None:
            self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes are to be put."""
        if self._body is not None:
            return self._body[self._body_filled :]
        return self._scratch[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self.heard += 1
        try:
            if self._body is not None:
                self._body_filled += nbytes
                if self._body_filled == len(self._body):
                    self._deliver(self._body)
            else:
                self._filled += nbytes
                self._cut()
        except FrameError as error:
            if self._abandon():
                self._on_broken(f"broken frame: {error}")

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
        if len(first) == size:
            self._deliver(memoryview(bytes(first)))
            return
        self._body = aligned_memory(size)
        self._body[: len(first)] = first
        self._body_filled = len(first)

    def _deliver(self, body: memoryview) -> None:
        head = self._head
        assert head is not None
        self._head = self._body = None
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

    def _abandon(self) -> bool:
        """Lets go of the connection; false where that has happened before."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        return transport is not None
