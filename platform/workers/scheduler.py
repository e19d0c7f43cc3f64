"""The state of one model's queue and its worker groups: events in, instructions out.

There is no event loop, no socket and no clock in here. Every method takes what happened and the time it happened at (`now`,
monotonic seconds), changes the state and returns what is to be done about it. `pool.py` does it.

What holds after every event:
- every job that was submitted gets exactly one `Answer`, now or after a later event;
- a worker with room and a queued job do not stand side by side, unless the model batches by `fill` and the batch is not due;
- a full batch may be sent to a busy worker ahead of time, so that its transfer overlaps the computation, but only while batches
  take a few milliseconds at most;
- a job whose worker died is tried once more, alone, so that whoever killed the worker does not take its batch-mates along;
- at most `job_queue_size` jobs wait;
- a worker computes at most `concurrency` batches at a time; each is answered when it is done. One that is overdue is abandoned
  first, and its worker killed only where that does not help; then nothing is held against the others that it computed;
- an order (a call that changes what a worker answers, made by `spread`) is carried out once by every worker that is there, before
  it takes another request, and by every worker that starts later before it takes its first one, in the order they were made.

A job's way: queued -> running -> answered; cancellation and the deadline answer it from either state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from flowyard.platform.workers.batching import DURATION_WEIGHT, FIRST_DURATION_S, QUICK_S, due_at, most_rows
from flowyard.platform.workers.fleet import Fleet
from flowyard.platform.workers.groups import Batch, Group, Worker
from flowyard.platform.workers.instructions import (
    Abandon,
    Answer,
    Closed,
    Configure,
    Dispatch,
    Instruction,
    Retire,
    Started,
    StartFailed,
)
from flowyard.platform.workers.jobs import FOREVER, Job, JobQueue
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.restarts import is_crash_looping, is_start_failing, note_success
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import (
    DeadlineError,
    FlowyardError,
    NotReadyError,
    QueueFullError,
    ShutDownError,
    WorkerDiedError,
)

#: Time that a worker has for ending a batch that is overdue, where it computes others that should not end with it.
ABANDONED_S = 5.0
Phase: TypeAlias = Literal["starting", "serving", "draining", "closed"]


class Scheduler:
    """The state machine. See the module's text for what it promises.

    Attributes:
        wake_at: Call `tick` no later than this, monotonic seconds; may be earlier than anything is due.
    """

    def __init__(self, policy: Policy, groups: Iterable[Group], worker_ids: Iterator[int]) -> None:
        self.policy = policy
        self.phase: Phase = "starting"
        self.wake_at = FOREVER
        self._batch_ids = itertools.count(1)
        self._queue: JobQueue = JobQueue()
        self._waiting_ahead = 0
        self._duration_s = FIRST_DURATION_S
        self._live: dict[Job, None] = {}
        self._orders: dict[str, Any] = {}
        self._fleet = Fleet(groups, worker_ids, self._wake)
        #: The fleet's own, at hand: every request asks for them.
        self._workers, self._with_room = self._fleet.workers, self._fleet.with_room
        self._drain_until = FOREVER
        self._refused: Callable[[], FlowyardError] | None = None

    # ---- what happened ----

    def start(self, now: float) -> list[Instruction]:
        """The model is to be brought up."""
        out = self._keep_minimum(now) + self._check_started()
        self._recount()
        return out

    def submit(self, jobs: Sequence[Job], now: float) -> list[Instruction]:
        """Requests came in, at the same instant: they may go out as one batch."""
        out: list[Instruction] = []
        queue, batch_size, client_timeout_s = self._queue, self.policy.batch_size, self.policy.client_timeout_s
        earliest = self.wake_at
        for job in jobs:
            job.submitted = now
            if self._refused is not None or self._is_full:
                out.append(self._answer(job, self._refused() if self._refused is not None else self._full()))
                continue
            if client_timeout_s and job.deadline > now + client_timeout_s:
                job.deadline = now + client_timeout_s
            self._live[job] = None
            queue.add(job)
            if job.deadline < earliest:
                self.wake_at = earliest = job.deadline
            if queue.waiting >= batch_size and self._with_room:
                out += self._advance_queue(now)
                earliest = self.wake_at
        return out + self._advance_queue(now)

    def cancel(self, job: Job, now: float) -> list[Instruction]:
        """Nobody waits for this job any more. Its answer is a `ShutDownError` that nobody reads."""
        if job.answered:
            return []
        out: list[Instruction] = [*self._abandon(job), self._answer(job, ShutDownError("cancelled"))]
        self._queue.sweep()
        return out + self._advance_queue(now)

    def worker_ready(self, worker_id: int, now: float) -> list[Instruction]:
        """A worker has loaded the model."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.state != "starting" or worker.loaded:
            return []
        worker.loaded = True
        worker.orders.extend(self._orders.values())
        return self._begin_serving(worker, now)

    def worker_failed(self, worker_id: int, error: FlowyardError, now: float) -> list[Instruction]:
        """A worker could not load the model and has ended."""
        worker = self._fleet.forget(worker_id)
        if worker is None:
            return []
        if self.phase == "starting":
            return self._start_failed(error)
        self._fleet.note_failure(worker, now)
        return self._advance(now)

    def worker_died(self, worker_id: int, reason: str, now: float) -> list[Instruction]:
        """A worker process ended, asked to or not. `reason` is for messages: `killed by signal 9`."""
        worker = self._fleet.forget(worker_id)
        if worker is None:
            return []
        if self.phase == "starting":
            return self._start_died(reason)
        out = self._return_jobs(worker, reason)
        if not worker.retiring:
            self._fleet.note_failure(worker, now)
        return out + self._advance(now)

    def spread(self, key: str, order: Any, standing: Any, now: float, done_by: int = 0) -> list[Instruction]:
        """Every worker is to make a call.

        Args:
            key: What the call is about; a later call about the same replaces it for workers to come.
            order: The call for the workers that are there.
            standing: The call for workers that start later, `None` for none.
            now: The time.
            done_by: The worker that has made the call already.
        """
        self._orders.pop(key, None)
        if standing is not None:
            self._orders[key] = standing
        out: list[Instruction] = []
        for worker in self._workers.values():
            if worker.id == done_by or not worker.loaded or worker.retiring or worker.killed:
                continue
            worker.orders.append(order)
            self._fleet.withhold(worker)
            if worker.state == "idle":
                out.append(self._configure(worker, now))
        return out

    def configured(self, worker_id: int, batch: int, now: float) -> list[Instruction]:
        """A worker has made a call that every worker has to make."""
        worker = self._configuring(worker_id, batch)
        if worker is None:
            return []
        if worker.state == "starting":
            return self._begin_serving(worker, now)
        out = self._set_idle(worker, now)
        return out + (self._advance(now) if worker.retiring else self._advance_queue(now))

    def configuring_failed(self, worker_id: int, batch: int, error: FlowyardError, now: float) -> list[Instruction]:
        """A worker could not make that call: it is ended, for it would answer otherwise than the others."""
        worker = self._configuring(worker_id, batch)
        if worker is None:
            return []
        kill = self._fleet.kill(worker, f"it cannot be brought to what the others are: {error}")
        if worker.state == "starting":
            return [kill, *self.worker_failed(worker_id, error, now)]
        return [kill]

    def batch_done(self, worker_id: int, batch: int, outcomes: Sequence[Any], now: float) -> list[Instruction]:
        """A worker has computed a batch; one outcome per job, in order."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.state != "busy" or (done := worker.running.pop(batch, None)) is None:
            return []
        if len(outcomes) != len(done.jobs):
            worker.running[batch] = done
            worker.culprit = batch
            return [self._fleet.kill(worker, f"it answered {len(outcomes)} of {len(done.jobs)} requests")]
        out: list[Instruction] = []
        for job, outcome in zip(done.jobs, outcomes, strict=True):
            if not job.answered:
                out.append(self._answer(job, outcome))
        group = self._fleet.groups[worker.device]
        if group.failures:
            note_success(group, worker)
        self._duration_s += DURATION_WEIGHT * (now - done.since - self._duration_s)
        # The next batch goes out before the answers are written: the worker computes meanwhile.
        if worker.ahead is not None:
            self._begin_ahead(worker, now)
            return self._advance_queue(now) + out
        if worker.running:
            self._offer_rest(worker)
            return self._advance_queue(now) + out
        if worker.retiring:
            return self._set_idle(worker, now) + self._advance(now) + out
        return self._set_idle(worker, now) + self._advance_queue(now) + out

    def chunk(self, worker_id: int, batch: int, place: int, now: float) -> Job | None:
        """A piece of a job's result has come.

        Returns:
            The job, `None` when nobody waits for the piece any more.
        """
        worker = self._workers.get(worker_id)
        computed = worker.running.get(batch) if worker is not None else None
        if computed is None or not 0 <= place < len(computed.jobs):
            return None
        if not computed.abandoned:
            computed.due = now + self.policy.timeout_s
        job = computed.jobs[place]
        job.streamed = True
        return None if job.answered else job

    def step_done(self, worker_id: int, ended: Sequence[str], now: float) -> list[Instruction]:
        """A worker goes on with another step of all that it computes side by side; `ended` are sequences that are over."""
        worker = self._workers.get(worker_id)
        for batch in worker.running.values() if worker is not None else ():
            if not batch.abandoned:
                batch.due = now + self.policy.timeout_s
        return []

    def scale(self, min_workers: int, max_workers: int, now: float, device: Device | None = None) -> list[Instruction]:
        """The number of workers is to change, on one device (a new group if need be) or on each."""
        self._fleet.set_numbers(min_workers, max_workers, now, device)
        return self._advance(now)

    def end_leaving(self, reason: str) -> list[Instruction]:
        """Workers that are to end after what they have get no more time for it."""
        return self._fleet.end_leaving(reason)

    def drain(self, until: float, now: float) -> list[Instruction]:
        """The model is going away: finish what was accepted, by `until` at the latest."""
        if self.phase == "closed":
            return []
        self.phase = "draining"
        self._drain_until = until
        self._wake(until)
        return self._advance(now)

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed."""
        self.wake_at = FOREVER
        out = self._expire(now)
        for worker in self._workers.values():
            for batch in worker.running.values():
                if batch.due <= now:
                    out += self._end_overdue(worker, batch, now)
                self._wake(batch.due)
        if self.phase == "draining":
            if now >= self._drain_until:
                return out + self._close()
            self._wake(self._drain_until)
        return out + self._advance(now)

    # ---- what is the case ----

    @property
    def groups(self) -> Mapping[Device, Group]:
        """The worker groups by device."""
        return self._fleet.groups

    def computing(self, worker_id: int, batch: int) -> tuple[Job, ...]:
        """The jobs of a batch that a worker computes now, none when it does not."""
        worker = self._workers.get(worker_id)
        computed = worker.running.get(batch) if worker is not None else None
        return computed.jobs if computed is not None else ()

    @property
    def queue_length(self) -> int:
        """Jobs that wait: in the queue, or with a worker that is busy with another batch."""
        return self._queue.waiting + self._waiting_ahead

    def keeps(self, sequence: str) -> bool:
        """Whether the requests of a sequence have to come here; never where requests come in none."""
        return False

    @property
    def workers(self) -> Iterable[Worker]:
        """All workers, also those that are starting or on their way out."""
        return self._workers.values()

    @property
    def crash_looping(self) -> bool:
        """Whether workers keep failing and none is there."""
        return is_crash_looping(self.groups.values())

    @property
    def start_failing(self) -> bool:
        """Whether a group lacks workers that it should have, and they cannot be started."""
        return is_start_failing(self.groups.values())

    def _refusal(self) -> Callable[[], FlowyardError] | None:
        """Why requests are refused, whatever the length of the queue."""
        if self.phase in ("draining", "closed") or all(group.max == 0 for group in self.groups.values()):
            return self._shut_down
        return self._not_ready if self.crash_looping else None

    @property
    def _is_full(self) -> bool:
        """Whether nothing more may wait."""
        waiting = self._queue.waiting
        if waiting + self._waiting_ahead >= self.policy.queue_size:
            return True
        return self.policy.needs_idle and len(self._with_room) <= waiting

    def _shut_down(self) -> FlowyardError:
        return ShutDownError(f"All model workers has been shutdown: {self.policy.name}")

    def _full(self) -> FlowyardError:
        return QueueFullError(f"Worker queue capacity exceeded for model: {self.policy.name}")

    def _not_ready(self) -> FlowyardError:
        return NotReadyError(f"Model is not ready: {self.policy.name}")

    # ---- the queue ----

    def _answer(self, job: Job, outcome: Any) -> Answer:
        job.answered = True
        self._queue.withdraw(job)
        self._live.pop(job, None)
        return Answer(job, outcome)

    def _answer_all(self, error: FlowyardError) -> list[Instruction]:
        out: list[Instruction] = [self._answer(job, error) for job in list(self._live)]
        self._queue.clear()
        return out

    def _expire(self, now: float) -> list[Instruction]:
        """Answers the jobs that are past their deadline and finds the next one."""
        out: list[Instruction] = []
        earliest = FOREVER
        for job in list(self._live):
            if job.deadline <= now:
                waited = "in the queue" if job.queued else "in computation"
                out += self._abandon(job)
                out.append(self._answer(job, DeadlineError(f"Deadline exceeded {waited}: {self.policy.name}")))
            elif job.deadline < earliest:
                earliest = job.deadline
        self._wake(earliest)
        return out

    def _end_overdue(self, worker: Worker, batch: Batch, now: float) -> list[Instruction]:
        """Ends a batch that computes for too long, and its worker where it computes nothing else or does not let go of it."""
        out: list[Instruction] = []
        has_company = self.policy.concurrency > 1
        reason = f"no answer within {self.policy.timeout_s:g} s"
        if self.policy.timeout_error or has_company:
            # They are not to be tried again.
            late = [job for job in batch.jobs if not job.answered]
            out += [self._answer(job, WorkerDiedError(self.policy.timeout_error or reason)) for job in late]
        if has_company and not batch.abandoned and not worker.killed:
            batch.abandoned = True
            batch.due = now + ABANDONED_S
            return out + [Abandon(worker.id, batch.id, place) for place in range(len(batch.jobs))]
        batch.due = FOREVER
        worker.culprit = worker.culprit or batch.id
        return [*out, self._fleet.kill(worker, reason)]

    def _abandon(self, job: Job) -> list[Instruction]:
        """Tells the worker that computes a job beside others that nobody waits for it; one that computes it alone may end it."""
        worker = self._workers.get(job.worker)
        if worker is None or self.policy.concurrency == 1:
            return []
        return [Abandon(worker.id, batch.id, batch.jobs.index(job)) for batch in worker.running.values() if job in batch.jobs]

    def _batch_is_due(self, head: Job, now: float) -> bool:
        if not self.policy.fill or self.phase == "draining":
            return True
        due = due_at(self.policy, head, self._queue.waiting)
        if due <= now:
            return True
        self._wake(due)
        return False

    def _take_batch(self, now: float, *, may_retry: bool = True) -> tuple[tuple[Job, ...], list[Instruction]]:
        """Takes the next jobs off the queue, as many as have room for their rows; one that has cost a worker alone, if at all."""
        jobs: list[Job] = []
        expired: list[Instruction] = []
        room = most_rows(self.policy, self._queue.waiting, len(self._with_room), self._duration_s)
        while room > 0 and (job := self._queue.head()) is not None:
            if job.deadline <= now:
                expired.append(self._answer(job, DeadlineError(f"Deadline exceeded in the queue: {self.policy.name}")))
                continue
            if (jobs and (job.deaths or job.rows > room)) or (job.deaths and not may_retry):
                break
            self._queue.pop(job)
            room -= job.rows
            jobs.append(job)
            if job.deaths:
                break
        return tuple(jobs), expired

    # ---- the workers ----

    def _advance_queue(self, now: float) -> list[Instruction]:
        """Brings queue and workers together after an event that leaves the set of workers as it was; every request comes by."""
        if self.phase != "serving":
            return self._advance(now)
        out = self._dispatch(now)
        if self._queue.waiting:
            if self._fleet.has_space:
                out += self._scale_up(now)
        elif self._fleet.has_surplus and self._with_room:
            self._wake(now + self.policy.idle_s)
        return out

    def _advance(self, now: float) -> list[Instruction]:
        """Brings queue and workers together, and sees to the number of workers."""
        out = self._advance_all(now)
        self._recount()
        return out

    def _recount(self) -> None:
        """Works out, after the set of workers has changed, what requests would otherwise ask each time."""
        self._fleet.recount()
        self._refused = self._refusal()

    def _advance_all(self, now: float) -> list[Instruction]:
        out = self._dispatch(now)
        if self.phase == "closed":
            return out
        out += self._keep_minimum(now)
        if self.phase == "serving":
            out += self._scale_up(now) + self._scale_down(now) + self._give_up()
        elif self.phase == "draining" and not self._live:
            out += self._close()
        elif self.phase == "draining":
            out += self._give_up()
        return out

    def _dispatch(self, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        while (
            self._with_room
            and (head := self._queue.head()) is not None
            and self._batch_is_due(head, now)
            and (worker := self._worker_for(head)) is not None
        ):
            jobs, expired = self._take_batch(now, may_retry=not worker.running)
            out += expired
            if jobs:
                out.append(self._send(worker, jobs, now))
        if self._queue.waiting >= self.policy.batch_size and not self._with_room and self.phase == "serving":
            self._dispatch_ahead(now, out)
        return out

    def _worker_for(self, job: Job) -> Worker | None:
        """The worker that gets the next batch, which begins with this job; `None` where it has to wait."""
        if self.policy.concurrency == 1:
            # The worker that became idle last is the warmest; the others get the chance to be retired.
            return self._with_room[-1] if self._with_room else None
        candidates = [worker for worker in self._with_room if not worker.running] if job.deaths else self._with_room
        return min(candidates, key=lambda worker: len(worker.running), default=None)

    def _dispatch_ahead(self, now: float, out: list[Instruction]) -> None:
        """Sends full batches to busy workers, one each: they gain nothing by waiting here."""
        if self._duration_s > QUICK_S or self.policy.concurrency > 1:
            return
        for worker in self._workers.values():
            if self._queue.waiting < self.policy.batch_size:
                return
            if worker.state != "busy" or worker.ahead is not None or worker.retiring or worker.killed or worker.orders:
                continue
            if any(batch.retries for batch in worker.running.values()) or self._queue.retries:
                continue
            jobs, expired = self._take_batch(now)
            out += expired
            if jobs:
                worker.ahead = (next(self._batch_ids), jobs)
                self._waiting_ahead += len(jobs)
                out.append(Dispatch(worker.id, worker.ahead[0], jobs))

    def _begin_ahead(self, worker: Worker, now: float) -> None:
        """A worker goes on with the batch that it was sent ahead of time."""
        assert worker.ahead is not None
        batch, jobs = worker.ahead
        worker.ahead = None
        self._waiting_ahead -= len(jobs)
        self._compute(worker, batch, jobs, now)

    def _send(self, worker: Worker, jobs: tuple[Job, ...], now: float) -> Dispatch:
        batch = next(self._batch_ids)
        self._compute(worker, batch, jobs, now)
        # One that has cost a worker is computed alone.
        if len(worker.running) >= self.policy.concurrency or jobs[0].deaths:
            self._fleet.withhold(worker)
        return Dispatch(worker.id, batch, jobs)

    def _compute(self, worker: Worker, batch: int, jobs: tuple[Job, ...], now: float) -> None:
        worker.state = "busy"
        worker.since = now
        self._begin(worker, batch, jobs, now)
        for job in jobs:
            job.dispatched = now
            job.worker = worker.id

    def _begin(self, worker: Worker, batch: int, jobs: tuple[Job, ...], now: float) -> None:
        due = now + self.policy.timeout_s
        worker.running[batch] = Batch(batch, jobs, now, due)
        self._wake(due)

    def _set_idle(self, worker: Worker, now: float) -> list[Instruction]:
        worker.state = "idle"
        worker.since = now
        worker.running.clear()
        if worker.retiring:
            self._fleet.forget(worker.id)
            return [Retire(worker.id)]
        if worker.orders:
            return [self._configure(worker, now)]
        if not worker.killed:
            self._fleet.offer(worker)
        return []

    def _offer_rest(self, worker: Worker) -> None:
        """A worker has ended one of its batches, and may be sent another beside the others unless it is to do something else."""
        if not (worker.retiring or worker.killed or worker.orders):
            self._fleet.offer(worker)

    def _begin_serving(self, worker: Worker, now: float) -> list[Instruction]:
        """Takes a worker into service once it has made the calls that came before it."""
        if worker.orders:
            return [self._configure(worker, now)]
        worker.ready_at = now
        out = self._set_idle(worker, now)
        return out + self._check_started() + self._advance(now)

    def _configure(self, worker: Worker, now: float) -> Configure:
        """Has a worker make the next call that it has to make; one that starts is still starting meanwhile."""
        if worker.state != "starting":
            worker.state = "configuring"
        worker.since = now
        batch = next(self._batch_ids)
        self._begin(worker, batch, (), now)
        return Configure(worker.id, batch, worker.orders.popleft())

    def _configuring(self, worker_id: int, batch: int) -> Worker | None:
        """The worker that makes such a call in this batch."""
        worker = self._workers.get(worker_id)
        if worker is None or batch not in worker.running or worker.killed or worker.state not in ("starting", "configuring"):
            return None
        return worker

    def _drop_ahead(self, worker: Worker) -> None:
        if worker.ahead is not None:
            self._waiting_ahead -= len(worker.ahead[1])
            worker.ahead = None

    def _keep_minimum(self, now: float) -> list[Instruction]:
        """Starts what is missing and ends what is too much in each group."""
        return self._fleet.keep(self._least, now)

    def _least(self, group: Group) -> int:
        """How many workers a group has at least; once the model goes away, no more than it has use for."""
        return group.min if self.phase in ("starting", "serving") else min(group.min, 1, self._queue.waiting)

    def _scale_up(self, now: float) -> list[Instruction]:
        """One more worker when jobs wait too long and none is on its way."""
        head = self._queue.head()
        if head is None or self._worker_for(head):
            return []
        return self._fleet.grow(head.submitted, now)

    def _scale_down(self, now: float) -> list[Instruction]:
        """Retires surplus workers that have been idle for long enough."""
        return self._fleet.shrink(self.policy.idle_s, now)

    # ---- failure ----

    def _check_started(self) -> list[Instruction]:
        if self.phase != "starting" or any(worker.state == "starting" for worker in self._workers.values()):
            return []
        if any(group.staying() < group.min for group in self.groups.values()):
            return []
        self.phase = "serving"
        return [Started()]

    def _start_died(self, reason: str) -> list[Instruction]:
        return self._start_failed(WorkerDiedError(f"The worker of model {self.policy.name} ended while loading: {reason}"))

    def _start_failed(self, error: FlowyardError) -> list[Instruction]:
        return [*self._end(error), StartFailed(error)]

    def _end(self, error: FlowyardError) -> list[Instruction]:
        """Answers everything and ends all workers; nothing is accepted any more."""
        self.phase = "closed"
        self._refused = self._shut_down
        out = self._answer_all(error)
        for worker in self._workers.values():
            self._drop_ahead(worker)
        return out + self._fleet.end_all()

    def _return_jobs(self, worker: Worker, reason: str) -> list[Instruction]:
        """Queues a dead worker's jobs again, first in line; those that have killed two workers are answered."""
        out: list[Instruction] = []
        if worker.ahead is not None:
            # These were not being computed: nothing is held against them.
            for job in reversed(worker.ahead[1]):
                if not job.answered:
                    self._queue.add_first(job)
            self._drop_ahead(worker)
        for batch in reversed(worker.running.values()):
            for job in reversed(batch.jobs):
                if job.answered:
                    continue
                # Where it is known which batch has cost the worker, nothing is held against the others.
                job.deaths += worker.culprit in (0, batch.id)
                if job.deaths > 1 or job.streamed:
                    out.append(self._answer(job, self._died(reason)))
                else:
                    self._queue.add_first(job)
        return out

    def _give_up(self) -> list[Instruction]:
        """Answers the queue when nobody will come to compute it."""
        if not self._queue.waiting:
            return []
        waiting = [job for job in self._live if job.queued]
        if all(group.max == 0 for group in self.groups.values()) and not self._workers:
            error = self._shut_down
        elif self.crash_looping:
            error = self._not_ready
        else:
            return []
        # One whose worker has died is told so, not that there is none now.
        return [self._answer(job, self._died() if job.deaths else error()) for job in waiting]

    def _died(self, reason: str = "") -> FlowyardError:
        told = f"Worker died computing this request{f' ({reason})' if reason else ''}"
        return WorkerDiedError(self.policy.died_error or told)

    def _close(self) -> list[Instruction]:
        return [*self._end(self._shut_down()), Closed()]

    def _wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)
