"""Puts a server under load from one event loop and tells what came back."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter, deque
from collections.abc import Iterator

import msgspec
import uvloop

from flowyard.platform.bench.connection import Connection
from flowyard.platform.bench.histogram import Histogram
from flowyard.platform.bench.response import Response
from flowyard.platform.bench.result import Latency, Result
from flowyard.platform.bench.schedule import Arrivals, due_times
from flowyard.platform.bench.target import Target

#: Timers of the event loop are good to a millisecond: what is due sooner is waited for awake.
AWAKE_S = 0.002
WATCH_EVERY_S = 0.1

_now = time.perf_counter


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to do to a server.

    Attributes:
        target: The server.
        request: Bytes of the request that is sent over and over.
        connections: Connections; of an open loop the most that wait at the same time.
        duration_s: Seconds to measure.
        warmup_s: Seconds of the same load before that, not counted.
        max_requests: Ends the run after so many counted answers, `None` for no such end.
        rate_per_s: Requests due per second, `None` for a closed loop.
        arrivals: How an open loop spaces them.
        seed: Of its random arrivals.
        timeout_s: Seconds after which a request counts as unanswered.
    """

    target: Target
    request: bytes
    connections: int = 1
    duration_s: float = 10.0
    warmup_s: float = 2.0
    max_requests: int | None = None
    rate_per_s: float | None = None
    arrivals: Arrivals = "poisson"
    seed: int = 0
    timeout_s: float = 30.0


def run(load: Load) -> Result:
    """Runs a load to its end, in this thread.

    Args:
        load: What to do.

    Returns:
        What came back.
    """
    return uvloop.run(_Closed(load).run() if load.rate_per_s is None else _Open(load).run())


class _Run:
    """What both loops share: connections, the measured window, and what is counted in it."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.start = 0.0
        self.end = 0.0
        self.stopped: asyncio.Event = asyncio.Event()
        self.request = load.request
        self.histogram = Histogram()
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.in_time = 0
        self.received_bytes = 0
        self.connections = [Connection(load.target, self.on_idle, self.on_answer, self.on_error) for _ in range(load.connections)]

    async def run(self) -> Result:
        """Runs from the first connection to the last answer."""
        gc.collect()
        gc.disable()
        begin = _now()
        self.start = begin + self.load.warmup_s
        self.end = self.start + self.load.duration_s
        try:
            for connection in self.connections:
                connection.open()
            self.begin(begin)
            cpu_s = await self._measure()
        finally:
            for connection in self.connections:
                connection.close()
            gc.enable()
        return self._result(cpu_s)

    async def _measure(self) -> float:
        """Waits for the end of the run; returns the share of a core this process took in the window."""
        await asyncio.sleep(self.start - _now())
        started_s, cpu_s = _now(), time.process_time()
        while _now() < self.end and not self.stopped.is_set():
            await self._pause(self.end)
        self.end = min(self.end, _now())
        share = (time.process_time() - cpu_s) / max(_now() - started_s, 1e-9)
        drained = self.end + self.load.timeout_s
        while self.unanswered() and _now() < drained and not self.stopped.is_set():
            await self._pause(drained)
        if not self.stopped.is_set() and (waiting := self.unanswered()):
            self.errors["no answer in time"] += waiting
        return share

    async def _pause(self, until: float) -> None:
        """Waits a moment, and gives up on what has been outstanding for too long."""
        try:
            async with asyncio.timeout(max(0.0, min(WATCH_EVERY_S, until - _now()))):
                await self.stopped.wait()
        except TimeoutError:
            late = _now() - self.load.timeout_s
            for connection in self.connections:
                if connection.busy and connection.sent < late:
                    connection.give_up("no answer in time")

    def count(self, latency_s: float, done: float, response: Response) -> None:
        """Counts an answer of the window, unless there have been enough."""
        if self.stopped.is_set():
            return
        self.statuses[response.status] += 1
        self.received_bytes += response.length
        if response.status == 200:
            self.histogram.record(latency_s)
            self.in_time += done <= self.end
        if self.load.max_requests is not None and self.statuses.total() >= self.load.max_requests:
            self.stopped.set()

    def on_error(self, reason: str) -> None:
        """Counts a failure, in the warm-up too: there must be none at all."""
        self.errors[reason] += 1

    def begin(self, now: float) -> None:
        """Starts what is not started by connections becoming idle."""

    def unanswered(self) -> int:
        """Requests that are waited for after the end: a server must not carry them into the next run."""
        return sum(connection.busy for connection in self.connections)

    def on_idle(self, connection: Connection) -> None:
        """A connection can take a request."""
        raise NotImplementedError

    def on_answer(self, intended: float, response: Response) -> None:
        """An answer came."""
        raise NotImplementedError

    def _result(self, cpu: float) -> Result:
        load = self.load
        duration_s = max(self.end - self.start, 1e-9)
        return Result(
            loop="closed" if load.rate_per_s is None else "open",
            connections=load.connections,
            rate_per_s=load.rate_per_s,
            duration_s=round(duration_s, 3),
            warmup_s=load.warmup_s,
            requests=self.statuses.total(),
            throughput_per_s=round(self.in_time / duration_s, 3),
            statuses={str(status): amount for status, amount in sorted(self.statuses.items())},
            errors=dict(self.errors),
            sent_bytes=self.statuses.total() * len(self.request),
            received_bytes=self.received_bytes,
            latency=Latency.of(self.histogram),
            generator_cpu=round(cpu, 3),
        )


class _Closed(_Run):
    """Every connection sends its next request as soon as the last is answered."""

    def on_idle(self, connection: Connection) -> None:
        now = _now()
        if now < self.end and not self.stopped.is_set():
            connection.send(self.request, now)

    def on_answer(self, intended: float, response: Response) -> None:
        now = _now()
        # By the time of the answer, so that a steady state is counted as one: what began in the warm-up replaces what ends later.
        if self.start <= now <= self.end:
            self.count(now - intended, now, response)


class _Open(_Run):
    """Requests are due at times of their own. One that finds no idle connection waits, and its wait is part of its latency."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self._idle: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._due: Iterator[float] = iter(())
        self._next = 0.0
        self._begin = 0.0
        self._exhausted = False

    def begin(self, now: float) -> None:
        assert self.load.rate_per_s is not None
        self._begin = now
        self._due = due_times(self.load.rate_per_s, self.load.arrivals, self.load.seed)
        self._next = now + next(self._due)
        self._tick()

    def _tick(self) -> None:
        now = _now()
        while self._next <= now and not self._exhausted:
            self._waiting.append(self._next)
            self._next = self._begin + next(self._due)
            self._exhausted = self._next >= self.end
        while self._waiting and self._idle:
            connection = self._idle.pop()
            if connection.is_free:
                connection.send(self.request, self._waiting.popleft())
        if self._exhausted or self.stopped.is_set():
            return
        loop = asyncio.get_running_loop()
        if self._next - now > AWAKE_S:
            loop.call_later(self._next - now - AWAKE_S / 2, self._tick)
        else:
            loop.call_soon(self._tick)

    def unanswered(self) -> int:
        return len(self._waiting) + super().unanswered()

    def on_idle(self, connection: Connection) -> None:
        if self._waiting and not self.stopped.is_set():
            connection.send(self.request, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def on_answer(self, intended: float, response: Response) -> None:
        if self.start <= intended < self.end:
            now = _now()
            self.count(now - intended, now, response)
