"""Autoscaling in a simulated world: clients in a closed loop, workers that take a while to start and to compute."""

from __future__ import annotations

import heapq
import itertools

import pytest

from flowyard.platform.workers.groups import Group
from flowyard.platform.workers.instructions import Answer, Dispatch, Kill, Retire, Spawn
from flowyard.platform.workers.jobs import Job
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.scheduler import Scheduler
from flowyard.schemas.devices import CPU, Device

START_S = 0.3


class Simulation:
    """Clients that send their next request as soon as they have an answer."""

    def __init__(
        self, low: int, high: int, compute_s: float, idle_s: float = 10.0, devices: int = 1, batch_size: int = 1
    ) -> None:
        groups = [Group(device, low, high) for device in (CPU, Device("gpu", 0))[:devices]]
        policy = Policy(name="m", idle_s=idle_s, batch_size=batch_size)
        self.scheduler = Scheduler(policy, groups, itertools.count(1))
        self.compute_s = compute_s
        self.now = 0.0
        self.events: list[tuple[float, int, object]] = []
        self.order = itertools.count()
        self.clients = 0
        self.ready: set[int] = set()
        #: (time, number of ready workers) whenever it changes
        self.history: list[tuple[float, int]] = []
        self.carry_out(self.scheduler.start(0))

    def at(self, when: float, event: object) -> None:
        heapq.heappush(self.events, (when, next(self.order), event))

    def carry_out(self, instructions) -> None:
        for item in instructions:
            match item:
                case Spawn(worker):
                    self.at(self.now + START_S, ("ready", worker))
                case Dispatch(worker, batch, jobs):
                    self.at(self.now + self.compute_s, ("done", worker, batch, jobs))
                case Answer():
                    if self.clients > 0:
                        self.at(self.now, ("submit",))
                    else:
                        self.clients += 1
                case Retire(worker) | Kill(worker):
                    self.ready.discard(worker)
                    self.history.append((self.now, len(self.ready)))

    def run(self, until: float) -> None:
        while self.events or self.scheduler.wake_at < until:
            when = self.events[0][0] if self.events else until
            if self.scheduler.wake_at <= when:
                if self.scheduler.wake_at > until:
                    break
                self.now = max(self.now, self.scheduler.wake_at)
                self.carry_out(self.scheduler.tick(self.now))
                continue
            if when > until:
                break
            self.now, _, event = heapq.heappop(self.events)
            self.handle(event)
        self.now = until

    def handle(self, event) -> None:
        match event:
            case ("submit",):
                self.carry_out(self.scheduler.submit([Job("x", self.now + 100)], self.now))
            case ("ready", worker):
                self.ready.add(worker)
                self.history.append((self.now, len(self.ready)))
                self.carry_out(self.scheduler.worker_ready(worker, self.now))
            case ("done", worker, batch, jobs):
                self.carry_out(self.scheduler.batch_done(worker, batch, ["y"] * len(jobs), self.now))

    def load(self, clients: int) -> None:
        """So many clients from now on."""
        before, self.clients = self.clients, clients
        for _ in range(clients - before):
            self.at(self.now, ("submit",))

    def unload(self, clients: int) -> None:
        """So many clients stop after their next answer."""
        self.clients = -clients

    def changes_of_direction(self, since: float) -> int:
        counts = [count for when, count in self.history if when >= since]
        steps = [after - before for before, after in itertools.pairwise(counts)]
        return sum(one * two < 0 for one, two in itertools.pairwise(steps))


@pytest.mark.parametrize("devices", [1, 2])
def test_workers_come_with_the_load_and_go_without_it(devices):
    simulation = Simulation(1, 4, compute_s=0.05, devices=devices)
    simulation.run(1)
    started = simulation.now
    simulation.load(16 * devices)
    simulation.run(started + 1)
    assert len(simulation.ready) >= 2 * devices - (devices - 1)
    simulation.run(started + 5)
    assert len(simulation.ready) == 4 * devices
    simulation.run(started + 30)
    assert len(simulation.ready) == 4 * devices
    assert simulation.changes_of_direction(started) == 0
    stopped = simulation.now
    simulation.unload(16 * devices)
    simulation.run(stopped + 30)
    assert len(simulation.ready) == devices
    assert simulation.changes_of_direction(stopped) == 0


def test_a_load_that_one_worker_can_carry_starts_no_other():
    simulation = Simulation(1, 4, compute_s=0.01)
    simulation.run(1)
    simulation.load(4)
    simulation.run(60)
    assert len(simulation.ready) == 1


def test_a_steady_load_does_not_make_the_number_of_workers_swing():
    simulation = Simulation(1, 4, compute_s=0.05, idle_s=2.0)
    simulation.run(1)
    simulation.load(6)
    simulation.run(120)
    assert simulation.changes_of_direction(0) <= 1


def test_to_zero_and_back():
    simulation = Simulation(0, 2, compute_s=0.05, idle_s=1.0)
    simulation.load(1)
    simulation.run(2)
    assert len(simulation.ready) == 1
    simulation.unload(1)
    simulation.run(5)
    assert len(simulation.ready) == 0
    simulation.clients = 0
    simulation.load(1)
    simulation.run(6)
    assert len(simulation.ready) == 1
