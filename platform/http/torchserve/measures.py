"""TorchServe's metrics: what is measured, and where it is told: as text, or as lines of the log (TorchServe reference §6.1)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

import structlog

from flowyard.platform.http.torchserve.entries import NO_VERSION, Model, Models
from flowyard.platform.http.torchserve.meters import Meter, java_number
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.dialect_logs import worker_label
from flowyard.platform.telemetry.gpus import Gpus
from flowyard.platform.telemetry.host import host_use
from flowyard.platform.telemetry.measures import is_bounded
from flowyard.platform.torchserve_metrics import HOSTNAME, Family, Kind, are_labels, declared_by, is_name
from flowyard.platform.workers.watchers import Output, WorkerName
from flowyard.schemas.frames import Sample

log = structlog.stdlib.get_logger(__name__)

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
#: The version of a request that names none.
DEFAULT_VERSION = "default"
#: The three that `legacy` mode has as text.
LEGACY = ("ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds")
#: Metrics of handlers that nobody has declared.
MOST_DETECTED = 200
#: Metric -> field of what the host uses.
HOST_METRICS = {
    "CPUUtilization": "cpu_percent",
    "MemoryUsed": "memory_used_mb",
    "MemoryAvailable": "memory_available_mb",
    "MemoryUtilization": "memory_percent",
    "DiskUsage": "disk_used_gb",
    "DiskAvailable": "disk_available_gb",
    "DiskUtilization": "disk_percent",
}
#: Metric -> field of what a GPU does.
GPU_METRICS = {"GPUMemoryUtilization": "memory_percent", "GPUMemoryUsed": "memory_used_mb", "GPUUtilization": "percent"}
_KINDS: dict[str, Kind] = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}


class MetricLines(Protocol):
    """The files of metrics."""

    def server_metric(self, text: str, /) -> None:
        """One of the server's."""

    def model_metric(self, text: str, /) -> None:
        """One of a handler's."""


