"""What is registered, in memory: one version of a name, and how it is doing."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.records import Record
from flowyard.schemas.redaction import without_host_paths

Status: TypeAlias = Literal["PENDING", "READY", "FAILED"]


class Progress(msgspec.Struct, frozen=True):
    """How far the fetch of a remote archive is.

    Attributes:
        fetched_bytes: Bytes that are there.
        total_bytes: How many there will be, `None` where the server does not say.
    """

    fetched_bytes: int
    total_bytes: int | None = None


class ShadowCounts:
    """What became of the copies of requests that a shadow version was to get.

    Attributes:
        sent: Copies that it got.
        answered: Those that it answered; the answers are dropped.
        failed: Those that failed.
        skipped: Copies that it did not get, because it had enough to do.
    """

    __slots__ = ("answered", "failed", "sent", "skipped")

    def __init__(self) -> None:
        self.sent = self.answered = self.failed = self.skipped = 0

    @property
    def running(self) -> int:
        """Copies that it has not answered yet."""
        return self.sent - self.answered - self.failed


class Entry:
    """One version of an endpoint.

    Attributes:
        record: What was registered.
        status: `PENDING` while its workers start, `FAILED` when they could not.
        reason: Why it failed.
        deployment: What runs, once it does.
        attempt: What is being brought up, runs, or could not be brought up; `None` before it is known what that would be.
        at_startup: Whether the operator asked for it when starting the server.
        progress: How far what it needs has been fetched; `None` when there is nothing to fetch.
        shadowed: Counts of its life as a shadow.
    """

    __slots__ = ("at_startup", "attempt", "deployment", "progress", "reason", "record", "shadowed", "status")

    def __init__(self, record: Record, *, at_startup: bool = False) -> None:
        self.record = record
        self.status: Status = "PENDING"
        self.reason = ""
        self.deployment: Deployment | None = None
        self.attempt: Deployment | None = None
        self.at_startup = at_startup
        self.progress: Progress | None = None
        self.shadowed = ShadowCounts()

    def fetched(self, fetched_bytes: int, total_bytes: int | None) -> None:
        """Some more of what it needs is there."""
        self.progress = Progress(fetched_bytes, total_bytes)

    def keep_part(self, url: str, digest: str) -> None:
        """The model at a URL is in the store, and has to stay there."""
        self.record = msgspec.structs.replace(self.record, parts=self.record.parts | {url: digest})

    def failed(self, reason: str) -> None:
        """The deployment could not be brought up."""
        self.status = "FAILED"
        self.reason = without_host_paths(reason)


def shown(name: str, version: str) -> str:
    """A name and version as messages tell them."""
    return f"{name}:{version}" if version else name
