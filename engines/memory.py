"""The worker's end of the memory it shares with the server and, through it, with other workers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Sequence

from flowyard.schemas import arena
from flowyard.schemas.frames import (
    ARENA_NUMBER,
    BODY_PLACE,
    OWN_ARENA,
    SHARED_FROM_BYTES,
    FrameError,
    Place,
)
from flowyard.schemas.values import Buffer


class WorkerMemory:
    """The arenas that this worker knows.

    Args:
        inbox: File descriptor of the arena that the server writes.
        outbox: File descriptor of the arena that this worker writes.
        descriptors: Socket over which the descriptors of other workers' outboxes come.
    """

    def __init__(self, inbox: int, outbox: int, descriptors: socket.socket) -> None:
        self._outbox = arena.WritableArena(outbox)
        self._readable = {OWN_ARENA: memoryview(arena.map_for_reading(inbox))}
        self._descriptors = descriptors
        #: One thread receives, and learns what is free; where batches are computed beside each other another one sends.
        self._writing = threading.Lock()
        for fd in (inbox, outbox):
            os.close(fd)

    def view_of(self, number: int, offset: int, size: int) -> memoryview:
        """The bytes at a place. They are good until the batch is answered.

        Raises:
            FrameError: There is no such place, or no descriptor came.
            OSError: Another worker's outbox cannot be mapped.
        """
        mapped = self._readable.get(number)
        if mapped is None:
            mapped = self._await_arena(number)
        if offset < 0 or size < 0 or offset + size > len(mapped):
            raise FrameError("a value that reaches past the end of its arena")
        return mapped[offset : offset + size]

    def _await_arena(self, number: int) -> memoryview:
        """Maps what comes over the socket of descriptors, up to the one that is asked for."""
        while number not in self._readable:
            message, fds, _, _ = socket.recv_fds(self._descriptors, ARENA_NUMBER.size, 1, socket.MSG_CMSG_CLOEXEC)
            if not message or not fds:
                raise FrameError("no descriptor of an arena that a frame refers to")
            self._readable[ARENA_NUMBER.unpack(message)[0]] = memoryview(arena.map_for_reading(fds[0]))
            os.close(fds[0])
        return self._readable[number]

    def place(self, buffers: Sequence[Buffer]) -> tuple[tuple[Place, ...], Sequence[Buffer]]:
        """Copies large buffers into the outbox, as far as there is room.

        Returns:
            The places of all buffers, nothing when all go into the frame's body; and those that do.
        """
        places: list[Place] = []
        in_body: list[Buffer] = []
        for buffer in buffers:
            offset = self._put(buffer) if len(buffer) >= SHARED_FROM_BYTES else None
            if offset is None:
                in_body.append(buffer)
            places.append(BODY_PLACE if offset is None else (OWN_ARENA, offset))
        return ((), buffers) if len(in_body) == len(buffers) else (tuple(places), in_body)

    def _put(self, buffer: Buffer) -> int | None:
        with self._writing:
            return self._outbox.put(buffer)

    def free(self, offsets: Iterable[int]) -> None:
        """Takes back regions of the outbox.

        Raises:
            FrameError: No region in use starts there.
        """
        try:
            for offset in offsets:
                with self._writing:
                    self._outbox.free(offset)
        except KeyError as error:
            raise FrameError(f"no region at {error}") from None

    def drop(self, numbers: Iterable[int]) -> None:
        """Unmaps outboxes of workers that are gone."""
        for number in numbers:
            self._readable.pop(number, None)
