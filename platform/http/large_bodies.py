"""Large bodies whose length is known: received by the kernel into the memory where they stay.

On its usual way through the parser and ASGI's messages each byte of a body is copied six times. What reads such a body
(`bodies.py`) finds a `LargeBody` with the first message of it, and has it fill memory: until that is full the transport gives it
what comes, in place of the connection's protocol. Whoever has sent one large body sends more: the next head is read in small
pieces, so that little of the body behind it comes along.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

#: Smaller bodies come with their head, or nearly so.
LARGE_BYTES = 64 << 10
#: What is read at once of the head of a request that follows a large body.
HEAD_PIECE_BYTES = 4 << 10
#: Of all connections: what is read is copied out at once.
_HEAD_PIECE = memoryview(bytearray(HEAD_PIECE_BYTES))


class Owner(Protocol):
    """The connection that a body comes on."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl

    def body_came(self, size: int) -> None:
        """So many bytes of the body have come."""

    def body_ended(self) -> None:
        """The body is complete."""

    def data_received(self, data: bytes) -> None:
        """Something has come."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""

    def eof_received(self) -> bool:
        """The client sends nothing more."""

    def pause_writing(self) -> None:
        """Too much waits to be sent."""

    def resume_writing(self) -> None:
        """There is room again for what is to be sent."""


class _Deputy(asyncio.BufferedProtocol):
    """What the transport gives its bytes to in place of the connection's protocol, which hears of everything else."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def eof_received(self) -> bool:
        """The client sends nothing more."""
        return self._owner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Too much waits to be sent."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """There is room again for what is to be sent."""
        self._owner.resume_writing()


class SmallPieces(_Deputy):
    """Reads little at once.

    Args:
        owner: The connection, which goes on reading as usual when it has a head.
    """

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes are to be put."""
        return _HEAD_PIECE

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._owner.data_received(bytes(_HEAD_PIECE[:nbytes]))


class LargeBody(_Deputy):
    """A body on its way in.

    Args:
        owner: Its connection.
        cycle: Its request; messages of this body have the body itself as `rest` while there is more of it.
        size: Its length.

    Attributes:
        left: How much of it has not come yet.
        is_past_parser: Whether some of it has come that the parser has not seen.
    """

    def __init__(self, owner: Owner, cycle: RequestResponseCycle, size: int) -> None:
        super().__init__(owner)
        self.left = size
        self.is_past_parser = False
        self._cycle = cycle
        #: What has come through the parser and has not been given to the application.
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._into = memoryview(b"")
        self._filled = 0
        self._full: asyncio.Future[bool] | None = None
        self._receive = cycle.receive
        cycle.receive = self.receive  # type: ignore[method-assign]
        # Whoever asks for the body is told of it at once, before any of it has come; nothing comes until then.
        cycle.message_event.set()
        owner.flow.pause_reading()

    @property
    def remaining(self) -> int:
        """How much of it the application has not been given yet."""
        return self.left + self._pieces_bytes

    def let_go(self) -> None:
        """The application has been given all of it: the request need not know of it any more, or they would keep each other."""
        vars(self._cycle).pop("receive", None)

    def add(self, piece: bytes) -> None:
        """A piece has come that was not received by `fill`."""
        self.left -= len(piece)
        if self._cycle.response_complete:
            return
        self._pieces.append(piece)
        self._pieces_bytes += len(piece)
        if self._pieces_bytes > HIGH_WATER_LIMIT:
            self._owner.flow.pause_reading()
        self._cycle.message_event.set()

    async def receive(self) -> Any:
        """ASGI's."""
        message: dict[str, Any] = dict(await self._receive())
        if message["type"] == "http.request":
            message["body"] = self._take_pieces()
            if message["more_body"]:
                message["rest"] = self
            else:
                self.let_go()
        return message

    async def fill(self, into: memoryview) -> bool:
        """Fills memory with what comes next of the body; it must not be more than there is.

        Returns:
            False where the client has gone before.
        """
        taken = self._move_pieces(into)
        if taken == len(into):
            return True
        if self._cycle.disconnected or self._owner.transport.is_closing():
            return False
        self._into, self._filled = into[taken:], 0
        self._full = self._owner.loop.create_future()
        self.is_past_parser = True
        self._owner.transport.set_protocol(self)
        self._owner.flow.resume_reading()
        try:
            return await self._full
        finally:
            self._stop()

    def _take_pieces(self) -> bytes:
        pieces = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._pieces_bytes = [], 0
        return pieces

    def _move_pieces(self, into: memoryview) -> int:
        """Moves what has come since the last message."""
        if not self._pieces:
            return 0
        pieces = self._take_pieces()
        taken = min(len(pieces), len(into))
        into[:taken] = pieces[:taken]
        if taken < len(pieces):
            self._pieces, self._pieces_bytes = [pieces[taken:]], len(pieces) - taken
        elif self.left:
            self._cycle.message_event.clear()
        return taken

    def _stop(self) -> None:
        """What comes next is the connection's again."""
        if self._full is not None:
            self._full, self._into = None, memoryview(b"")
            self._owner.transport.set_protocol(self._owner)  # type: ignore[arg-type]

    # ---- the transport's protocol, while memory is filled ----

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes are to be put."""
        return self._into[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._filled += nbytes
        self.left -= nbytes
        self._owner.body_came(nbytes)
        if self._filled == len(self._into):
            self._end(is_full=True)
            if not self.left:
                self._owner.body_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._end(is_full=False)
        super().connection_lost(exc)

    def _end(self, *, is_full: bool) -> None:
        full = self._full
        self._stop()
        if full is not None and not full.done():
            full.set_result(is_full)
