"""What becomes of a call that somebody wants to know all about."""

from __future__ import annotations

from flowyard.platform.workers.jobs import Job


class CallNote:
    """The times of one call, monotonic seconds, `None` for what has not happened.

    Attributes:
        submitted: When it was queued.
        dispatched: When its last batch was sent to a worker.
        received: When the batch's results were there.
        compute_s: How long the worker computed the batch.
        batch_size: Number of calls in the batch.
        worker: Number of the worker.
        device: The worker's device.
    """

    __slots__ = ("batch", "batch_size", "compute_s", "device", "dispatched", "received", "submitted", "worker")

    def __init__(self) -> None:
        self.submitted: float | None = None
        self.dispatched: float | None = None
        self.received: float | None = None
        self.compute_s = 0.0
        self.batch = 0
        self.batch_size = 0
        self.worker: int | None = None
        self.device = ""


class CallNotes:
    """The notes of one pool; empty, and then of no cost, unless somebody asks."""

    def __init__(self) -> None:
        self._of: dict[Job, CallNote] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def take(self, job: Job, note: CallNote, now: float) -> None:
        """A call has been queued."""
        note.submitted = now
        self._of[job] = note

    def drop(self, job: Job) -> None:
        """A call is answered or taken back."""
        self._of.pop(job, None)

    def dispatched(self, jobs: tuple[Job, ...], batch: int, worker: int, device: str, now: float) -> None:
        """A batch has been sent."""
        for job in jobs:
            note = self._of.get(job)
            if note is not None:
                note.dispatched, note.received = now, None
                note.batch, note.batch_size, note.worker, note.device = batch, len(jobs), worker, device

    def received(self, worker: int, batch: int, compute_s: float, now: float) -> None:
        """The results of a batch are there."""
        for note in self._of.values():
            if note.worker == worker and note.batch == batch:
                note.received, note.compute_s = now, compute_s
