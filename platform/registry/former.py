"""Registrations that have ended and can be taken up again: how many are kept, and for how long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowyard.platform.registry.records import Former, Record

#: Most registrations that are remembered after they were unregistered, of all names.
MOST_FORMER = 100


class FormerVersions:
    """What was unregistered or replaced of late.

    Args:
        per_name: Most that are kept of a name; of all names together `MOST_FORMER`.
        keep_s: How long each is kept.
    """

    def __init__(self, per_name: int, keep_s: float) -> None:
        self._per_name = per_name
        self._keep_s = keep_s
        self._kept: list[Former] = []

    def restore(self, kept: Iterable[Former]) -> None:
        """Takes over what is recorded."""
        self._kept = sorted(kept, key=lambda former: former.number)

    def over(self, now: float) -> list[int]:
        """Forgets what is too old or too much.

        Args:
            now: The time, as seconds since 1970.

        Returns:
            The numbers of what is to be forgotten.
        """
        chosen: list[Former] = []
        count: dict[str, int] = {}
        for former in reversed(self._kept):
            name = former.record.name
            count[name] = count.get(name, 0) + 1
            if count[name] <= self._per_name and former.ended > now - self._keep_s and len(chosen) < MOST_FORMER:
                chosen.append(former)
        numbers = {former.number for former in chosen}
        dropped = [former.number for former in self._kept if former.number not in numbers]
        self._kept = chosen[::-1]
        return dropped

    def of(self, name: str) -> Sequence[Former]:
        """Those of a name, the oldest first."""
        return [former for former in self._kept if former.record.name == name]

    def digests(self) -> list[str]:
        """All that they need of the store."""
        return [digest for former in self._kept for digest in former.record.digests]

    def records(self) -> list[Record]:
        """All of them, the oldest first."""
        return [former.record for former in self._kept]
