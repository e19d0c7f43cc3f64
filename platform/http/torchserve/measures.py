"""TorchServe's metrics: their names, labels and text (TorchServe reference §6)."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from flowyard.platform.http.torchserve.descriptions import FIRST_WORKER
from flowyard.platform.http.torchserve.entries import Model, Models
from flowyard.platform.telemetry.host import HostUse, host_use

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
#: The version of a request that names none.
DEFAULT = "default"


class Family(msgspec.Struct, frozen=True):
    """One metric.

    Attributes:
        kind: `counter` or `gauge`.
        unit: As the original tells it.
        labels: Names of the labels, in order.
    """

    kind: str
    unit: str
    labels: tuple[str, ...]


_BY_MODEL = ("model_name", "model_version", "hostname")
_BY_HOST = ("Level", "Hostname")
_BY_GPU = ("Level", "DeviceId", "Hostname")
_OF_MODEL = ("ModelName", "Level", "Hostname")
FAMILIES = {
    "Requests2XX": Family("counter", "Count", _BY_HOST),
    "Requests4XX": Family("counter", "Count", _BY_HOST),
    "Requests5XX": Family("counter", "Count", _BY_HOST),
    "ts_inference_requests_total": Family("counter", "Count", _BY_MODEL),
    "ts_inference_latency_microseconds": Family("counter", "Microseconds", _BY_MODEL),
    "ts_queue_latency_microseconds": Family("counter", "Microseconds", _BY_MODEL),
    "QueueTime": Family("gauge", "Milliseconds", _BY_HOST),
    "WorkerThreadTime": Family("gauge", "Milliseconds", _BY_HOST),
    "WorkerLoadTime": Family("gauge", "Milliseconds", ("WorkerName", "Level", "Hostname")),
    "CPUUtilization": Family("gauge", "Percent", _BY_HOST),
    "MemoryUsed": Family("gauge", "Megabytes", _BY_HOST),
    "MemoryAvailable": Family("gauge", "Megabytes", _BY_HOST),
    "MemoryUtilization": Family("gauge", "Percent", _BY_HOST),
    "DiskUsage": Family("gauge", "Gigabytes", _BY_HOST),
    "DiskUtilization": Family("gauge", "Percent", _BY_HOST),
    "DiskAvailable": Family("gauge", "Gigabytes", _BY_HOST),
    "GPUMemoryUtilization": Family("gauge", "Percent", _BY_GPU),
    "GPUMemoryUsed": Family("gauge", "Megabytes", _BY_GPU),
    "GPUUtilization": Family("gauge", "Percent", _BY_GPU),
    "HandlerTime": Family("gauge", "ms", _OF_MODEL),
    "PredictionTime": Family("gauge", "ms", _OF_MODEL),
}
#: The three that `legacy` mode has.
LEGACY = ("ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds")

Sample = tuple[tuple[str, ...], float]


class Measures:
    """Counts what TorchServe counts.

    Args:
        models: What is registered.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._host = socket.gethostname()
        self._statuses = {"Requests2XX": 0, "Requests4XX": 0, "Requests5XX": 0}
        self._calls: dict[tuple[str, str], list[float]] = {}
        self._last: dict[str, float] = {}
        self._prediction_ms: dict[str, float] = {}

    def answered(self, status: int) -> None:
        """A request has been answered; what is neither 2xx nor 4xx counts as 5xx, as in the original."""
        name = {2: "Requests2XX", 4: "Requests4XX"}.get(status // 100, "Requests5XX")
        self._statuses[name] += 1

    def predicted(self, model: Model, version: str | None, elapsed_s: float, queued_s: float) -> None:
        """A prediction has been made, or has failed in a worker."""
        counts = self._calls.setdefault((model.name, version or DEFAULT), [0.0, 0.0, 0.0])
        counts[0] += 1
        counts[1] += elapsed_s * 1e6
        counts[2] += queued_s * 1e6
        self._last["QueueTime"] = queued_s * 1000
        self._last["WorkerThreadTime"] = max(0.0, elapsed_s - queued_s) * 1000
        self._prediction_ms[model.name] = max(0.0, elapsed_s - queued_s) * 1000

    def text(self, names: Sequence[str], *, legacy: bool) -> bytes:
        """The metrics as text; labels end with a comma, as clients know it.

        Args:
            names: Which are wanted; all when empty.
            legacy: Whether only the three of `legacy` mode are there.
        """
        there = LEGACY if legacy else tuple(FAMILIES)
        wanted = [name for name in there if not names or name in names]
        use = host_use() if any(name in _HOST for name in wanted) else None
        return "".join(self._family(name, use) for name in wanted).encode()

    def _family(self, name: str, use: HostUse | None) -> str:
        family = FAMILIES[name]
        head = f"# HELP {name} Torchserve prometheus {family.kind} metric with unit: {family.unit}\n# TYPE {name} {family.kind}\n"
        return head + "".join(_line(name, family.labels, values, number) for values, number in self._samples(name, use))

    def _samples(self, name: str, use: HostUse | None) -> Iterable[Sample]:
        if name in self._statuses:
            number = self._statuses[name]
            return [(("Host", self._host), number)] if number else []
        if name in LEGACY:
            at = LEGACY.index(name)
            return [((*key, self._host), counts[at]) for key, counts in self._calls.items()]
        if name in self._last:
            return [(("Host", self._host), self._last[name])]
        if name == "WorkerLoadTime":
            return self._load_times()
        if name == "PredictionTime":
            return [((model, "Model", self._host), number) for model, number in self._prediction_ms.items()]
        if use is not None and name in _HOST:
            return [(("Host", self._host), getattr(use, _HOST[name]))]
        return []

    def _load_times(self) -> Iterator[Sample]:
        for model in self._models.default_models():
            pool = model.pool
            if pool is None:
                continue
            for worker in pool.workers():
                label = f"W-{FIRST_WORKER - 1 + worker.id}-{model.name}_{model.version}"
                yield (label, "Host", self._host), pool.measures.load_s * 1000


#: Metric -> field of what the host uses.
_HOST = {
    "CPUUtilization": "cpu_percent",
    "MemoryUsed": "memory_used_mb",
    "MemoryAvailable": "memory_available_mb",
    "MemoryUtilization": "memory_percent",
    "DiskUsage": "disk_used_gb",
    "DiskAvailable": "disk_available_gb",
    "DiskUtilization": "disk_percent",
}


def _line(name: str, labels: Sequence[str], values: Sequence[str], number: float) -> str:
    told = "".join(f'{label}="{_escaped(value)}",' for label, value in zip(labels, values, strict=True))
    return f"{name}{{{told}}} {float(number)!r}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
