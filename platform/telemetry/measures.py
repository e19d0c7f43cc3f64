"""What is counted while requests are served: plain numbers, kept by whoever does the work.

A request costs a few additions here. Names, labels and text come about when somebody asks for them: `snapshot.py` copies the
numbers, `families.py` and `djl.py` make metrics of the copy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from flowyard.schemas.frames import Sample

K = TypeVar("K")

#: Upper bounds in seconds, from a millisecond to five minutes: what waiting and computing may take.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
#: Upper bounds in rows.
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

#: Why a call of a model got no result: the codes of the error tree, and this one.
CANCELLED = "cancelled"

#: Metrics of handlers that are kept for one model, by name and dimensions.
MOST_HANDLER_METRICS = 1000
#: Characters of a name, unit or dimension that a handler may give, and dimensions of one value.
MOST_HANDLER_CHARS = 256
MOST_HANDLER_DIMENSIONS = 16


def count(numbers: dict[K, int], key: K) -> None:
    """Adds one to a number."""
    try:
        numbers[key] += 1
    except KeyError:
        numbers[key] = 1


class Distribution(msgspec.Struct, frozen=True):
    """A histogram as it was at one moment.

    Attributes:
        bounds: Upper bounds of the buckets, ascending; one more bucket holds what is over the last.
        counts: Number of values in each bucket.
        total: Sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)


class Histogram:
    """How values are distributed over buckets."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Adds a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def observe_all(self, values: Iterable[float]) -> None:
        """Adds several values."""
        counts, bounds, total = self._counts, self._bounds, self._total
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self._total = total

    def read(self) -> Distribution:
        """What has been added so far."""
        return Distribution(self._bounds, tuple(self._counts), self._total)


class RequestMeasures:
    """The requests that one version of a model or workflow has been asked to answer.

    Attributes:
        in_flight: Requests that have no answer yet.
        codes: Number of answers by HTTP status.
        latency: Seconds from the request's head to the end of its answer.
    """

    __slots__ = ("codes", "in_flight", "latency")

    def __init__(self) -> None:
        self.in_flight = 0
        self.codes: dict[int, int] = {}
        self.latency = Histogram(SECONDS)

    def end(self, status: int, elapsed_s: float) -> None:
        """A request in flight has had its answer."""
        self.in_flight -= 1
        self.latency.observe(elapsed_s)
        try:
            self.codes[status] += 1
        except KeyError:
            self.codes[status] = 1


class DeviceMeasures:
    """The batches that one model has computed on one device.

    Attributes:
        rows: Rows per batch, as `batch_size` counts them.
        compute: Seconds per batch, in the worker.
    """

    __slots__ = ("compute", "rows")

    def __init__(self) -> None:
        self.rows = Histogram(ROWS)
        self.compute = Histogram(SECONDS)


def is_bounded(sample: Sample) -> bool:
    """Whether a handler's value says no more of itself than is kept."""
    if len(sample.dimensions) > MOST_HANDLER_DIMENSIONS:
        return False
    words = [sample.name, sample.unit, *(word for pair in sample.dimensions for word in pair)]
    return max(map(len, words)) <= MOST_HANDLER_CHARS


class HandlerMetric:
    """One metric of a handler, with one set of dimensions.

    Attributes:
        count: Values taken.
        total: Their sum: what a counter stands at.
        last: The last of them: what a gauge stands at.
    """

    __slots__ = ("count", "last", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = self.last = 0.0


class HandlerMeasures:
    """What handlers measure themselves, as those of TorchServe and DJL do.

    Attributes:
        metrics: By name, unit, kind and dimensions.
    """

    __slots__ = ("metrics",)

    def __init__(self) -> None:
        self.metrics: dict[tuple[str, str, str, tuple[tuple[str, str], ...]], HandlerMetric] = {}

    def take(self, samples: Iterable[Sample]) -> None:
        """Takes values; those of metrics over the limits are left out, so that no handler can fill the memory."""
        for sample in samples:
            if not is_bounded(sample):
                continue
            key = (sample.name, sample.unit, sample.kind, sample.dimensions)
            metric = self.metrics.get(key)
            if metric is None:
                if len(self.metrics) >= MOST_HANDLER_METRICS:
                    continue
                metric = self.metrics[key] = HandlerMetric()
            metric.count += 1
            metric.total += sample.value
            metric.last = sample.value


class PoolMeasures:
    """The calls of one model.

    Attributes:
        waits: Seconds from being queued to the begin of the computation, of calls that were computed.
        failures: Number of calls without a result, by the error's code; `CANCELLED` for those that were taken back.
        devices: Batches by device.
        load_s: Seconds until the first workers had loaded the model, 0 before.
        of_handlers: What its handlers measure themselves.
    """

    __slots__ = ("devices", "failures", "load_s", "of_handlers", "waits")

    def __init__(self, devices: Iterable[str]) -> None:
        self.waits = Histogram(SECONDS)
        self.failures: dict[str, int] = {}
        self.devices = {device: DeviceMeasures() for device in devices}
        self.load_s = 0.0
        self.of_handlers = HandlerMeasures()

    def on(self, device: str) -> DeviceMeasures:
        """The batches of a device."""
        return self.devices.setdefault(device, DeviceMeasures())

    def failed(self, code: str) -> None:
        """A call has got no result."""
        count(self.failures, code)


class RegistrationMeasures:
    """The registrations that were asked for.

    Attributes:
        accepted: Those that were carried out or scheduled.
        refused: Those that were answered with an error.
    """

    __slots__ = ("accepted", "refused")

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = 0
