"""Workers and worker groups, in the scheduler's eyes."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, TypeAlias

import msgspec

from flowyard.platform.workers.jobs import Job
from flowyard.schemas.devices import Device

WorkerState: TypeAlias = Literal["starting", "idle", "busy", "configuring"]


class Batch(msgspec.Struct, gc=False, eq=False):
    """Jobs that a worker computes together; none where it makes a call that every worker has to make.

    Attributes:
        id: Its number.
        jobs: The jobs.
        since: When the worker began with it.
        due: When it counts as hung.
        abandoned: Whether the worker has been told that nobody waits for any of its jobs.
    """

    id: int
    jobs: tuple[Job, ...]
    since: float
    due: float
    abandoned: bool = False

    @property
    def retries(self) -> bool:
        """Whether one of its jobs has cost a worker."""
        return any(job.deaths for job in self.jobs)


class Worker:
    """One worker process, in the scheduler's eyes.

    Attributes:
        since: When it entered its state.
        running: The batches it computes, by number; several at a time where handlers are asynchronous.
        ahead: The batch it has been sent ahead of time, and its number.
        has_room: Whether it may be sent another batch.
        culprit: The batch that it is killed for, 0 for none.
        loaded: Whether it has loaded the model; one that is `starting` then makes the calls that came before it.
        orders: Calls that it has to make before it takes another request, in order.
        retiring: Whether it ends after what it has.
        killed: Whether it is being ended by force.
    """

    __slots__ = (
        "ahead",
        "culprit",
        "device",
        "has_room",
        "id",
        "killed",
        "loaded",
        "orders",
        "ready_at",
        "retiring",
        "running",
        "since",
        "state",
    )

    def __init__(self, worker_id: int, device: Device, now: float) -> None:
        self.id = worker_id
        self.device = device
        self.state: WorkerState = "starting"
        self.since = now
        self.ready_at = 0.0
        self.running: dict[int, Batch] = {}
        self.ahead: tuple[int, tuple[Job, ...]] | None = None
        self.has_room = False
        self.culprit = 0
        self.loaded = False
        self.orders: deque[Any] = deque()
        self.retiring = False
        self.killed = False


class Group:
    """The workers of the model on one device.

    Attributes:
        failures: Starts and workers that failed in a row, the last one at `failed_at`.
        retry_at: When the next worker may be started.
        lost: Workers that failed, all in all; each has another one started in its place.
    """

    __slots__ = ("device", "failed_at", "failures", "lost", "max", "min", "retry_at", "workers")

    def __init__(self, device: Device, min_workers: int, max_workers: int) -> None:
        self.device = device
        self.min = min_workers
        self.max = max_workers
        self.workers: dict[int, Worker] = {}
        self.failures = 0
        self.failed_at = 0.0
        self.retry_at = 0.0
        self.lost = 0

    def ready(self) -> int:
        """Number of workers that have loaded the model."""
        return sum(worker.state != "starting" for worker in self.workers.values())

    def staying(self) -> int:
        """Number of workers that are there or starting, without those on their way out."""
        return sum(not worker.retiring for worker in self.workers.values())
