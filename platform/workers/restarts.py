"""When workers that have failed are started again, and when nobody waits for them any more."""

from __future__ import annotations

from collections.abc import Iterable

from flowyard.platform.workers.groups import Group, Worker

#: Seconds until the next attempt, by the number of starts or workers that failed in a row.
BACKOFF_S = (0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0)
#: After this many failures in a row without a computed batch, and with no worker left, requests are refused at once.
CRASH_LOOP = 3
#: A worker that lived this long did not die of its start.
SETTLED_S = 60.0


def note_failure(group: Group, worker: Worker, now: float) -> None:
    """A worker of a group could not be started, or has died unasked: the next one is started at `group.retry_at`."""
    if worker.ready_at and now - worker.ready_at > SETTLED_S:
        group.failures = 0
    delay = BACKOFF_S[min(group.failures, len(BACKOFF_S) - 1)]
    group.failures += 1
    group.lost += 1
    group.failed_at = now
    group.retry_at = now + delay


def note_success(group: Group, worker: Worker) -> None:
    """A worker has computed a batch. One that was there before says nothing about those that could not be started since."""
    if worker.ready_at > group.failed_at:
        group.failures = 0


def is_crash_looping(groups: Iterable[Group]) -> bool:
    """Whether workers keep failing and none is there."""
    wanted = [group for group in groups if group.max > 0]
    return bool(wanted) and all(group.failures >= CRASH_LOOP and not group.ready() for group in wanted)


def is_start_failing(groups: Iterable[Group]) -> bool:
    """Whether a group lacks workers that it should have, and they cannot be started."""
    return any(group.failures >= CRASH_LOOP and group.ready() < group.min for group in groups)
