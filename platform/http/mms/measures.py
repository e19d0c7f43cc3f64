"""MMS's metrics: lines of its log, there is nothing else (TorchServe reference §6.3)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence

from flowyard.platform.http.torchserve.measures import HOST_METRICS, MetricLines
from flowyard.platform.http.torchserve.meters import java_number
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.host import host_use
from flowyard.platform.telemetry.measures import is_bounded
from flowyard.platform.torchserve_metrics import DEFAULT
from flowyard.platform.workers.watchers import Output, WorkerName
from flowyard.schemas.frames import Sample


class MmsMeasures:
    """Writes a line for what MMS counts. Watches the workers for what their handlers measure.

    Args:
        settings: Whether the machine is watched, and how often.
        lines: Gets the lines.
    """

    wants_output = False

    def __init__(self, settings: Settings, lines: MetricLines) -> None:
        self._lines = lines
        self._host = socket.gethostname()
        self._reads_host = not settings.disable_system_metrics
        self._interval_s = settings.metric_time_interval
        self._timer: asyncio.TimerHandle | None = None

    def answered(self, status: int) -> None:
        """A request has been answered."""
        name = {2: "Requests2XX", 4: "Requests4XX"}.get(status // 100, "Requests5XX")
        self._tell(f"{name}.Count:1|#Level:Host")

    def watch_host(self) -> None:
        """Tells what the machine uses now and from time to time."""
        if not self._reads_host:
            return
        use = host_use()
        for name, field in HOST_METRICS.items():
            self._tell(f"{name}.{DEFAULT.of_server[name].unit}:{java_number(round(getattr(use, field), 2))}|#Level:Host")
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self.watch_host)

    def close(self) -> None:
        """The server stops."""
        if self._timer is not None:
            self._timer.cancel()

    def measured(self, worker: WorkerName, samples: Sequence[Sample]) -> None:
        """Handlers have measured something."""
        del worker
        for sample in filter(is_bounded, samples):
            dimensions = ",".join(f"{name}:{value}" for name, value in sample.dimensions)
            request = f",requestID:{sample.request_id}" if sample.request_id else ""
            told = f"{sample.name}.{sample.unit}:{sample.value:g}|#{dimensions}|#hostname:{self._host}{request}"
            self._lines.model_metric(f"{told},timestamp:{int(time.time())}")

    def worker_ready(self, worker: WorkerName, load_s: float) -> None:
        """A worker has loaded its model: the original's metric is called like the worker."""
        self._tell(f"W-{worker.model[:25]}-{worker.id}.ms:{load_s * 1000:.0f}|#Level:Host")

    def worker_started(self, worker: WorkerName) -> None:
        """Nothing is measured then."""

    def worker_ended(self, worker: WorkerName, reason: str, *, was_ready: bool, meant: bool) -> None:
        """Nothing is measured then."""

    def printed(self, worker: WorkerName, output: Output, line: bytes) -> None:
        """Nothing is measured then."""

    def _tell(self, text: str) -> None:
        self._lines.server_metric(f"{text}|#hostname:{self._host},timestamp:{int(time.time())}")
