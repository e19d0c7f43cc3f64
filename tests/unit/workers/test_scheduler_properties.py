"""The scheduler under any order of events: what it promises holds after every one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowyard.platform.workers.groups import Group
from flowyard.platform.workers.instructions import Abandon, Answer, Closed, Configure, Dispatch, Kill, Retire, Spawn, StartFailed
from flowyard.platform.workers.jobs import Job
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.scheduler import Scheduler
from flowyard.schemas.devices import CPU, Device
from flowyard.schemas.errors import InvalidModelError

EVENTS = st.tuples(
    st.sampled_from(
        [
            *["submit", "submit", "submit", "cancel", "ready", "fail", "die", "done", "done", "scale", "drain", "tick"],
            *["spread", "configured", "configured", "refuse"],
        ]
    ),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.001, 0.05, 0.3, 2.0, 70.0]),
)


class World:
    """Plays the processes: knows which workers exist and what they compute, and holds the promises against the scheduler."""

    def __init__(self, low: int, high: int, devices: int, batch_size: int, fill: bool, concurrency: int = 1) -> None:
        policy = Policy(
            name="m",
            batch_size=batch_size,
            concurrency=concurrency,
            fill=fill,
            batch_delay_s=0.1,
            queue_size=5,
            timeout_s=10,
            idle_s=1,
        )
        groups = [Group(device, low, high) for device in (CPU, Device("gpu", 0))[:devices]]
        self.scheduler = Scheduler(policy, groups, itertools.count(1))
        self.scheduler._duration_s = 0.0
        self.now = 0.0
        self.starting: list[int] = []
        self.idle: set[int] = set()
        self.busy: dict[int, list[Dispatch]] = {}
        self.dying: list[int] = []
        #: What every worker is being made to do, has been made to do, and what it should have been made to do.
        self.configuring: dict[int, Configure] = {}
        self.done_orders: dict[int, list[object]] = {}
        self.due_orders: dict[int, list[object]] = {}
        self.standing: dict[str, object] = {}
        self.orders = itertools.count(1)
        self.jobs: list[Job] = []
        self.abandoned: list[Job] = []
        self.outcomes: dict[Job, list[object]] = {}
        self.closed = False
        self.carry_out(self.scheduler.start(0))

    def carry_out(self, instructions: list[object]) -> None:
        policy = self.scheduler.policy
        for item in instructions:
            match item:
                case Spawn(worker):
                    assert not self.closed
                    self.starting.append(worker)
                case Dispatch(worker, _, jobs):
                    running = self.busy.get(worker, [])
                    assert worker in self.idle or 0 < len(running) < max(2, policy.concurrency)
                    assert 0 < len(jobs) <= self.scheduler.policy.batch_size
                    assert not any(self.outcomes[job] for job in jobs)
                    assert all(job.deadline > self.now for job in jobs)
                    assert len(jobs) == 1 or not any(job.deaths for job in jobs)
                    assert worker in self.idle or not jobs[0].deaths
                    if policy.concurrency == 1:
                        assert worker in self.idle or not self.idle
                    else:
                        assert not any(job.deaths for sent in running for job in sent.jobs)
                        others = [len(sent) for other, sent in self.busy.items() if self.has_room(other)]
                        # It may have been told in the same moment to retire afterwards.
                        assert len(running) <= min([0] if self.idle else [*others, len(running)])
                    assert self.done_orders[worker] == self.due_orders[worker]
                    self.idle.discard(worker)
                    self.busy.setdefault(worker, []).append(item)
                case Abandon(worker, batch, place):
                    assert policy.concurrency > 1
                    (sent,) = (sent for sent in self.busy[worker] if sent.batch == batch)
                    self.abandoned.append(sent.jobs[place])
                case Configure(worker):
                    assert worker not in self.busy
                    assert worker not in self.configuring
                    self.idle.discard(worker)
                    self.configuring[worker] = item
                case Answer(job, outcome):
                    self.outcomes[job].append(outcome)
                    assert len(self.outcomes[job]) == 1
                case Retire(worker):
                    assert worker in self.idle or worker not in self.busy
                    assert worker not in self.configuring
                    self.idle.discard(worker)
                case Kill(worker):
                    self.kill(worker)
                case StartFailed() | Closed():
                    self.closed = True
        # Who is told that nobody waits for a job is told the truth.
        assert all(self.outcomes[job] for job in self.abandoned)
        self.check()

    def has_room(self, worker: int) -> bool:
        """Whether a busy worker is to be sent more, as far as that can be seen from outside."""
        sent = self.busy[worker]
        known = self.scheduler._workers[worker]
        withheld = known.retiring or known.killed or known.orders or any(job.deaths for one in sent for job in one.jobs)
        return len(sent) < self.scheduler.policy.concurrency and not withheld

    def kill(self, worker: int) -> None:
        if worker in self.starting:
            self.starting.remove(worker)
        self.idle.discard(worker)
        self.busy.pop(worker, None)
        self.configuring.pop(worker, None)
        self.due_orders.pop(worker, None)
        self.dying.append(worker)

    def check(self) -> None:
        scheduler = self.scheduler
        policy = scheduler.policy
        batches_ahead = [sent for batches in self.busy.values() for sent in batches[1:]] if policy.concurrency == 1 else []
        ahead = [job for sent in batches_ahead for job in sent.jobs]
        if not self.dying:
            assert scheduler.queue_length == sum(job.queued for job in self.jobs) + len(ahead)
        # What was being computed comes back when its worker dies; it has been accepted and is not refused then.
        came_back = sum(job.queued and job.deaths > 0 for job in self.jobs)
        assert scheduler.queue_length - came_back <= policy.queue_size
        for group in scheduler.groups.values():
            assert group.staying() <= group.max
        if scheduler.phase == "serving" and not policy.fill and not self.dying:
            assert not (scheduler.queue_length > len(ahead) and self.idle)
            if policy.concurrency > 1 and not any(job.queued and job.deaths for job in self.jobs):
                assert not (scheduler.queue_length and any(map(self.has_room, self.busy)))
        waiting = [job for job in self.jobs if not self.outcomes[job]]
        assert all(
            job.queued or any(job in sent.jobs for batches in self.busy.values() for sent in batches) or self.dying
            for job in waiting
        )
        assert all(job.deadline >= scheduler.wake_at for job in waiting)

    def submit(self, pick: int) -> None:
        deadline = self.now + (0.04 if pick == 0 else 30)
        jobs = [Job(len(self.jobs), deadline, priority=pick, rows=1 + pick // 6) for _ in range(1 + pick % 3)]
        self.jobs += jobs
        self.outcomes |= {job: [] for job in jobs}
        self.carry_out(self.scheduler.submit(jobs, self.now))

    def cancel(self, pick: int) -> None:
        if self.jobs:
            job = self.jobs[-1 - pick % len(self.jobs)]
            self.carry_out(self.scheduler.cancel(job, self.now))

    def ready(self, pick: int) -> None:
        if self.starting:
            worker = self.starting.pop(pick % len(self.starting))
            self.due_orders[worker] = list(self.standing.values())
            self.done_orders[worker] = []
            self.idle.add(worker)
            self.carry_out(self.scheduler.worker_ready(worker, self.now))

    def fail(self, pick: int) -> None:
        if self.starting and pick < 3:
            worker = self.starting.pop(0)
            self.carry_out(self.scheduler.worker_failed(worker, InvalidModelError("broken"), self.now))
            self.carry_out(self.scheduler.worker_died(worker, "exit status 3", self.now))

    def spread(self, pick: int) -> None:
        key, order = "abc"[pick % 3], next(self.orders)
        standing = None if pick == 7 else -order
        self.standing.pop(key, None)
        if standing is not None:
            self.standing[key] = standing
        done_by = min(self.due_orders, default=0) if pick % 2 else 0
        for worker, due in self.due_orders.items():
            due.append(order)
            if worker == done_by:
                # It has done so in a batch; what it still has to do comes after that.
                due.remove(order)
        self.carry_out(self.scheduler.spread(key, order, standing, self.now, done_by))

    def configured(self, pick: int) -> None:
        if self.configuring:
            worker = sorted(self.configuring)[pick % len(self.configuring)]
            made = self.configuring.pop(worker)
            self.done_orders[worker].append(made.order)
            self.idle.add(worker)
            self.carry_out(self.scheduler.configured(worker, made.batch, self.now))

    def refuse(self, pick: int) -> None:
        if self.configuring and pick < 3:
            worker = min(self.configuring)
            made = self.configuring[worker]
            self.carry_out(self.scheduler.configuring_failed(worker, made.batch, InvalidModelError("no"), self.now))

    def die(self, pick: int) -> None:
        alive = self.dying or sorted({*self.idle, *self.busy, *self.starting, *self.configuring})
        if alive:
            worker = alive[pick % len(alive)]
            self.kill(worker)
            self.dying = [other for other in self.dying if other != worker]
            self.carry_out(self.scheduler.worker_died(worker, "killed", self.now))

    def done(self, pick: int) -> None:
        if self.busy:
            worker = sorted(self.busy)[pick % len(self.busy)]
            # Batches that are computed beside each other end in any order.
            last = len(self.busy[worker]) if self.scheduler.policy.concurrency > 1 else 1
            sent = self.busy[worker].pop(pick % last)
            if not self.busy[worker]:
                del self.busy[worker]
                self.idle.add(worker)
            self.carry_out(self.scheduler.batch_done(worker, sent.batch, [job.item for job in sent.jobs], self.now))

    def scale(self, pick: int) -> None:
        self.carry_out(self.scheduler.scale(pick % 3, pick % 4, self.now))

    def drain(self, pick: int) -> None:
        if pick == 0:
            self.carry_out(self.scheduler.drain(self.now + 5, self.now))

    def tick(self, pick: int) -> None:
        self.carry_out(self.scheduler.tick(self.now))

    def wind_up(self) -> None:
        """Nothing new comes; time goes on and the workers do what they are told."""
        for _ in range(400):
            if all(self.outcomes[job] for job in self.jobs):
                return
            self.now = max(self.now, min(self.scheduler.wake_at, self.now + 1))
            self.tick(0)
            for step in (self.die if self.dying else self.ready, self.ready, self.configured, self.done):
                step(0)
        raise AssertionError("a request was never answered")


@pytest.mark.timeout(600)  # so many sequences that a busy machine takes minutes
@settings(max_examples=10_000, deadline=None)
@given(
    low=st.integers(0, 2),
    extra=st.integers(0, 2),
    devices=st.integers(1, 2),
    batch_size=st.integers(1, 4),
    fill=st.booleans(),
    concurrency=st.sampled_from([1, 1, 2, 3]),
    events=st.lists(EVENTS, max_size=60),
)
def test_every_request_gets_one_answer_whatever_happens(low, extra, devices, batch_size, fill, concurrency, events):
    world = World(low, low + extra, devices, batch_size, fill, concurrency)
    for kind, pick, pause_s in events:
        world.now += pause_s
        getattr(world, kind)(pick)
    world.wind_up()
    assert all(len(outcomes) == 1 for outcomes in world.outcomes.values())
