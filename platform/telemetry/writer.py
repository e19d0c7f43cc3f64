"""Lines on their way to standard error: whoever writes one never waits for whoever reads them."""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Callable

#: Bytes that may wait for a slow reader; what comes then is dropped and counted.
PENDING_BYTES = 8 * 2**20
#: Bytes of one write. Up to this size the writes of several processes into one pipe do not mix.
PIPE_BYTES = select.PIPE_BUF
FILE_BYTES = 65_536


class LineWriter:
    """Writes lines from a thread of its own.

    Args:
        fd: Where to; below 0 for nowhere.
        dropped_line: Makes the line that tells how many have been dropped, once there is room for it.
        pending_bytes: Bytes that may wait.
    """

    def __init__(self, fd: int, dropped_line: Callable[[int], bytes], pending_bytes: int = PENDING_BYTES) -> None:
        self._fd = fd
        self._piece_bytes = PIPE_BYTES if _is_pipe(fd) else FILE_BYTES
        self._dropped_line = dropped_line
        self._limit_bytes = pending_bytes
        self._pending_bytes = 0
        self._chunks: list[bytes] = []
        self._dropped = 0
        self._told = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that have been dropped: too many waited, or nobody reads."""
        return self._dropped

    def write(self, lines: bytes) -> None:
        """Takes whole lines. Never waits and never fails."""
        with self._changed:
            if self._closing or self._pending_bytes + len(lines) > self._limit_bytes:
                self._dropped += lines.count(b"\n")
                return
            self._pending_bytes += len(lines)
            self._chunks.append(lines)
            self._changed.notify()

    def flush(self) -> None:
        """Does nothing: the thread writes without being asked. Files have this method."""

    def close(self, limit_s: float) -> bool:
        """Writes what waits and ends the thread.

        Args:
            limit_s: Time for it; a reader that does not read may never let it end.

        Returns:
            Whether everything has been written.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while chunk := self._next():
            written = self._write(chunk)
            with self._changed:
                self._pending_bytes -= len(chunk)
                self._dropped += chunk.count(b"\n", written)
            self._tell_dropped()

    def _next(self) -> bytes:
        """What waits, as soon as something does; empty at the end."""
        with self._changed:
            while not self._chunks and not self._closing:
                self._changed.wait()
            chunks, self._chunks = self._chunks, []
        return b"".join(chunks)

    def _tell_dropped(self) -> None:
        dropped = self._dropped - self._told
        if dropped and self._write(self._dropped_line(dropped)):
            self._told += dropped

    def _write(self, lines: bytes) -> int:
        """Writes lines; returns how many bytes could be written, 0 or more of them."""
        start = 0
        while start < len(lines):
            end = self._piece_end(lines, start)
            try:
                start += os.write(self._fd, lines[start:end])
            except BlockingIOError:
                select.select([], [self._fd], [], 1.0)
            except OSError:
                break
        return start

    def _piece_end(self, lines: bytes, start: int) -> int:
        """The end of what is written next: whole lines, as many as fit, or a part of a line that does not fit."""
        end = start + self._piece_bytes
        if end >= len(lines):
            return len(lines)
        return (lines.rfind(b"\n", start, end) + 1) or end


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False
