"""A server in numbers, made up: two versions of one model, one of another, and something of everything."""

from __future__ import annotations

from flowyard.platform.telemetry.measures import ROWS, SECONDS, Distribution, Histogram
from flowyard.platform.telemetry.snapshot import DeviceNumbers, EndpointNumbers, ModelNumbers, Snapshot


def distribution(bounds: tuple[float, ...], *values: float) -> Distribution:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    return histogram.read()


def endpoint(name: str, version: str, *latencies: float) -> EndpointNumbers:
    device = DeviceNumbers("gpu0", distribution(ROWS, 4, 8), distribution(SECONDS, 0.5), {"idle": 1, "busy": 2}, 3)
    model = ModelNumbers(name, 5, distribution(SECONDS, *latencies), {"queue_full": 6, "node_error": 1}, 7, 0.25, (device,))
    return EndpointNumbers(name, version, 2, {200: 9, 404: 1}, distribution(SECONDS, *latencies), 0.5, (model,))


SNAPSHOT = Snapshot(
    endpoints=(endpoint("a", "", 0.02, 0.2), endpoint("b", "1", 0.02), endpoint("b", "2", 0.02, 600.0)),
    statuses={"PENDING": 0, "READY": 3, "FAILED": 1},
    failed={"c": 1},
    registrations={"accepted": 3, "refused": 2},
    responses={"inference": {200: 9, 404: 4, 499: 1, 500: 2, 503: 3, 507: 1}, "management": {200: 5}},
    unrouted={404: 3},
    startup_s=1.5,
    lines_dropped=8,
    held_bytes=9,
)
