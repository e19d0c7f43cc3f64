"""DJL Serving's metrics under their names and labels (DJL §6.1), made of the same snapshot.

Times are microseconds. Unlike DJL's, the histograms have buckets for them, and the response counters cover streams as well.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from importlib import metadata

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from flowyard.platform.telemetry.families import add
from flowyard.platform.telemetry.handlers import djl_handler_families
from flowyard.platform.telemetry.measures import Distribution
from flowyard.platform.telemetry.snapshot import Snapshot

MICROSECONDS = 1e6


def djl_families(snapshot: Snapshot) -> Iterator[Metric]:
    """The metrics of `GET /server/metrics`."""
    ours = list(_ours(snapshot))
    yield from ours
    yield from djl_handler_families(snapshot, (metric.name for metric in ours))


def _ours(snapshot: Snapshot) -> Iterator[Metric]:
    yield from _server(snapshot)
    yield from _loading(snapshot)
    latencies = [(endpoint.name, endpoint.latency) for endpoint in snapshot.endpoints]
    waits = [(model.model, model.waits) for endpoint in snapshot.endpoints for model in endpoint.models]
    yield _times("RequestLatency", "From the head of a request to the end of its answer.", latencies)
    yield _times("QueueTime", "How long computed calls of a model have waited.", waits)


def _server(snapshot: Snapshot) -> Iterator[Metric]:
    host = socket.gethostname()
    start = CounterMetricFamily("DJLServingStart", "Starts of the server.", labels=("Version",))
    start.add_metric((metadata.version("flowyard"),), 1)
    yield start
    startup = GaugeMetricFamily("StartupLatency", "From the start to readiness.", labels=("Host",))
    startup.add_metric((host,), snapshot.startup_s * MICROSECONDS)
    yield startup
    codes = snapshot.responses["inference"]
    counts = {
        "Response_2XX": ("Predictions answered 2xx.", sum(count for code, count in codes.items() if 200 <= code < 300)),
        "Response_4XX": ("Predictions answered 4xx.", sum(count for code, count in codes.items() if 400 <= code < 500)),
        "Response_5XX": ("Predictions answered 5xx.", sum(count for code, count in codes.items() if code >= 500)),
        "WlmError": ("Predictions that the workers could not take, 503.", codes.get(503, 0)),
        "ServerError": (
            "Predictions answered 5xx, without 503.",
            sum(n for code, n in codes.items() if code >= 500 and code != 503),
        ),
    }
    for name, (text, count) in counts.items():
        family = CounterMetricFamily(name, text, labels=("Host",))
        family.add_metric((host,), count)
        yield family


def _loading(snapshot: Snapshot) -> Iterator[Metric]:
    register = GaugeMetricFamily("RegisterWorkflow", "Start of the newest version.", labels=("Model",))
    for name, start_s in {endpoint.name: endpoint.start_s for endpoint in snapshot.endpoints}.items():
        register.add_metric((name,), start_s * MICROSECONDS)
    load = GaugeMetricFamily("LoadModel", "Until the first workers of the newest version had loaded.", labels=("Model",))
    loads = {model.model: model.load_s for endpoint in snapshot.endpoints for model in endpoint.models}
    for name, load_s in loads.items():
        load.add_metric((name,), load_s * MICROSECONDS)
    failed = CounterMetricFamily("ModelLoadingError", "Versions that could not be brought up.", labels=("Model",))
    for name, count in snapshot.failed.items():
        failed.add_metric((name,), count)
    yield from (register, load, failed)


def _times(name: str, text: str, values: Iterable[tuple[str, Distribution]]) -> Metric:
    """A histogram by model: DJL knows no label for the version, so they are taken together."""
    joined: dict[str, Distribution] = {}
    for model, more in values:
        joined[model] = _together(joined[model], more) if model in joined else more
    family = HistogramMetricFamily(name, text, labels=("Model",))
    for model, distribution in joined.items():
        add(family, (model,), distribution, MICROSECONDS)
    return family


def _together(one: Distribution, other: Distribution) -> Distribution:
    counts = tuple(map(int.__add__, one.counts, other.counts))
    return Distribution(one.bounds, counts, one.total + other.total)
