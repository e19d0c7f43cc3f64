"""What workers print, where somebody wants it line by line: read from pipes by one thread, so that nobody waits for it."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

#: Takes a line, without its end.
Take: TypeAlias = Callable[[bytes], None]

READ_BYTES = 65_536
#: Bytes of a line; what is longer comes in pieces.
LINE_BYTES = 16_384


class OutputReader:
    """Reads any number of pipes from a thread of its own, which begins with the first."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._awaken, waker = socket.socketpair()
        for end in (self._awaken, waker):
            end.setblocking(False)
        self._selector.register(waker, selectors.EVENT_READ)
        self._waker = waker
        self._coming: deque[tuple[int, Take]] = deque()
        self._closing = False
        self._thread: threading.Thread | None = None

    def open(self, take: Take) -> int:
        """Begins to read from a new pipe.

        Args:
            take: Gets its lines, from the thread.

        Returns:
            The end that is written into, to be closed by the caller.
        """
        read, write = os.pipe()
        os.set_blocking(read, False)
        self._coming.append((read, take))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="worker output", daemon=True)
            self._thread.start()
        self._wake()
        return write

    def close(self, limit_s: float) -> None:
        """Reads what is there and ends the thread; whoever still writes is not waited for."""
        self._closing = True
        self._wake()
        if self._thread is None:
            self._finish()
        else:
            self._thread.join(limit_s)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._awaken.send(b"\0")

    def _run(self) -> None:
        while not self._closing:
            ready = self._selector.select()
            self._take_up()
            for key, _ in ready:
                self._read(key)
        self._finish()

    def _finish(self) -> None:
        self._take_up()
        for key in list(self._selector.get_map().values()):
            self._read(key)
            self._end(key)
        self._selector.close()

    def _take_up(self) -> None:
        while self._coming:
            read, take = self._coming.popleft()
            self._selector.register(read, selectors.EVENT_READ, _Lines(take))

    def _read(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._waker:
            with contextlib.suppress(BlockingIOError):
                self._waker.recv(READ_BYTES)
            return
        lines: _Lines = key.data
        try:
            piece = os.read(key.fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if piece:
            lines.add(piece)
        else:
            self._end(key)

    def _end(self, key: selectors.SelectorKey) -> None:
        if key.fd not in self._selector.get_map():
            return
        self._selector.unregister(key.fileobj)
        if key.fileobj is self._waker:
            self._waker.close()
            self._awaken.close()
            return
        os.close(key.fd)
        key.data.end()


class _Lines:
    """Lines of one pipe, put together from what is read."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._part = b""

    def add(self, piece: bytes) -> None:
        """Takes what has been read."""
        *lines, part = (self._part + piece).split(b"\n")
        for line in lines:
            self._tell(line)
        while len(part) >= LINE_BYTES:
            self._take(part[:LINE_BYTES])
            part = part[LINE_BYTES:]
        self._part = part

    def end(self) -> None:
        """There is no more; the last line may have no end."""
        if self._part:
            self._tell(self._part)
            self._part = b""

    def _tell(self, line: bytes) -> None:
        for start in range(0, len(line), LINE_BYTES) or (0,):
            self._take(line[start : start + LINE_BYTES].removesuffix(b"\r"))
