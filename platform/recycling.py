"""Memory that is used again: fresh memory of some hundred KB costs more to get, page by page, than to fill."""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from flowyard.schemas.values import ALIGNMENT_BYTES, aligned_memory

#: Sizes between which memory is kept for the next one.
SMALLEST_BYTES, LARGEST_BYTES = 64 << 10, 4 << 20
#: Most of it that is kept while nobody uses it.
MOST_KEPT_BYTES = 8 << 20


class Recycler:
    """Lends memory that comes back by itself when nothing refers to it any more.

    Args:
        most_kept_bytes: Most that is kept while nobody uses it.
    """

    def __init__(self, most_kept_bytes: int = MOST_KEPT_BYTES) -> None:
        self.kept_bytes = 0
        self._most_kept_bytes = most_kept_bytes
        self._kept: dict[int, list[npt.NDArray[np.uint8]]] = defaultdict(list)
        # The last reference may go in any thread, also while this one holds the lock: the garbage collector comes when it likes.
        self._lock = threading.RLock()

    def memory(self, size: int) -> memoryview:
        """Memory of `size` bytes, with anything in it, at a multiple of `ALIGNMENT_BYTES`."""
        if not SMALLEST_BYTES <= size <= LARGEST_BYTES:
            return aligned_memory(size)
        # Pages that are not touched take no memory.
        whole_bytes = 1 << (size - 1).bit_length()
        whole = self._take(whole_bytes)
        start = -whole.__array_interface__["data"][0] % ALIGNMENT_BYTES
        lent = whole[start : start + size]
        weakref.finalize(lent, self._give_back, whole, whole_bytes).atexit = False
        return lent.data

    def _take(self, whole_bytes: int) -> npt.NDArray[np.uint8]:
        with self._lock:
            if self._kept[whole_bytes]:
                self.kept_bytes -= whole_bytes
                return self._kept[whole_bytes].pop()
        return np.empty(whole_bytes + ALIGNMENT_BYTES, np.uint8)

    def _give_back(self, whole: npt.NDArray[np.uint8], whole_bytes: int) -> None:
        with self._lock:
            if self.kept_bytes + whole_bytes <= self._most_kept_bytes:
                self.kept_bytes += whole_bytes
                self._kept[whole_bytes].append(whole)
