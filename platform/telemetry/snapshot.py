"""The server at one moment, in numbers: copied on the event loop, made into metrics somewhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.registry import Registry
from flowyard.platform.telemetry.measures import Distribution
from flowyard.platform.telemetry.traffic import Traffic
from flowyard.platform.workers.groups import Group
from flowyard.platform.workers.pool import ModelPool

STATUSES = ("PENDING", "READY", "FAILED")
WORKER_STATES = ("starting", "idle", "busy")


class DeviceNumbers(msgspec.Struct, frozen=True):
    """One model on one device.

    Attributes:
        rows: Rows per batch.
        compute: Seconds per batch.
        workers: Number of workers by state.
        lost: Workers that failed and have had another one started in their place.
    """

    device: str
    rows: Distribution
    compute: Distribution
    workers: Mapping[str, int]
    lost: int


class HandlerNumbers(msgspec.Struct, frozen=True):
    """One metric of a handler's own, with one set of dimensions.

    Attributes:
        kind: `counter`, `gauge` or `histogram`; empty where the handler does not say.
        count: Number of values.
        total: Their sum.
        last: The last of them.
    """

    name: str
    unit: str
    kind: str
    dimensions: tuple[tuple[str, str], ...]
    count: int
    total: float
    last: float


class ModelNumbers(msgspec.Struct, frozen=True):
    """One model of an endpoint: its queue and its calls.

    Attributes:
        model: What logs call it: the endpoint's name, `workflow:model`, or `workflow functions`.
        queued: Calls that wait.
        waits: Seconds that computed calls have waited.
        failures: Calls without a result, by reason.
        shared_bytes: Bytes of shared memory that hold arguments or results.
        load_s: Seconds until the first workers had loaded it.
        handlers: Whose handlers it has, empty for none.
        of_handlers: What they measure themselves.
    """

    model: str
    queued: int
    waits: Distribution
    failures: Mapping[str, int]
    shared_bytes: int
    load_s: float
    devices: tuple[DeviceNumbers, ...]
    handlers: str = ""
    of_handlers: tuple[HandlerNumbers, ...] = ()


class EndpointNumbers(msgspec.Struct, frozen=True):
    """One version of a registered model or workflow.

    Attributes:
        codes: Answered requests by HTTP status.
        latency: Seconds per request.
        start_s: Seconds that it took to start.
    """

    name: str
    version: str
    in_flight: int
    codes: Mapping[int, int]
    latency: Distribution
    start_s: float
    models: tuple[ModelNumbers, ...]


class Snapshot(msgspec.Struct, frozen=True):
    """The whole server.

    Attributes:
        endpoints: What is registered and runs.
        statuses: Number of registered versions by status.
        failed: Number of versions that could not be brought up, by name.
        registrations: Number of registrations by outcome.
        responses: Number of answers by API and HTTP status.
        unrouted: Predictions that reached no model, by HTTP status.
        startup_s: Seconds from the start of the server to its readiness.
        lines_dropped: Log lines that nobody took in time.
        held_bytes: What requests without an answer take of the server's memory.
    """

    endpoints: tuple[EndpointNumbers, ...]
    statuses: Mapping[str, int]
    failed: Mapping[str, int]
    registrations: Mapping[str, int]
    responses: Mapping[str, Mapping[int, int]]
    unrouted: Mapping[int, int]
    startup_s: float
    lines_dropped: int
    held_bytes: int


def take(registry: Registry, traffic: Traffic) -> Snapshot:
    """Copies every number. Belongs to the event loop's thread."""
    entries = list(registry.endpoints)
    statuses: Counter[str] = Counter(entry.status for entry in entries)
    return Snapshot(
        endpoints=tuple(_endpoint(entry, entry.deployment) for entry in entries if entry.deployment is not None),
        statuses={status: statuses[status] for status in STATUSES},
        failed=Counter(entry.record.name for entry in entries if entry.status == "FAILED"),
        registrations={"accepted": registry.registrations.accepted, "refused": registry.registrations.refused},
        responses={"inference": dict(traffic.inference), "management": dict(traffic.management)},
        unrouted=dict(traffic.unrouted),
        startup_s=traffic.startup_s,
        lines_dropped=traffic.lines_dropped,
        held_bytes=registry.held.size_bytes,
    )


def _endpoint(entry: Entry, deployment: Deployment) -> EndpointNumbers:
    requests = deployment.requests
    return EndpointNumbers(
        name=entry.record.name,
        version=entry.record.version,
        in_flight=requests.in_flight,
        codes=dict(requests.codes),
        latency=requests.latency.read(),
        start_s=deployment.start_s,
        models=tuple(_model(pool) for pool in deployment.pools.values()),
    )


def _model(pool: ModelPool) -> ModelNumbers:
    measures = pool.measures
    return ModelNumbers(
        model=pool.spec.name,
        queued=pool.queue_length,
        waits=measures.waits.read(),
        failures=dict(measures.failures),
        shared_bytes=pool.shared_bytes(),
        load_s=measures.load_s,
        devices=tuple(_device(pool, group) for group in pool.groups),
        handlers=pool.spec.handlers,
        of_handlers=tuple(
            HandlerNumbers(*key, metric.count, metric.total, metric.last) for key, metric in measures.of_handlers.metrics.items()
        ),
    )


def _device(pool: ModelPool, group: Group) -> DeviceNumbers:
    measures = pool.measures.on(str(group.device))
    states: Counter[str] = Counter(worker.state for worker in group.workers.values())
    return DeviceNumbers(
        device=str(group.device),
        rows=measures.rows.read(),
        compute=measures.compute.read(),
        workers={state: states[state] for state in WORKER_STATES},
        lost=group.lost,
    )
