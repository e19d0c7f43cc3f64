"""The level of what workers log: one for all of them, as the server's own log has one for the process."""

from __future__ import annotations

import logging
import weakref
from typing import Protocol


class Follower(Protocol):
    """Somebody who logs at this level."""

    def set_log_level(self, level: int) -> None:
        """It has changed."""


class LogLevel:
    """A level that may change while workers run.

    Attributes:
        value: A number of the `logging` module; what is below it is not logged.
    """

    def __init__(self) -> None:
        self.value = logging.INFO
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()

    def set(self, value: int) -> None:
        """Changes the level, and tells everybody who follows."""
        self.value = value
        for follower in self._followers:
            follower.set_log_level(value)

    def follow(self, follower: Follower) -> None:
        """Somebody wants to be told, as long as it is there."""
        self._followers.add(follower)


WORKERS = LogLevel()
