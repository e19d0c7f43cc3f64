"""Sequences of requests: which are open, which worker keeps the state of each, and which of their jobs may be computed next.

There is no event loop and no clock in here, as in `scheduler.py`; `sequence_scheduler.py` asks. A sequence is opened by the first
request of its id, kept by one worker from then on, and closed once it rests for too long or a request ends it. When its worker is
gone so is its state: its requests are refused until the client says that it starts anew, or for as long as it might have rested
(TorchServe reference §6.1, 11).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from flowyard.platform.workers.jobs import FOREVER, Job, JobQueue, SequenceMark
from flowyard.schemas.errors import FlowyardError, QueueFullError, ShutDownError


class SequenceHeaders(msgspec.Struct, frozen=True):
    """Headers with which a request says which sequence it belongs to, and whether it is its first or last one.

    Attributes:
        id: Names the sequence.
        start: Is `true` for the first request.
        end: Is `true` for the last one.
    """

    id: str = "ts_request_sequence_id"
    start: str = "ts_request_sequence_start"
    end: str = "ts_request_sequence_end"


class SequenceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How long sequences live, and how many there may be. Times are in seconds.

    Attributes:
        idle_s: One that rests for so long is closed.
        timeout_s: One that was opened so long ago is closed once nothing of it waits; 0 for no such limit.
        most: Most that are open.
        queue_size: Most jobs of one that wait behind the one that is next or computed.
        headers: How requests say what they belong to.
    """

    idle_s: float
    timeout_s: float = 0.0
    most: int = 1
    queue_size: int = 1
    headers: SequenceHeaders = SequenceHeaders()


class Sequence:
    """An open sequence.

    Attributes:
        id: What its requests call it.
        expires_at: When it is closed at the next rest.
        jobs: Those that wait, in order.
        computing: Those that are computed: one, unless the worker computes requests side by side.
        ending: Whether the last request that came said that it is the last, and has been computed.
        worker: Who keeps its state, 0 for nobody yet.
        closes_at: When it has rested for too long.
    """

    __slots__ = ("closes_at", "computing", "ending", "expires_at", "id", "jobs", "worker")

    def __init__(self, sequence_id: str, expires_at: float) -> None:
        self.id = sequence_id
        self.expires_at = expires_at
        self.jobs: deque[Job] = deque()
        self.computing: set[Job] = set()
        self.ending = False
        self.worker = 0
        self.closes_at = FOREVER

    @property
    def rests(self) -> bool:
        """Whether none of its jobs waits or is computed."""
        return not self.jobs and not self.computing


