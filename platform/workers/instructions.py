"""What the scheduler asks the pool to do."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from flowyard.platform.workers.jobs import Job
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError


class Dispatch(msgspec.Struct, frozen=True, gc=False):
    """Send this batch to this worker."""

    worker: int
    batch: int
    jobs: tuple[Job, ...]


class Configure(msgspec.Struct, frozen=True):
    """Have this worker make a call that every worker has to make; `configured` or `configuring_failed` is expected to follow."""

    worker: int
    batch: int
    order: Any


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Give this job its one answer: a result (opaque) or a `FlowyardError`."""

    job: Job
    outcome: Any


class Abandon(msgspec.Struct, frozen=True, gc=False):
    """Tell this worker that nobody waits any more for this job, which it computes beside others; `batch_done` still follows."""

    worker: int
    batch: int
    place: int


class Spawn(msgspec.Struct, frozen=True):
    """Start a worker on this device."""

    worker: int
    device: Device


class Retire(msgspec.Struct, frozen=True):
    """End this idle worker in good order."""

    worker: int


class Kill(msgspec.Struct, frozen=True):
    """End this worker by force; `worker_died` is expected to follow."""

    worker: int
    reason: str


class Started(msgspec.Struct, frozen=True):
    """All workers that were asked for are ready."""


class StartFailed(msgspec.Struct, frozen=True):
    """The first workers could not be started; nothing is retried."""

    error: FlowyardError


class Closed(msgspec.Struct, frozen=True):
    """Everything is answered and every worker has been told to end."""


Instruction: TypeAlias = Dispatch | Configure | Answer | Abandon | Spawn | Retire | Kill | Started | StartFailed | Closed
