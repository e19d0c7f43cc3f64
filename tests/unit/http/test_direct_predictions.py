"""Predictions on the direct way leave nothing behind: what they know each other by is let go of when they are over."""

from __future__ import annotations

import gc
import time
from types import SimpleNamespace

import pytest

from flowyard.platform.error_rates import ErrorRates
from flowyard.platform.held import Held
from flowyard.platform.http.native.direct import DirectPredictions
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.measures import RequestMeasures
from flowyard.schemas.errors import QueueFullError
from flowyard.schemas.payload import Payload

CLIENT = ("127.0.0.1", 5)


class Pool:
    """Answers when it is told to, at once, or with an error."""

    def __init__(self):
        self.spec = SimpleNamespace(handlers="")
        self.waiting, self.cancelled = [], []
        self.answer = None

    def submit(self, task):
        job = SimpleNamespace(item=task, dispatched=0.0, submitted=0.0, answered=self.answer is not None)
        if self.answer is not None:
            task.on_done(self.answer)
        else:
            self.waiting.append(task)
        return job

    def cancel(self, job):
        self.cancelled.append(job.item)


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def way(pool):
    deployment = SimpleNamespace(
        identity=("m", ""),
        single=pool,
        fusing=None,
        closing=False,
        takes_requests=False,
        requests=RequestMeasures(),
        plan=SimpleNamespace(timeout_s=None, steps=(SimpleNamespace(name="m"),)),
    )
    endpoints = SimpleNamespace(whole={"m"}, route=lambda name, version=None, headers=None: deployment)
    registry = SimpleNamespace(endpoints=endpoints, settings=Settings(), held=Held(1 << 20))
    traffic = SimpleNamespace(answered=lambda *told: None)
    access = SimpleNamespace(keyring=SimpleNamespace(is_required=False))
    return DirectPredictions(registry, traffic, access, ErrorRates({}, (), time.monotonic))


def call(way, answered, body=b"[1]"):
    head = way.read(b"/predictions/m", [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))])
    prediction = way.take(head, CLIENT)
    prediction.run(body, lambda status, fields, body: answered.append(status))
    return prediction


def ending(kind, way, pool, answered):
    if kind == "at once":
        pool.answer = Payload.of([1])
        call(way, answered)
    elif kind == "refused":
        pool.answer = QueueFullError("full")
        call(way, answered)
    elif kind == "later":
        call(way, answered)
        pool.waiting.pop().on_done(Payload.of([1]))
    else:
        call(way, answered).cancel()
        pool.waiting.clear()
        pool.cancelled.clear()


@pytest.mark.parametrize(("kind", "statuses"), [("at once", [200]), ("refused", [503]), ("later", [200]), ("cancelled", [])])
def test_a_prediction_that_is_over_is_no_work_for_the_garbage_collector(way, pool, kind, statuses):
    answered = []
    gc.collect()
    gc.disable()
    try:
        ending(kind, way, pool, answered)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(item).__name__ for item in gc.garbage if type(item).__module__.startswith("flowyard")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert (answered, left) == (statuses, [])
    assert way.held.size_bytes == 0
