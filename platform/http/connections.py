"""The connections of one address, and who is slow on them: clients that do not read their answers."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol

#: How often the connections are looked at. Times are counted in these, so that no request has to ask for the time.
TICK_S = 0.5
#: Least speed of a body, once its first seconds are over, and of an answer that waits for its client.
BODY_BYTES_PER_S = 1024

#: Where the kernel says how many bytes the other side of a TCP connection has acknowledged, in its `struct tcp_info`.
_ACKNOWLEDGED = struct.Struct("<120xQ")
#: `SO_LINGER` with a time of 0.
_NO_LINGER = struct.pack("ii", 1, 0)


class Watched(Protocol):
    """A connection that is looked at again and again."""

    def tick(self, now: int) -> None:
        """Time has passed: `now` is in ticks since the start."""


class Connections:
    """The connections of one address; looks after those whose clients are slow.

    Args:
        limit: Most at a time.
        slow_reader_limit_s: Time that a client may take less than `BODY_BYTES_PER_S` of an answer that waits for it.

    Attributes:
        now: Ticks since the start.
    """

    def __init__(self, limit: int, slow_reader_limit_s: float = 60.0) -> None:
        self.limit = limit
        self.slow_reader_limit_s = slow_reader_limit_s
        self.now = 0
        self._open: set[Watched] = set()

    def add(self, protocol: Watched) -> bool:
        """Takes in a connection; false where there are too many."""
        if len(self._open) >= self.limit:
            return False
        self._open.add(protocol)
        return True

    def discard(self, protocol: Watched) -> None:
        """Forgets a connection that has ended."""
        self._open.discard(protocol)

    async def watch(self) -> None:
        """Closes connections whose clients take too long, until it is cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Looks at all connections; called every `TICK_S` seconds."""
        self.now += 1
        for protocol in tuple(self._open):
            protocol.tick(self.now)


class Unread:
    """What of the answers on a connection waits for its client: does it take them fast enough?

    Args:
        limit_s: Time that it may take less than `BODY_BYTES_PER_S`.
    """

    __slots__ = ("_credit", "_most", "_taken", "_waiting")

    def __init__(self, limit_s: float) -> None:
        self._most = self._credit = BODY_BYTES_PER_S * limit_s
        self._taken = self._waiting = 0

    def is_too_slow(self, transport: asyncio.Transport) -> bool:
        """Looks at the connection; to be called every `TICK_S` seconds."""
        waiting = transport.get_write_buffer_size()
        if not waiting:
            # What the kernel still holds is not much, and the client's affair.
            self._waiting, self._credit = 0, self._most
            return False
        taken, before = _acknowledged_bytes(transport), self._taken
        # A kernel that does not count tells of progress by taking more.
        progress = taken - before if taken else max(0, self._waiting - waiting)
        if self._waiting:
            self._credit = min(self._credit + progress - BODY_BYTES_PER_S * TICK_S, self._most)
        self._taken, self._waiting = taken, waiting
        return self._credit < 0


def cut_off(transport: asyncio.Transport) -> None:
    """Ends a connection with a reset: the kernel would keep what was not taken, and go on offering it."""
    opened = transport.get_extra_info("socket")
    if opened is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def _acknowledged_bytes(transport: asyncio.Transport) -> int:
    """Bytes that the other side has acknowledged since the start; 0 where that is not known, as for socket files."""
    opened = transport.get_extra_info("socket")
    if opened is None or opened.family == socket.AF_UNIX:
        return 0
    try:
        found: int = _ACKNOWLEDGED.unpack(opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size))[0]
    except (OSError, struct.error):
        return 0
    return found
