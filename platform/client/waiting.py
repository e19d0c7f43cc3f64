"""Waiting for what is registered asynchronously: how far it is, whether it is done, and how often to ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flowyard.platform.client import answers
from flowyard.platform.client.errors import RegistrationFailedError, TimedOutError

#: Pauses between two questions whether something is done: quick at first, for what is quick.
_FIRST_PAUSE_S = 0.02
_LAST_PAUSE_S = 1.0
_PAUSE_FACTOR = 1.5


def pauses_s() -> Iterator[float]:
    """How long to wait before asking again, each time."""
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * _PAUSE_FACTOR, _LAST_PAUSE_S)


def loading_of(versions: Iterable[answers.Workflow]) -> answers.Progress:
    """How far a registration is: what the server says of it, else its workers that are there of those that it is to have."""
    told = [_progress(version) for version in versions]
    return answers.Progress(
        fetched_bytes=_sum(item.fetched_bytes for item in told),
        total_bytes=_sum(item.total_bytes for item in told),
        workers_ready=sum(item.workers_ready for item in told),
        workers_wanted=sum(item.workers_wanted for item in told),
    )


def _sum(numbers: Iterable[int | None]) -> int | None:
    """The sum of those that are known, `None` when none is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _progress(version: answers.Workflow) -> answers.Progress:
    if version.progress is not None:
        return version.progress
    models = [*version.models, *([version.functions] if version.functions is not None else [])]
    groups = [group for model in models for group in model.worker_groups]
    return answers.Progress(
        workers_ready=sum(worker.state != "starting" for group in groups for worker in group.workers),
        workers_wanted=sum(group.min_workers for group in groups),
    )


def is_ready(name: str, versions: tuple[answers.Workflow, ...]) -> bool:
    """Whether nothing is pending.

    Raises:
        RegistrationFailedError: A version could not be started.
    """
    for version in versions:
        if version.status == "FAILED":
            shown = f"{name}:{version.version}" if version.version else name
            raise RegistrationFailedError(f"{shown} could not be started: {version.reason or 'the server gives no reason'}")
    return all(version.status != "PENDING" for version in versions)


def still_pending(name: str, timeout_s: float) -> TimedOutError:
    """The error for what does not get ready."""
    return TimedOutError(f"{name} is still pending after {timeout_s:g} s")
