"""The worker's end of the socket to the server: frames in, frames out."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from flowyard.schemas import frames
from flowyard.schemas.values import ALIGNMENT_BYTES, Buffer, aligned_memory

#: A frame up to this size costs one `recv`.
SCRATCH_BYTES = 64 << 10
#: Bodies up to this size share a piece of memory: to get an aligned one costs more than to fill it. An array that user code keeps
#: keeps its whole piece, which is why the pieces are small.
SMALL_BODY_BYTES = 2 << 10
PIECE_BYTES = 16 << 10
#: Most memory that is kept for bodies.
REUSED_BYTES = 4 << 20
#: Most buffers that one `sendmsg` takes (IOV_MAX on Linux).
MOST_CHUNKS = 1024


class Connection:
    """Frames over a blocking stream socket. One thread receives; any thread may send.

    What has come is read into one scratch buffer and cut up there. Bodies are given memory of their own, aligned as tensors
    like it: user code may keep an array beyond its batch. What of a body did not fit into the scratch buffer is received
    straight into that memory.

    Attributes:
        reuses_memory: Whether nobody refers to a body any more when the next one is received: both may be in the same memory.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()
        self._put_back: deque[tuple[frames.ToWorker, memoryview]] = deque()
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._start = 0
        self._end = 0
        self._piece = memoryview(b"")
        self._piece_used = 0
        self.reuses_memory = False
        self._reused = memoryview(b"")

    def receive(self) -> tuple[frames.ToWorker, memoryview] | None:
        """Waits for the next frame: one that was put back, or a new one.

        Returns:
            The message and the body, `None` when the socket has ended.

        Raises:
            FrameError: What arrived is no frame.
            ConnectionError: The socket broke.
        """
        return self._put_back.popleft() if self._put_back else self.receive_new()

    def put_back(self, message: frames.ToWorker, body: memoryview) -> None:
        """Keeps a frame for `receive`."""
        self._put_back.append((message, body))

    def receive_new(self) -> tuple[frames.ToWorker, memoryview] | None:
        """Waits for a frame that was not put back; otherwise as `receive`."""
        if not self._fill(frames.PREFIX_BYTES):
            return None
        head_bytes, body_bytes = frames.read_prefix(self._take(frames.PREFIX_BYTES))
        if not self._fill(head_bytes):
            return None
        message = frames.unpack_to_worker(self._take(head_bytes))
        body = self._body(body_bytes)
        return None if body is None else (message, body)

    def has_more(self) -> bool:
        """Whether `receive_new` has something to begin with."""
        if self._end > self._start:
            return True
        readable, _, _ = select.select([self._socket], [], [], 0)
        return bool(readable)

    def send(self, message: frames.ToServer, buffers: Sequence[Buffer] = ()) -> None:
        """Writes one frame; those of several threads do not mix.

        Raises:
            ConnectionError: The socket broke.
        """
        chunks = frames.pack(message, buffers)
        with self._sending:
            sent = self._socket.sendmsg(chunks[:MOST_CHUNKS])
            if sent < sum(map(len, chunks)):
                self._send_rest(chunks, sent)

    def _send_rest(self, chunks: Sequence[Buffer], sent: int) -> None:
        left: list[Any] = [memoryview(chunk) for chunk in chunks]
        first = 0
        while True:
            while first < len(left) and sent >= len(left[first]):
                sent -= len(left[first])
                first += 1
            if first == len(left):
                return
            left[first] = left[first][sent:]
            sent = self._socket.sendmsg(left[first : first + MOST_CHUNKS])

    def _fill(self, size: int) -> bool:
        """Reads until there are `size` bytes in the scratch buffer. False at the end of the socket."""
        if self._start + size > len(self._scratch):
            self._make_room(size)
        while self._end - self._start < size:
            count = self._socket.recv_into(self._scratch[self._end :])
            if not count:
                return False
            self._end += count
        return True

    def _make_room(self, size: int) -> None:
        """Moves what has come to the front of a scratch buffer that holds at least `size` bytes."""
        left = self._end - self._start
        scratch = self._scratch if size <= len(self._scratch) else memoryview(bytearray(size))
        scratch[:left] = bytes(self._scratch[self._start : self._end])
        self._scratch, self._start, self._end = scratch, 0, left

    def _take(self, size: int) -> memoryview:
        """The next bytes of the scratch buffer; good until it is filled again."""
        start, self._start = self._start, self._start + size
        return self._scratch[start : self._start]

    def _body(self, size: int) -> memoryview | None:
        if not size:
            self._rewind()
            return memoryview(b"")
        body = self._memory(size)
        received = min(size, self._end - self._start)
        body[:received] = self._take(received)
        while received < size:
            count = self._socket.recv_into(body[received:])
            if not count:
                return None
            received += count
        self._rewind()
        return body

    def _memory(self, size: int) -> memoryview:
        """Aligned memory for a body."""
        if self.reuses_memory and size <= REUSED_BYTES:
            if size > len(self._reused):
                self._reused = aligned_memory(min(2 * size, REUSED_BYTES))
            return self._reused[:size]
        if size > SMALL_BODY_BYTES:
            return aligned_memory(size)
        if self._piece_used + size > len(self._piece):
            self._piece, self._piece_used = aligned_memory(PIECE_BYTES), 0
        start = self._piece_used
        self._piece_used = start + size + -size % ALIGNMENT_BYTES
        return self._piece[start : start + size]

    def _rewind(self) -> None:
        """Starts over at the front, where there is most room, when the scratch buffer is used up."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._scratch) > SCRATCH_BYTES:
                self._scratch = memoryview(bytearray(SCRATCH_BYTES))
