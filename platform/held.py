"""What requests take of the server's memory: their bodies, and what the nodes of workflows have given on their behalf.

Every body counts from its first piece until its request is answered or taken back. Queues may be long and bodies large, so that
bounds of each alone would not bound them all.
"""

from __future__ import annotations

from flowyard.platform.workers.room import total_bytes
from flowyard.schemas.errors import MemoryFullError

#: Of the memory that there is.
_SHARE = 4
#: Where nobody says how much there is.
_UNKNOWN_BYTES = 2 << 30


class Held:
    """The bytes that are held, of all requests.

    Args:
        limit_bytes: Most of them.

    Attributes:
        size_bytes: How many there are.
    """

    __slots__ = ("limit_bytes", "size_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Counts a body or a piece of one, until `give_back`.

        Raises:
            MemoryFullError: There is no room for it; it is not counted.
        """
        size_bytes += self.size_bytes
        if size_bytes > self.limit_bytes:
            raise self._full()
        self.size_bytes = size_bytes

    def keep(self, size_bytes: int) -> None:
        """Counts what is here already, whether there is room for it or not."""
        self.size_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """So much of it is not held any more."""
        self.size_bytes -= size_bytes

    def check(self) -> None:
        """Makes sure that there is room for more.

        Raises:
            MemoryFullError: There is none.
        """
        if self.size_bytes >= self.limit_bytes:
            raise self._full()

    def _full(self) -> MemoryFullError:
        return MemoryFullError(
            f"the server holds {self.size_bytes} bytes of requests that are not answered yet, and may hold {self.limit_bytes}"
            " (setting max_held_size_bytes); try again later"
        )


def held_of(limit_bytes: int | None, max_request_size: int) -> Held:
    """How much may be held.

    Args:
        limit_bytes: What the settings say; `None` for a quarter of the memory, or the largest body where that is more.
        max_request_size: The largest body.
    """
    if limit_bytes is None:
        known = total_bytes()
        limit_bytes = max(_UNKNOWN_BYTES if known is None else known // _SHARE, max_request_size)
    return Held(limit_bytes)