class Sequences(JobQueue):
    """The queue of a model whose requests come in sequences: the jobs of each in order.

    Args:
        name: Name of the model, for messages.
        limits: Their limits.
        side_by_side: Whether the next job of a sequence may be computed beside the one before it, which has been sent first;
            else it waits for its end.
    """

    __slots__ = ("_kept", "_limits", "_lost", "_name", "_now", "_open", "_ready", "_resting", "_side_by_side", "_unkept")

    def __init__(self, name: str, limits: SequenceLimits, *, side_by_side: bool = False) -> None:
        super().__init__()
        self._name = name
        self._limits = limits
        self._side_by_side = side_by_side
        #: The time of the last event.
        self._now = 0.0
        self._open: dict[str, Sequence] = {}
        #: Those that rest, the longest first.
        self._resting: dict[str, Sequence] = {}
        #: Those that no worker keeps yet.
        self._unkept: dict[str, Sequence] = {}
        #: By worker: those that it keeps, and those of them whose next job may be computed.
        self._kept: dict[int, dict[str, Sequence]] = {}
        self._ready: dict[int, dict[str, Sequence]] = {}
        #: Until when the requests of those are refused whose state is gone, the oldest first.
        self._lost: dict[str, float] = {}

    # ---- jobs come and go ----

    def admit(self, job: Job, now: float) -> FlowyardError | None:
        """Takes a job into its sequence, which is opened if need be; it waits from `add` on.

        Returns:
            Why it is refused, `None` where it is not.
        """
        mark = _mark_of(job)
        self.close_rested(now)
        if mark.id in self._lost and not mark.starts:
            return self._is_lost(mark.id)
        sequence = self._open.get(mark.id)
        if sequence is None:
            if len(self._open) >= self._limits.most:
                self._close_all_rested(now)
            if len(self._open) >= self._limits.most:
                return QueueFullError(f"Sequence capacity exceeded for model: {self._name}")
            self._lost.pop(mark.id, None)
            sequence = self._opened(mark.id, now)
        elif len(sequence.jobs) + bool(sequence.computing) > self._limits.queue_size:
            return QueueFullError(f'Sequence "{mark.id:.50}": queue capacity exceeded for model: {self._name}')
        self._resting.pop(mark.id, None)
        sequence.ending = False
        sequence.jobs.append(job)
        return None

    def add(self, job: Job) -> None:
        """A job that has been admitted waits from now on."""
        job.queued = True
        self.waiting += 1
        self._make_ready(self._open[_mark_of(job).id])

    def withdraw(self, job: Job) -> None:
        """A job is answered, if it waits or has been admitted, without having been computed."""
        if job.queued:
            job.queued = False
            self.waiting -= 1
        sequence = self._open.get(job.sequence.id) if job.sequence is not None else None
        if sequence is None or job not in sequence.jobs:
            return
        sequence.jobs.remove(job)
        if not sequence.jobs or not sequence.jobs[0].queued:
            self._ready.get(sequence.worker, {}).pop(sequence.id, None)
        if not sequence.worker and not sequence.jobs:
            # None of its requests has got anywhere.
            self._close(sequence)
        elif sequence.rests:
            self._rest(sequence, self._now)

    def sweep(self) -> None:
        """Nothing that is withdrawn lies about."""

    def clear(self) -> None:
        """Forgets all jobs, and with them all sequences; the model is closed."""
        for each in (self._open, self._resting, self._unkept, self._kept, self._ready, self._lost):
            each.clear()

    def head(self) -> Job | None:
        """The job that waits for a worker to keep its sequence."""
        return next((sequence.jobs[0] for sequence in self._unkept.values() if sequence.jobs[0].queued), None)

    @property
    def retries(self) -> bool:
        """None is tried again: the state that it needs is gone with the worker."""
        return False

    def __len__(self) -> int:
        """Number of jobs that wait."""
        return self.waiting

    def knows(self, sequence_id: str) -> bool:
        """Whether a sequence is open, or its state went a short time ago."""
        return sequence_id in self._open or sequence_id in self._lost

    # ---- workers ----

    def keep(self, workers: Iterable[int]) -> None:
        """Gives the sequences that no worker keeps to those that keep the fewest."""
        candidates = list(workers)
        if not candidates:
            return
        for sequence in self._unkept.values():
            worker = min(candidates, key=self.kept_by)
            sequence.worker = worker
            self._kept.setdefault(worker, {})[sequence.id] = sequence
            self._make_ready(sequence)
        self._unkept.clear()

    @property
    def has_unkept(self) -> bool:
        """Whether there is a sequence that no worker keeps."""
        return bool(self._unkept)

    @property
    def keepers(self) -> list[int]:
        """The workers that keep sequences."""
        return list(self._kept)

    def kept_by(self, worker: int) -> int:
        """How many sequences a worker keeps."""
        return len(self._kept.get(worker, ()))

    def ready_for(self, worker: int) -> Iterator[Job]:
        """The jobs that a worker may compute next, one of each sequence; the first waits for its turn the longest."""
        return (sequence.jobs[0] for sequence in list(self._ready.get(worker, {}).values()))

    def ready_count(self, worker: int) -> int:
        """How many these are."""
        return len(self._ready.get(worker, ()))

    def compute(self, job: Job) -> None:
        """A job that is ready is computed."""
        sequence = self._open[_mark_of(job).id]
        sequence.jobs.popleft()
        sequence.computing.add(job)
        del self._ready[sequence.worker][sequence.id]
        job.queued = False
        self.waiting -= 1
        # Behind the others, whose turn it is now.
        self._make_ready(sequence)

    def computed(self, job: Job, now: float) -> None:
        """A worker has computed a job: the next one is ready, or the sequence rests or ends."""
        mark = _mark_of(job)
        sequence = self._open.get(mark.id)
        if sequence is None or job not in sequence.computing:
            return
        sequence.computing.discard(job)
        sequence.ending = sequence.ending or (mark.ends and not sequence.jobs)
        if not sequence.rests:
            self._make_ready(sequence)
        elif sequence.ending:
            self._close(sequence)
        else:
            self._rest(sequence, now)

    def end(self, worker: int, sequence_ids: Iterable[str]) -> list[tuple[Job, FlowyardError]]:
        """A handler has said that sequences are over; those that its worker does not keep are passed over.

        Returns:
            The jobs of them that waited, and what they are to be told.
        """
        waiting: list[tuple[Job, FlowyardError]] = []
        for sequence_id in sequence_ids:
            sequence = self._kept.get(worker, {}).get(sequence_id)
            if sequence is not None:
                self._close(sequence)
                waiting += [(job, self._has_ended(sequence_id)) for job in sequence.jobs]
        return waiting

    def lose(self, worker: int, now: float) -> list[tuple[Job, FlowyardError]]:
        """A worker is gone, and with it the state that it kept.

        Returns:
            The jobs that waited for it, and what they are to be told.
        """
        self._close_all_rested(now)
        waiting: list[tuple[Job, FlowyardError]] = []
        for sequence in list(self._kept.get(worker, {}).values()):
            self._close(sequence)
            self._lost[sequence.id] = now + self._limits.idle_s
            waiting += [(job, self._is_lost(sequence.id)) for job in sequence.jobs]
        while len(self._lost) > self._limits.most:
            del self._lost[next(iter(self._lost))]
        return waiting

    def close_rested(self, now: float) -> None:
        """Closes those that have rested for too long, and forgets those whose state went long ago."""
        self._now = now
        while self._resting and (sequence := next(iter(self._resting.values()))).closes_at <= now:
            self._close(sequence)
        while self._lost and self._lost[lost := next(iter(self._lost))] <= now:
            del self._lost[lost]

    # ---- one sequence ----

    def _close_all_rested(self, now: float) -> None:
        """Also those that have expired behind others that rest for longer."""
        for sequence in [one for one in self._resting.values() if one.closes_at <= now]:
            self._close(sequence)

    def _opened(self, sequence_id: str, now: float) -> Sequence:
        expires_at = now + self._limits.timeout_s if self._limits.timeout_s else FOREVER
        sequence = Sequence(sequence_id, expires_at)
        self._open[sequence_id] = self._unkept[sequence_id] = sequence
        return sequence

    def _make_ready(self, sequence: Sequence) -> None:
        may_begin = self._side_by_side or not sequence.computing
        if sequence.worker and may_begin and sequence.jobs and sequence.jobs[0].queued:
            self._ready.setdefault(sequence.worker, {}).setdefault(sequence.id, sequence)

    def _rest(self, sequence: Sequence, now: float) -> None:
        sequence.closes_at = min(now + self._limits.idle_s, max(now, sequence.expires_at))
        self._resting[sequence.id] = sequence

    def _close(self, sequence: Sequence) -> None:
        del self._open[sequence.id]
        self._resting.pop(sequence.id, None)
        self._unkept.pop(sequence.id, None)
        kept = self._kept.get(sequence.worker)
        if kept is not None:
            kept.pop(sequence.id, None)
            self._ready.get(sequence.worker, {}).pop(sequence.id, None)
            if not kept:
                del self._kept[sequence.worker]
                self._ready.pop(sequence.worker, None)

    def _has_ended(self, sequence_id: str) -> ShutDownError:
        return ShutDownError(f'Sequence "{sequence_id:.50}" is closed: its handler has ended it: {self._name}')

    def _is_lost(self, sequence_id: str) -> ShutDownError:
        return ShutDownError(f'Sequence "{sequence_id:.50}" is closed: its worker has ended, and its state with it: {self._name}')


def _mark_of(job: Job) -> SequenceMark:
    assert job.sequence is not None
    return job.sequence
