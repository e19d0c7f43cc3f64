"""Metrics in Prometheus' style, made of a snapshot. `docs/observability.md` lists them; a test holds the list against this."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from flowyard.platform.telemetry.handlers import handler_families
from flowyard.platform.telemetry.measures import CANCELLED, Distribution
from flowyard.platform.telemetry.snapshot import DeviceNumbers, ModelNumbers, Snapshot
from flowyard.schemas.errors import DeadlineError, QueueFullError

MODEL = ("model", "version")
DEVICE = ("model", "version", "device")
#: Reasons that have a series before the first call has failed for them, so that a rate is zero and not absent.
USUAL_FAILURES = (QueueFullError.code, DeadlineError.code, CANCELLED)


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """The metrics of a server."""
    yield from _server(snapshot)
    yield from _requests(snapshot)
    yield from _calls(snapshot)
    yield from _devices(snapshot)
    yield from handler_families(snapshot)


def _server(snapshot: Snapshot) -> Iterator[Metric]:
    build = InfoMetricFamily("flowyard_build", "What runs here.")
    build.add_metric((), {"version": metadata.version("flowyard"), "python": sys.version.split()[0]})
    yield build
    yield GaugeMetricFamily("flowyard_startup_seconds", "From the start of the server to its readiness.", snapshot.startup_s)
    responses = CounterMetricFamily("flowyard_http_responses", "Answers of the server.", labels=("api", "code"))
    for api, codes in snapshot.responses.items():
        for code, count in sorted(codes.items()):
            responses.add_metric((api, str(code)), count)
    yield responses
    registered = GaugeMetricFamily("flowyard_registered", "Registered versions.", labels=("status",))
    for status, count in snapshot.statuses.items():
        registered.add_metric((status,), count)
    yield registered
    registrations = CounterMetricFamily("flowyard_registrations", "Registrations asked for.", labels=("outcome",))
    for outcome, count in snapshot.registrations.items():
        registrations.add_metric((outcome,), count)
    yield registrations
    yield GaugeMetricFamily(
        "flowyard_held_bytes", "Bodies and results of nodes that requests without an answer take.", snapshot.held_bytes
    )
    yield CounterMetricFamily(
        "flowyard_log_lines_dropped",
        "Log lines that nobody took in time from standard error, or that a disk was too slow for.",
        snapshot.lines_dropped,
    )


def _requests(snapshot: Snapshot) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "flowyard_requests",
        "Answered predictions; 499: the client left first. Without a model: those that reached none.",
        labels=(*MODEL, "code"),
    )
    latency = HistogramMetricFamily(
        "flowyard_request_duration_seconds", "From the head of a request to the end of its answer.", labels=MODEL
    )
    in_flight = GaugeMetricFamily("flowyard_requests_in_flight", "Predictions without an answer yet.", labels=MODEL)
    for endpoint in snapshot.endpoints:
        labels = (endpoint.name, endpoint.version)
        for code, count in sorted(endpoint.codes.items()):
            requests.add_metric((*labels, str(code)), count)
        add(latency, labels, endpoint.latency)
        in_flight.add_metric(labels, endpoint.in_flight)
    for code, count in sorted(snapshot.unrouted.items()):
        requests.add_metric(("", "", str(code)), count)
    yield from (requests, latency, in_flight)


def _calls(snapshot: Snapshot) -> Iterator[Metric]:
    queued = GaugeMetricFamily("flowyard_queue_length", "Calls of a model that wait.", labels=MODEL)
    waits = HistogramMetricFamily("flowyard_queue_wait_seconds", "How long computed calls have waited.", labels=MODEL)
    failures = CounterMetricFamily("flowyard_call_failures", "Calls of a model that got no result.", labels=(*MODEL, "reason"))
    load = GaugeMetricFamily("flowyard_model_load_seconds", "Until the first workers had loaded the model.", labels=MODEL)
    shared = GaugeMetricFamily(
        "flowyard_shared_memory_bytes", "Shared memory that holds arguments and results now.", labels=MODEL
    )
    for labels, model in _models(snapshot):
        queued.add_metric(labels, model.queued)
        add(waits, labels, model.waits)
        for reason in sorted({*USUAL_FAILURES, *model.failures}):
            failures.add_metric((*labels, reason), model.failures.get(reason, 0))
        load.add_metric(labels, model.load_s)
        shared.add_metric(labels, model.shared_bytes)
    yield from (queued, waits, failures, load, shared)


def _devices(snapshot: Snapshot) -> Iterator[Metric]:
    rows = HistogramMetricFamily("flowyard_batch_rows", "Rows per computed batch.", labels=DEVICE)
    compute = HistogramMetricFamily("flowyard_batch_compute_seconds", "Computation of a batch in its worker.", labels=DEVICE)
    workers = GaugeMetricFamily("flowyard_workers", "Worker processes.", labels=(*DEVICE, "state"))
    restarts = CounterMetricFamily(
        "flowyard_worker_restarts", "Workers that died, hung or could not start, and are started again.", labels=DEVICE
    )
    for labels, device in _groups(snapshot):
        add(rows, labels, device.rows)
        add(compute, labels, device.compute)
        for state, count in device.workers.items():
            workers.add_metric((*labels, state), count)
        restarts.add_metric(labels, device.lost)
    yield from (rows, compute, workers, restarts)


def _models(snapshot: Snapshot) -> Iterator[tuple[tuple[str, str], ModelNumbers]]:
    for endpoint in snapshot.endpoints:
        for model in endpoint.models:
            yield (model.model, endpoint.version), model


def _groups(snapshot: Snapshot) -> Iterator[tuple[tuple[str, str, str], DeviceNumbers]]:
    for labels, model in _models(snapshot):
        for device in model.devices:
            yield (*labels, device.device), device


def add(family: HistogramMetricFamily, labels: tuple[str, ...], values: Distribution, scale: float = 1.0) -> None:
    """Adds a distribution to a histogram.

    Args:
        family: Gets it.
        labels: Label values.
        values: The distribution.
        scale: What bounds and values are multiplied by, to tell them in another unit.
    """
    buckets: list[tuple[str, float]] = []
    below = 0
    for bound, count in zip((*values.bounds, float("inf")), values.counts, strict=True):
        below += count
        buckets.append((floatToGoString(bound * scale), below))  # type: ignore[no-untyped-call]
    family.add_metric(labels, buckets, values.total * scale)
