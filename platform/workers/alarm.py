"""A timer that is set again and again, mostly to a time that is no sooner than the one it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from flowyard.platform.workers.jobs import FOREVER


class Alarm:
    """Rings once, at the time it is set to or sooner.

    Args:
        loop: Where it rings.
        ring: What it does then.
    """

    __slots__ = ("_at", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._at = FOREVER
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        """Rings at a time, monotonic seconds; one that is set to ring sooner does so."""
        if at >= self._at and self._timer is not None:
            return
        self.cancel()
        self._at = at
        if at != FOREVER:
            self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._on_time)

    def cancel(self) -> None:
        """Does not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        self._timer = None
        self._at = FOREVER
        self._ring()