class Measures:
    """Counts what TorchServe counts. Watches the workers for what their handlers measure.

    Args:
        models: What is registered.
        settings: Which metrics there are, and where they are told.
        lines: Gets those that are told as lines, `None` for nobody.
        gpus: Looks at the GPUs, `None` for nobody.

    Raises:
        InvalidRequestError: The file that declares them cannot be read.
    """

    wants_output = False

    def __init__(self, models: Models, settings: Settings, lines: MetricLines | None = None, gpus: Gpus | None = None) -> None:
        self._models = models
        self._mode = settings.metrics_mode
        self._lines = lines
        self._gpus = gpus
        self._host = socket.gethostname()
        declared = declared_by(settings)
        self._of_server = {name: Meter(name, family) for name, family in declared.of_server.items()}
        self._of_models = {name: Meter(name, family) for name, family in declared.of_models.items()}
        self._most = len(self._of_models) + (MOST_DETECTED if detects(settings) else 0)
        self._left_out: set[str] = set()
        self._reads_host = not settings.disable_system_metrics
        self._interval_s = settings.metric_time_interval
        self._timer: asyncio.TimerHandle | None = None

    # ---- what is measured ----

    def answered(self, status: int) -> None:
        """A request has been answered; what is neither 2xx nor 4xx counts as 5xx, as in the original."""
        self._record({2: "Requests2XX", 4: "Requests4XX"}.get(status // 100, "Requests5XX"), ("Host",), 1)

    def predicted(self, model: Model, version: str | None, elapsed_s: float, queued_s: float) -> None:
        """A prediction has been made, or has failed in a worker."""
        labels = (model.name, version or DEFAULT_VERSION)
        busy_ms = max(0.0, elapsed_s - queued_s) * 1000
        self._record("ts_inference_requests_total", labels, 1)
        self._record("ts_inference_latency_microseconds", labels, elapsed_s * 1e6)
        self._record("ts_queue_latency_microseconds", labels, queued_s * 1e6)
        self._record("QueueTime", ("Host",), queued_s * 1000)
        self._record("WorkerThreadTime", ("Host",), busy_ms)
        if not _measures_itself(model):
            of_model = (("ModelName", model.name), ("Level", "Model"))
            self._measured(Sample("PredictionTime", "Milliseconds", "gauge", busy_ms, of_model))

    def measured(self, worker: WorkerName, samples: Sequence[Sample]) -> None:
        """Handlers have measured something."""
        del worker
        for sample in samples:
            self._measured(sample)

    def worker_ready(self, worker: WorkerName, load_s: float) -> None:
        """A worker has loaded its model."""
        if self._lines is not None and self._tells_as_line("WorkerLoadTime"):
            name = worker_label(worker.id, worker.model, worker.version or NO_VERSION)
            self._lines.server_metric(self._line(self._of_server["WorkerLoadTime"], (name, "Host", self._host), load_s * 1000))

    def worker_started(self, worker: WorkerName) -> None:
        """Nothing is measured then."""

    def worker_ended(self, worker: WorkerName, reason: str, *, was_ready: bool, meant: bool) -> None:
        """Nothing is measured then."""

    def printed(self, worker: WorkerName, output: Output, line: bytes) -> None:
        """Nothing is measured then."""

    def _record(self, name: str, labels: tuple[str, ...], number: float) -> None:
        meter = self._of_server.get(name)
        if meter is None:
            return
        told = (*labels, self._host)
        if not self._tells_as_line(name):
            if not meter.add(told, number):
                self._forget_unregistered(meter)
                meter.add(told, number)
        elif self._lines is not None:
            self._lines.server_metric(self._line(meter, told, number))

    def _forget_unregistered(self, meter: Meter) -> None:
        """Where there are too many series, those of models that are gone go."""
        if meter.name in LEGACY:
            there = {model.name for model in self._models.default_models()}
            meter.series = {labels: series for labels, series in meter.series.items() if labels[0] in there}

    def _measured(self, sample: Sample) -> None:
        meter = self._of_models.get(sample.name) or self._detected(sample)
        labels = self._labels_of(sample, meter.family) if meter is not None else None
        if meter is None or labels is None:
            return
        if self._mode != "prometheus":
            if self._lines is not None:
                self._lines.model_metric(self._line(meter, labels, sample.value, f",requestID:{sample.request_id or 'null'}"))
        elif not meter.add(labels, sample.value):
            self._leave_out(sample.name, "it has too many series, or is a counter that goes back")

    def _detected(self, sample: Sample) -> Meter | None:
        """A metric that nobody has declared, where such are taken."""
        labels = (*(label for label, _ in sample.dimensions), HOSTNAME)
        if len(self._of_models) >= self._most or sample.name in self._of_server:
            self._leave_out(sample.name, "it is not declared (settings metrics_config, model_metrics_auto_detect)")
            return None
        if not (is_name(sample.name) and are_labels(labels) and is_bounded(sample)):
            self._leave_out(sample.name, "Prometheus allows no such name, or no such dimensions")
            return None
        meter = self._of_models[sample.name] = Meter(sample.name, Family(_KINDS.get(sample.kind, "gauge"), sample.unit, labels))
        return meter

    def _labels_of(self, sample: Sample, family: Family) -> tuple[str, ...] | None:
        """Values for the labels of a metric: by name, else in the order in which they come, as in the original."""
        given = dict(sample.dimensions)
        names = family.labels[:-1]
        if len(sample.dimensions) != len(names) or not is_bounded(sample):
            self._leave_out(sample.name, f"its dimensions are not {', '.join(names)}")
            return None
        values = [given[name] for name in names] if set(names) == set(given) else [value for _, value in sample.dimensions]
        return (*values, self._host)

    def _leave_out(self, name: str, reason: str) -> None:
        """Says once that values of a metric are left out."""
        if name not in self._left_out and len(self._left_out) < MOST_DETECTED:
            self._left_out.add(name)
            log.warning("a metric of a handler is left out", metric=name[:100], reason=reason)

    # ---- as lines ----

    def _tells_as_line(self, name: str) -> bool:
        return name in self._of_server and (self._mode == "log" or (self._mode == "legacy" and name not in LEGACY))

    def _line(self, meter: Meter, labels: tuple[str, ...], number: float, request: str = "") -> str:
        before, behind = meter.words(labels)
        return f"{before}{java_number(number)}{behind}{request},timestamp:{int(time.time())}"

    def watch_host(self) -> None:
        """Tells what the machine uses now and from time to time, where that is told as lines."""
        if not self._reads_host or self._lines is None or self._mode == "prometheus":
            return
        use = host_use()
        for name, field in HOST_METRICS.items():
            self._record(name, ("Host",), getattr(use, field))
        for name, labels, number in self._gpu_use():
            self._record(name, labels, number)
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self.watch_host)

    def _gpu_use(self) -> Iterator[tuple[str, tuple[str, str], float]]:
        for gpu in self._gpus.latest if self._gpus is not None else ():
            for name, field in GPU_METRICS.items():
                number = getattr(gpu, field)
                if number is not None:
                    yield name, ("Host", str(gpu.id)), number

    def close(self) -> None:
        """The server stops."""
        if self._timer is not None:
            self._timer.cancel()

    # ---- as text ----

    def text(self, names: Collection[str]) -> bytes:
        """The metrics as text.

        Args:
            names: Which are wanted; all when empty.
        """
        if self._mode == "log":
            return b""
        meters: Iterable[Meter] = (*self._of_server.values(), *self._of_models.values())
        if self._mode == "legacy":
            meters = [meter for meter in self._of_server.values() if meter.name in LEGACY]
        else:
            self._read_now(names)
        return "".join(meter.text(names) for meter in meters).encode()

    def _read_now(self, names: Collection[str]) -> None:
        """What is only known when somebody asks."""
        wanted = [name for name in HOST_METRICS if name in self._of_server and (not names or name in names)]
        if wanted and self._reads_host:
            use = host_use()
            for name in wanted:
                self._of_server[name].add(("Host", self._host), getattr(use, HOST_METRICS[name]))
        self._read_gpus()
        times = self._of_server.get("WorkerLoadTime")
        if times is not None:
            times.series = {}
            for worker, load_ms in self._load_times():
                times.add((worker, "Host", self._host), load_ms)

    def _read_gpus(self) -> None:
        """What is not known of a GPU any more goes."""
        meters = [self._of_server[name] for name in GPU_METRICS if name in self._of_server]
        if not meters or not self._reads_host:
            return
        for meter in meters:
            meter.series = {}
        for name, labels, number in self._gpu_use():
            if name in self._of_server:
                self._of_server[name].add((*labels, self._host), number)

    def _load_times(self) -> Iterator[tuple[str, float]]:
        for model in self._models.default_models():
            pool = model.pool
            if pool is None:
                continue
            for worker in pool.workers():
                yield worker_label(worker.id, model.name, model.version), pool.measures.load_s * 1000


def detects(settings: Settings) -> bool:
    """Whether metrics of handlers that nobody has declared are taken: where nobody says, if no file declares any."""
    said = settings.model_metrics_auto_detect
    return settings.metrics_config is None if said is None else said


def _measures_itself(model: Model) -> bool:
    """Whether its handlers tell how long a prediction takes."""
    pool = model.pool
    return pool is not None and pool.spec.handlers in ("torchserve", "mms")
