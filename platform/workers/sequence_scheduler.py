"""The scheduler of a model whose requests come in sequences: every sequence stays with the worker that keeps its state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flowyard.platform.workers.groups import Group, Worker
from flowyard.platform.workers.instructions import Answer, Instruction
from flowyard.platform.workers.jobs import Job
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.scheduler import Scheduler
from flowyard.platform.workers.sequences import SequenceLimits, Sequences
from flowyard.schemas.errors import DeadlineError


class SequenceScheduler(Scheduler):
    """What `scheduler.py` promises holds, but nothing is tried again: the state that it needs is gone with the worker.

    The jobs of a sequence go to one worker, in order, at most one of them in a batch. Where batches are filled, one goes out as
    soon as every sequence that its worker keeps is in it: nobody else would join. None is sent ahead of time. Where requests are
    computed side by side, those of one sequence are, too: the worker sees to it that the one before has had its first step.

    Args:
        policy: How the model is served.
        limits: How long sequences live, and how many there may be.
        groups: The worker groups.
        worker_ids: Numbers workers.
    """

    def __init__(self, policy: Policy, limits: SequenceLimits, groups: Iterable[Group], worker_ids: Iterator[int]) -> None:
        super().__init__(policy, groups, worker_ids)
        self._queue = self._sequences = Sequences(policy.name, limits, side_by_side=policy.concurrency > 1)

    def submit(self, jobs: Sequence[Job], now: float) -> list[Instruction]:
        """Requests came in, at the same instant: they may go out as one batch."""
        out = self._lose(now)
        admitted: list[Job] = []
        for job in jobs:
            refusal = self._sequences.admit(job, now)
            if refusal is None:
                admitted.append(job)
            else:
                job.submitted = now
                out.append(self._answer(job, refusal))
        return out + super().submit(admitted, now)

    def cancel(self, job: Job, now: float) -> list[Instruction]:
        """Nobody waits for this job any more. Its answer is a `ShutDownError` that nobody reads."""
        self._sequences.close_rested(now)
        return super().cancel(job, now)

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed."""
        self._sequences.close_rested(now)
        return super().tick(now)

    def batch_done(self, worker_id: int, batch: int, outcomes: Sequence[Any], now: float) -> list[Instruction]:
        """A worker has computed a batch; one outcome per job, in order."""
        jobs = self.computing(worker_id, batch)
        if len(jobs) == len(outcomes):
            for job in jobs:
                self._sequences.computed(job, now)
        return super().batch_done(worker_id, batch, outcomes, now)

    def step_done(self, worker_id: int, ended: Sequence[str], now: float) -> list[Instruction]:
        """A worker goes on with another step; the jobs that wait for a sequence that is over are told so."""
        out = super().step_done(worker_id, ended, now)
        if ended:
            out += [self._answer(job, error) for job, error in self._sequences.end(worker_id, ended)]
            out += self._advance_queue(now)
        return out

    def keeps(self, sequence: str) -> bool:
        """Whether a sequence is open, or its state went so short a time ago that its requests are refused."""
        return self._sequences.knows(sequence)

    def _advance_all(self, now: float) -> list[Instruction]:
        out = super()._advance_all(now)
        # Workers may just have been told to go.
        lost = self._lose(now)
        return out + lost + super()._advance_all(now) if lost else out

    def _dispatch(self, now: float) -> list[Instruction]:
        out = self._lose(now)
        if self._sequences.has_unkept:
            self._sequences.keep(worker.id for worker in self.workers if worker.state != "starting" and _stays(worker))
        for worker in list(self._with_room):
            while worker.has_room and self._is_due(worker.id, now):
                jobs, expired = self._take(worker.id, now)
                out += expired
                if jobs:
                    out.append(self._send(worker, jobs, now))
        return out

    def _lose(self, now: float) -> list[Instruction]:
        """Answers the jobs of sequences whose worker is gone, or on its way out."""
        out: list[Instruction] = []
        for keeper in self._sequences.keepers:
            worker = self._workers.get(keeper)
            if worker is None or not _stays(worker):
                out += [self._answer(job, error) for job, error in self._sequences.lose(keeper, now)]
        return out

    def _is_due(self, worker: int, now: float) -> bool:
        head = next(self._sequences.ready_for(worker), None)
        if head is None:
            return False
        full = min(self.policy.batch_size, self._sequences.kept_by(worker))
        if not self.policy.fill or self.phase == "draining" or self._sequences.ready_count(worker) >= full:
            return True
        due = head.submitted + self.policy.batch_delay_s
        if due > now:
            self._wake(due)
        return due <= now

    def _take(self, worker: int, now: float) -> tuple[tuple[Job, ...], list[Answer]]:
        """Takes the next job of each sequence, as many as have room for their rows."""
        jobs: list[Job] = []
        expired: list[Answer] = []
        room = self.policy.batch_size
        for job in self._sequences.ready_for(worker):
            if job.deadline <= now:
                expired.append(self._answer(job, DeadlineError(f"Deadline exceeded in the queue: {self.policy.name}")))
                continue
            if room <= 0 or (jobs and job.rows > room):
                break
            self._sequences.compute(job)
            room -= job.rows
            jobs.append(job)
        return tuple(jobs), expired

    def _scale_down(self, now: float) -> list[Instruction]:
        self._sequences.close_rested(now)
        for worker in self._with_room:
            if self._sequences.kept_by(worker.id):
                # It is not idle: its sequences may go on.
                worker.since = now
        return super()._scale_down(now)

    def _return_jobs(self, worker: Worker, reason: str) -> list[Instruction]:
        computed = [job for batch in worker.running.values() for job in batch.jobs if not job.answered]
        return [self._answer(job, self._died(reason)) for job in computed]


def _stays(worker: Worker) -> bool:
    return not (worker.retiring or worker.killed)
