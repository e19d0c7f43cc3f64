"""Results that wait to be fetched: what asynchronous requests were answered, for some time and in bounded memory.

There is no event loop and no clock in here: every method gets the time it happens at (`now`, monotonic seconds).

What holds after every event:
- there are at most `Limits.count` results, and their items take at most `Limits.size_bytes`;
- a result is there until it is removed, or until `Limits.ttl_s` after it has ended, or has been held up for want of room, and
  nobody has asked for it since;
- what was added is read in order, as often as wanted.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from flowyard.schemas.errors import ResultsFullError

Headers: TypeAlias = list[tuple[bytes, bytes]]
#: What became of an item: it is kept, has to wait for room, or never fits.
Added: TypeAlias = Literal["kept", "no room", "too large"]

#: Counted for each item besides its bytes: what the interpreter needs for it.
ITEM_BYTES = 64
FOREVER = float("inf")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept, and for how long.

    Attributes:
        count: Most results, those included that have not come yet.
        size_bytes: Most bytes of all of them.
        ttl_s: Seconds that a result is kept.
    """

    count: int
    size_bytes: int
    ttl_s: float


class Head(msgspec.Struct, frozen=True):
    """Status and headers of an answer."""

    status: int
    headers: Headers


class Page(msgspec.Struct, frozen=True):
    """Some items of a result.

    Attributes:
        head: Status and headers, `None` while nothing has come.
        body: The items, one after the other.
        next: Number of the next item where more may come.
    """

    head: Head | None
    body: bytes = b""
    next: int | None = None


class _Result:
    """One result.

    Attributes:
        failure: What went wrong after the first items.
        ended: Whether nothing more comes.
        held: Whether the next item waits for room.
    """

    __slots__ = ("ended", "failure", "head", "held", "items", "size_bytes")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.items: list[bytes] = []
        self.failure: tuple[Head, bytes] | None = None
        self.ended = False
        self.held = False
        self.size_bytes = 0


class Results:
    """All results, by token.

    Attributes:
        size_bytes: What their items take.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.size_bytes = 0
        self._results: dict[str, _Result] = {}
        #: When each that has ended or is held up is forgotten; the next one is the first.
        self._due: dict[str, float] = {}

    def __len__(self) -> int:
        """Number of results."""
        return len(self._results)

    def __contains__(self, token: str) -> bool:
        """Whether there is a result of that token."""
        return token in self._results

    @property
    def wake_at(self) -> float:
        """When `expire` has something to do."""
        return next(iter(self._due.values()), FOREVER)

    def open(self, token: str) -> None:
        """Makes a place for a result that is to come.

        Raises:
            ResultsFullError: There are too many.
        """
        if len(self._results) >= self.limits.count:
            raise ResultsFullError(
                f"{self.limits.count} results of asynchronous requests are waiting to be fetched (setting max_results)"
            )
        self._results[token] = _Result()

    def begin(self, token: str, head: Head) -> None:
        """A result has begun; its items follow. One that has been removed is ignored, here and below."""
        result = self._results.get(token)
        if result is not None:
            result.head = head

    def add(self, token: str, item: bytes, now: float) -> Added:
        """An item has come."""
        result = self._results.get(token)
        size_bytes = len(item) + ITEM_BYTES
        if result is None or result.ended:
            return "kept"
        if result.size_bytes + size_bytes > self.limits.size_bytes:
            return "too large"
        if self.size_bytes + size_bytes > self.limits.size_bytes:
            if not result.held:
                result.held = True
                self._touch(token, result, now)
            return "no room"
        result.held = False
        self._due.pop(token, None)
        result.items.append(item)
        result.size_bytes += size_bytes
        self.size_bytes += size_bytes
        return "kept"

    def end(self, token: str, now: float, failure: tuple[Head, bytes] | None = None) -> None:
        """Nothing more comes.

        Args:
            token: The result.
            now: The time.
            failure: Status, headers and body that tell what went wrong: the answer to whoever has read all items.
        """
        result = self._results.get(token)
        if result is not None and not result.ended:
            result.ended = True
            result.failure = failure
            self._touch(token, result, now)

    def read(self, token: str, start: int, count: int, now: float) -> Page | None:
        """Reads items.

        Args:
            token: The result.
            start: Number of the first item.
            count: Most items.
            now: The time.

        Returns:
            The items that are there; `None` where there is no such result, or it cannot have such an item.
        """
        result = self._results.get(token)
        if result is None or start > len(result.items):
            return None
        self._touch(token, result, now)
        items = result.items[start : start + count]
        end = start + len(items)
        if result.failure is not None and not items:
            return Page(*result.failure)
        if result.head is None:
            return Page(None, next=start)
        if result.ended and result.failure is None and end == len(result.items):
            return Page(result.head, b"".join(items))
        return Page(result.head, b"".join(items), end)

    def remove(self, token: str) -> bool:
        """Forgets a result.

        Returns:
            Whether it had not ended.
        """
        self._due.pop(token, None)
        result = self._results.pop(token, None)
        if result is None:
            return False
        self.size_bytes -= result.size_bytes
        return not result.ended

    def expire(self, now: float) -> list[str]:
        """Forgets the results that have been kept for long enough, and returns their tokens."""
        over = []
        for token, due in self._due.items():
            if due > now:
                break
            over.append(token)
        for token in over:
            self.remove(token)
        return over

    def _touch(self, token: str, result: _Result, now: float) -> None:
        """Starts the time to live anew; the latest is the last to go."""
        self._due.pop(token, None)
        if result.ended or result.held:
            self._due[token] = now + self.limits.ttl_s
