"""The memory that the server shares with a worker: an inbox that the server writes, an outbox that the worker writes.

What a worker says about its outbox is checked against its bounds and against what the server still holds of it. A result stays
where the worker has put it as long as anything refers to it, and goes to the next worker by reference: that one is given the
file descriptor once and reads the same pages.

Descriptors go over a socket of their own. The transport of the frames belongs to the event loop, which does not pass descriptors
and may hold back bytes; and a worker that had to look for descriptors would pay for it with each `recv`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from flowyard.schemas import arena
from flowyard.schemas.frames import (
    ARENA_NUMBER,
    BODY_PLACE,
    FIRST_FOREIGN_ARENA,
    OWN_ARENA,
    SHARED_FROM_BYTES,
    FrameError,
    Place,
    WireValue,
)
from flowyard.schemas.values import ALIGNMENT_BYTES, Buffer, Encoded

#: Virtual size of one arena.
ARENA_BYTES = 256 << 20

_numbers = itertools.count(FIRST_FOREIGN_ARENA)


class Region(np.ndarray[Any, Any]):
    """A result's bytes in a worker's outbox, in use as long as this or a view of it exists."""

    outbox: Outbox
    offset: int


class Outbox:
    """What a worker writes, read by the server.

    Args:
        fd: A descriptor of the arena, for reading; owned by this object from now on.

    Attributes:
        number: The arena's number for other workers, never used twice.
        readers: The memories of workers that have been given the descriptor.
    """

    def __init__(self, fd: int) -> None:
        self.number = next(_numbers)
        self.readers: set[SharedMemory] = set()
        self.fd = fd
        self._mapping = arena.map_for_reading(fd)
        self._size = len(self._mapping)
        self._starts: list[int] = []
        self._held: dict[int, tuple[int, weakref.ref[Region]]] = {}
        # Regions may die in any thread, wherever the garbage collector runs; they are booked out in the event loop's.
        self._dead: deque[int] = deque()
        self._freed: list[int] = []

    @property
    def used(self) -> int:
        """Bytes that something in the server refers to."""
        self._settle()
        return sum(end - start for start, (end, _) in self._held.items())

    def region(self, offset: int, size: int) -> memoryview:
        """The bytes of a result; the region is held until nothing refers to them any more.

        Raises:
            FrameError: It is not inside the arena, or overlaps what is still in use.
        """
        self._settle()
        end = offset + size
        if size < SHARED_FROM_BYTES or offset < 0 or offset % ALIGNMENT_BYTES or end > self._size:
            raise FrameError(f"{size} bytes at {offset} of an arena of {self._size}")
        index = bisect_right(self._starts, offset)
        follows = index == 0 or self._held[self._starts[index - 1]][0] <= offset
        precedes = index == len(self._starts) or end <= self._starts[index]
        if not (follows and precedes):
            raise FrameError(f"{size} bytes at {offset}, some of which are in use")
        region = np.frombuffer(self._mapping, np.uint8, size, offset).view(Region)
        region.outbox = self
        region.offset = offset
        self._starts.insert(index, offset)
        self._held[offset] = end, weakref.ref(region, lambda _, dead=self._dead: dead.append(offset))  # type: ignore[misc]
        return region.data

    def take_freed(self) -> tuple[int, ...]:
        """Offsets of regions that have come free since the last call."""
        if self._dead:
            self._settle()
        if not self._freed:
            return ()
        freed, self._freed = self._freed, []
        return tuple(freed)

    def _settle(self) -> None:
        while self._dead:
            offset = self._dead.popleft()
            del self._held[offset]
            del self._starts[bisect_right(self._starts, offset) - 1]
            self._freed.append(offset)

    def close(self) -> None:
        """The worker is gone. What still refers to the memory keeps it; nobody is given it any more."""
        os.close(self.fd)
        self.fd = -1
        for reader in self.readers:
            reader.forget(self)
        self.readers.clear()
        try:
            self._mapping.close()
        except BufferError:
            del self._mapping


def locate(buffer: Buffer) -> tuple[Region, int] | None:
    """Finds out whether a buffer lies in a worker's outbox, however many views it was made through.

    Returns:
        The region, and the buffer's offset in the arena; `None` when it lies elsewhere.
    """
    owner: Any = buffer
    while not isinstance(owner, Region):
        if isinstance(owner, memoryview):
            owner = owner.obj
        elif isinstance(owner, np.ndarray):
            owner = owner.base
        else:
            return None
    return owner, owner.offset + _address(np.frombuffer(buffer, np.uint8)) - _address(owner)


def _address(array: np.ndarray[Any, Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


class Parcel:
    """The buffers of one batch on their way to a worker.

    Attributes:
        buffers: What goes into the frame's body.
        offsets: What was copied into the inbox.
        regions: What the worker reads in other workers' outboxes.
    """

    __slots__ = ("_memory", "buffers", "offsets", "regions")

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self.buffers: list[Buffer] = []
        self.offsets: list[int] = []
        self.regions: list[Region] = []

    def add(self, encoded: Encoded) -> WireValue:
        """Finds a place for each buffer of a value."""
        buffers = encoded.buffers
        if not buffers:
            return WireValue(encoded.tree)
        if len(buffers) == 1 and len(buffers[0]) < SHARED_FROM_BYTES:
            self.buffers.append(buffers[0])
            return WireValue(encoded.tree, (len(buffers[0]),))
        sizes = tuple([len(buffer) for buffer in buffers])
        if max(sizes) < SHARED_FROM_BYTES:
            self.buffers += buffers
            return WireValue(encoded.tree, sizes)
        return WireValue(encoded.tree, sizes, tuple([self._place(buffer) for buffer in buffers]))

    def discard(self) -> None:
        """It has been read, or is not going to be sent."""
        for offset in self.offsets:
            self._memory.inbox.free(offset)

    def _place(self, buffer: Buffer) -> Place:
        if len(buffer) >= SHARED_FROM_BYTES:
            found = locate(buffer)
            if found is not None and self._memory.may_read(found[0].outbox):
                self.regions.append(found[0])
                return found[0].outbox.number, found[1]
            offset = self._memory.inbox.put(buffer)
            if offset is not None:
                self.offsets.append(offset)
                return OWN_ARENA, offset
        self.buffers.append(buffer)
        return BODY_PLACE


def _owned(undo: contextlib.ExitStack, fd: int) -> int:
    undo.callback(os.close, fd)
    return fd


class SharedMemory:
    """Both arenas of one worker, and the socket for descriptors.

    Args:
        size: Virtual bytes of each arena.
        on_drop: Called with the number of an arena that the worker need not keep mapped any more.

    Attributes:
        inbox: What the server writes.
        outbox: What the worker writes.
        inherited: What the worker process is given: descriptors of inbox, outbox and socket. Until `started`.

    Raises:
        OSError: No memory or no descriptors left.
    """

    def __init__(self, size: int, on_drop: Callable[[int], None]) -> None:
        self._on_drop = on_drop
        self._known: set[Outbox] = set()
        self._batches: dict[int, Parcel] = {}
        with contextlib.ExitStack() as undo:
            inbox = _owned(undo, arena.create("flowyard-inbox", size))
            inbox_for_reading = _owned(undo, arena.reopen_for_reading(inbox))
            outbox = _owned(undo, arena.create("flowyard-outbox", size))
            outbox_for_reading = _owned(undo, arena.reopen_for_reading(outbox))
            self._descriptors, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            descriptors = _owned(undo, theirs.detach())
            self.inbox = arena.WritableArena(inbox)
            self.outbox = Outbox(outbox_for_reading)
            undo.pop_all()
        os.close(inbox)
        self._descriptors.setblocking(False)
        self.inherited: tuple[int, ...] = (inbox_for_reading, outbox, descriptors)

    def started(self) -> None:
        """The worker process has its descriptors, or there is none."""
        for fd in self.inherited:
            os.close(fd)
        self.inherited = ()

    @property
    def used(self) -> int:
        """Bytes of both arenas that are in use."""
        return self.inbox.used + self.outbox.used

    def may_read(self, outbox: Outbox) -> bool:
        """Sees to it that the worker can map another worker's outbox; false when it cannot and bytes must be copied."""
        if outbox in self._known:
            return True
        if outbox.fd < 0:
            return False
        try:
            socket.send_fds(self._descriptors, [ARENA_NUMBER.pack(outbox.number)], [outbox.fd])
        except OSError:
            return False
        self._known.add(outbox)
        outbox.readers.add(self)
        return True

    def forget(self, outbox: Outbox) -> None:
        """The worker of that outbox is gone."""
        self._known.discard(outbox)
        self._on_drop(outbox.number)

    def sent(self, batch: int, parcel: Parcel) -> None:
        """Keeps what the worker reads until the batch is answered."""
        if parcel.offsets or parcel.regions:
            self._batches[batch] = parcel

    def answered(self, batch: int) -> None:
        """The worker has read what came with this batch."""
        parcel = self._batches.pop(batch, None)
        if parcel is not None:
            parcel.discard()

    def view_of(self, number: int, offset: int, size: int) -> memoryview:
        """The bytes of a result at a place that the worker names.

        Raises:
            FrameError: There is no such place, or not for this worker now.
        """
        if number != OWN_ARENA:
            raise FrameError(f"a result in the arena {number}")
        return self.outbox.region(offset, size)

    def close(self) -> None:
        """The worker is gone."""
        self._batches.clear()
        for outbox in self._known:
            outbox.readers.discard(self)
        self._known.clear()
        self._descriptors.close()
        self.inbox.close()
        self.outbox.close()
