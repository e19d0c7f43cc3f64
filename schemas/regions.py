"""Which bytes of a piece of shared memory are in use. Only numbers: the memory itself is somebody else's."""

from __future__ import annotations

from bisect import bisect_left

from flowyard.schemas.values import ALIGNMENT_BYTES


class RegionAllocator:
    """Hands out regions of `capacity` bytes: the first gap that is large enough, so that what has been touched is used again.

    Regions start at multiples of `ALIGNMENT_BYTES`. The gaps are kept in order and never touch one another.

    Attributes:
        capacity: Bytes there are, rounded down to the alignment.
        used: Bytes that are in use, with their padding.
        touched: End of the furthest region that was ever handed out.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity - capacity % ALIGNMENT_BYTES
        self.used = 0
        self.touched = 0
        self._sizes: dict[int, int] = {}
        self._starts = [0] if self.capacity else []
        self._ends = [self.capacity] if self.capacity else []

    def allocate(self, size: int) -> int | None:
        """Takes a region.

        Args:
            size: Bytes, at least 1.

        Returns:
            Its offset, `None` when no gap is large enough.
        """
        if size < 1:
            raise ValueError(f"a region of {size} bytes")
        padded = size + -size % ALIGNMENT_BYTES
        for index, start in enumerate(self._starts):
            end = start + padded
            if end <= self._ends[index]:
                if end == self._ends[index]:
                    del self._starts[index], self._ends[index]
                else:
                    self._starts[index] = end
                self._sizes[start] = padded
                self.used += padded
                self.touched = max(self.touched, end)
                return start
        return None

    def free(self, offset: int) -> None:
        """Gives a region back.

        Args:
            offset: What `allocate` returned.

        Raises:
            KeyError: No region in use starts there.
        """
        size = self._sizes.pop(offset)
        self.used -= size
        end = offset + size
        index = bisect_left(self._starts, offset)
        touches_left = index > 0 and self._ends[index - 1] == offset
        touches_right = index < len(self._starts) and self._starts[index] == end
        if touches_left and touches_right:
            self._ends[index - 1] = self._ends[index]
            del self._starts[index], self._ends[index]
        elif touches_left:
            self._ends[index - 1] = end
        elif touches_right:
            self._starts[index] = offset
        else:
            self._starts.insert(index, offset)
            self._ends.insert(index, end)

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Start and end of what is free, in order."""
        return list(zip(self._starts, self._ends, strict=True))
