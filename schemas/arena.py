"""Arenas: anonymous shared memory that one process writes and others read.

An arena is a memfd: it has no name anywhere, so nothing is left of it when the last process that maps it has ended, however that
came about. It is sealed against changes of its size, so that no reader can be made to touch memory that is gone. Its size is
virtual: pages exist once they are written.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from flowyard.schemas.regions import RegionAllocator
from flowyard.schemas.values import Buffer

#: What an arena keeps of its pages when nothing in it is in use.
KEEP_BYTES = 32 << 20


def create(name: str, size: int) -> int:
    """Makes an arena.

    Args:
        name: For people who look at a process's mappings.
        size: Bytes, virtual.

    Returns:
        A file descriptor, not inheritable.

    Raises:
        OSError: The kernel refuses.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def reopen_for_reading(fd: int) -> int:
    """A second descriptor of an arena, through which nobody writes by accident.

    Raises:
        OSError: The process has no file descriptors left.
    """
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def map_for_reading(fd: int) -> mmap.mmap:
    """Maps a whole arena, read-only; the descriptor may be closed afterwards."""
    return mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ)


class WritableArena:
    """An arena on the side that writes it and decides what lies where. The descriptor may be closed afterwards."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        self._mapping = mmap.mmap(fd, size)
        self._view = memoryview(self._mapping)
        self._regions = RegionAllocator(size)

    @property
    def used(self) -> int:
        """Bytes that are in use, with padding."""
        return self._regions.used

    def put(self, buffer: Buffer) -> int | None:
        """Copies a buffer of at least one byte into the arena.

        Returns:
            Its offset, `None` when there is no room.
        """
        size = len(buffer)
        offset = self._regions.allocate(size)
        if offset is not None:
            self._view[offset : offset + size] = buffer
        return offset

    def free(self, offset: int) -> None:
        """Gives a region back. When it was the last one, the pages of a peak go back to the system.

        Raises:
            KeyError: No region in use starts there.
        """
        self._regions.free(offset)
        touched = self._regions.touched
        if not self._regions.used and touched > KEEP_BYTES:
            self._mapping.madvise(mmap.MADV_REMOVE, KEEP_BYTES, touched - KEEP_BYTES)
            self._regions.touched = 0

    def close(self) -> None:
        """Unmaps the arena."""
        self._view.release()
        self._mapping.close()
