"""The timer of a pool: set at every turn, and hardly ever anew."""

from __future__ import annotations

import math
import time

from flowyard.platform.workers.alarm import Alarm


class Timer:
    def __init__(self, delay_s, ring):
        self.at = time.monotonic() + delay_s
        self.ring = ring
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


class Loop:
    """Keeps the timers that are set; none rings by itself."""

    def __init__(self):
        self.timers = []

    def call_later(self, delay_s, ring):
        self.timers.append(Timer(delay_s, ring))
        return self.timers[-1]

    @property
    def set_to(self):
        return [timer for timer in self.timers if not timer.cancelled]


def test_a_time_that_is_no_sooner_leaves_the_timer_and_a_sooner_one_replaces_it():
    loop, rung = Loop(), []
    alarm = Alarm(loop, lambda: rung.append(1))
    now = time.monotonic()
    for at in (now + 50, now + 60, math.inf, now + 50):
        alarm.set(at)
    assert len(loop.timers) == 1
    alarm.set(now + 20)
    (timer,) = loop.set_to
    assert abs(timer.at - (now + 20)) < 5
    alarm.cancel()
    assert not loop.set_to
    assert not rung


def test_it_rings_once_and_can_be_set_again_also_to_a_time_that_is_over():
    loop, rung = Loop(), []
    alarm = Alarm(loop, lambda: rung.append(1))
    alarm.set(math.inf)
    assert not loop.timers
    alarm.set(time.monotonic() - 10)
    loop.timers.pop().ring()
    assert rung == [1]
    alarm.set(time.monotonic() + 100)
    assert len(loop.set_to) == 1
