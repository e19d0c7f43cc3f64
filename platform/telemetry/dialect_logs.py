"""What TorchServe and MMS write into their log files: which lines, in which file, worded how (TorchServe reference §6.3)."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.log_files import LogFiles, RotatedFile, can_be_written
from flowyard.platform.telemetry.logs import Logs
from flowyard.platform.workers.watchers import Output, WorkerName
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.frames import Sample

Dialect: TypeAlias = Literal["torchserve", "mms"]

#: The number of the first worker of a server: the originals number them by ports.
FIRST_WORKER = 9000
#: What the originals tell of a client that has no address.
NO_ADDRESS = "0.0.0.0"  # noqa: S104 - a text, nothing listens there
#: Characters of a request's target that are logged.
TARGET_LENGTH = 2000
#: Time that the disk gets for the last lines.
CLOSE_LIMIT_S = 5.0
METRICS_MARK = b"[METRICS]"
#: A parameter of a query that lets whoever knows it in; also of a URL in the query.
_SECRET = re.compile(
    r"(?:^|[?&;]|%3f|%26)(?!next_page_token)(?:[a-z0-9.]+[-_])*"
    r"(?:token|key|apikey|secret|signature|sig|credentials?|passwd|password|auth|authorization|awsaccesskeyid|key-pair-id)(?:=|%3d)",
    re.IGNORECASE,
)
_LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARN", "error": "ERROR", "critical": "FATAL"}
#: What goes into a line of its own way.
_SAID = frozenset({"event", "level", "timestamp", "exception"})


class Words(msgspec.Struct, frozen=True):
    """What one of the originals calls things.

    Attributes:
        log: The file of the server's log, without its ending.
        metrics: The file of the server's metrics.
        metrics_logger: What lines about these are said to come from.
        worker_logger: What lines about workers are said to come from.
        output_logger: What the output of workers is said to come from.
        started: What its workers print first.
    """

    log: str
    metrics: str
    metrics_logger: str
    worker_logger: str
    output_logger: str
    started: str


_WORDS: dict[Dialect, Words] = {
    "torchserve": Words(
        "ts_log", "ts_metrics", "TS_METRICS", "org.pytorch.serve.wlm.WorkerThread", "MODEL_LOG", "Torch worker started."
    ),
    "mms": Words(
        "mms_log",
        "mms_metrics",
        "MMS_METRICS",
        "com.amazonaws.ml.mms.wlm.WorkerThread",
        "com.amazonaws.ml.mms.wlm.WorkerLifeCycle",
        "MMS worker started.",
    ),
}


class DialectLogs:
    """Writes the log files of one of the originals. Watches the workers.

    Args:
        dialect: Which one's.
        folder: Where its logs go.
        metrics_folder: Where its metrics go.
        logs: Gets what workers print, too.
    """

    wants_output = True

    def __init__(self, dialect: Dialect, folder: Path, metrics_folder: Path, logs: Logs) -> None:
        self._words = words = _WORDS[dialect]
        self._names = _torchserve_name if dialect == "torchserve" else _mms_name
        self._logs = logs
        #: Models, by name and version, of which a worker has died and none has loaded them since.
        self._recovering: set[tuple[str, str]] = set()
        places = {
            "access_log": folder,
            words.log: folder,
            "model_log": folder,
            words.metrics: metrics_folder,
            "model_metrics": metrics_folder,
        }
        detailed = (words.log, "model_log")
        self._files = LogFiles(
            {name: RotatedFile(place / f"{name}.log", detailed=name in detailed) for name, place in places.items()}
        )

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._files.dropped

    # ---- the server ----

    def event(self, event: Mapping[str, Any]) -> None:
        """Something that the server has logged."""
        further = " ".join(f"{key}={value}" for key, value in event.items() if key not in _SAID)
        text = f"{event.get('event', '')} {further}".rstrip()
        exception = event.get("exception")
        if exception:
            text = f"{text}\n{exception}"
        level = _LEVELS.get(str(event.get("level", "")), "INFO")
        self._files.write((self._words.log,), level, "main", "flowyard", text)

    def access(
        self, client: tuple[str, int] | None, method: str, target: str, protocol: str, status: int, elapsed_s: float
    ) -> None:
        """A request has been answered."""
        told = f'{_address(client)} "{method} {_without_secrets(target)} {protocol}" {status} {elapsed_s * 1000:.0f}'
        self._files.write(("access_log", self._words.log), "INFO", "event-loop", "ACCESS_LOG", told)

    def server_metric(self, text: str) -> None:
        """A metric of the server."""
        self._files.write((self._words.metrics, self._words.log), "INFO", "event-loop", self._words.metrics_logger, text)

    def model_metric(self, text: str) -> None:
        """A metric of a handler."""
        self._files.write(("model_metrics", self._words.log), "INFO", "event-loop", "MODEL_METRICS", text)

    # ---- workers ----

    def worker_started(self, worker: WorkerName) -> None:
        """A process has been started, maybe in the place of one that has died."""
        if (worker.model, worker.version) in self._recovering:
            self._of_worker(worker, "INFO", f"Retry worker: {FIRST_WORKER - 1 + worker.id} in 0 seconds.")
        self._changed(worker, "null", "WORKER_STARTED")

    def worker_ready(self, worker: WorkerName, load_s: float) -> None:
        """It has loaded its model."""
        self._printed(worker, "stdout", self._words.started)
        self._changed(worker, "WORKER_STARTED", "WORKER_MODEL_LOADED")
        if (worker.model, worker.version) in self._recovering:
            self._recovering.discard((worker.model, worker.version))
            self._of_worker(worker, "INFO", "Auto recovery succeeded, reset recoveryStartTS")

    def worker_ended(self, worker: WorkerName, reason: str, *, was_ready: bool, meant: bool) -> None:
        """It has ended."""
        before = "WORKER_MODEL_LOADED" if was_ready else "WORKER_STARTED"
        self._of_worker(worker, "INFO", f"{FIRST_WORKER - 1 + worker.id} Worker disconnected. {before}")
        if meant:
            # The model may be going: nobody comes back for it then.
            self._recovering.discard((worker.model, worker.version))
            self._changed(worker, before, "WORKER_SCALED_DOWN")
            return
        told = f"Backend worker monitoring thread interrupted or backend worker process died. ({reason})"
        self._of_worker(worker, "WARN", told)
        self._changed(worker, before, "WORKER_STOPPED")
        if (worker.model, worker.version) in self._recovering:
            self._of_worker(worker, "WARN", "Auto recovery failed again")
        else:
            self._recovering.add((worker.model, worker.version))
            self._of_worker(worker, "INFO", f"Auto recovery start timestamp: {int(time.time() * 1000)}")

    def measured(self, worker: WorkerName, samples: Sequence[Sample]) -> None:
        """Who counts metrics tells them as lines."""

    def printed(self, worker: WorkerName, output: Output, line: bytes) -> None:
        """It has printed a line; metrics go the way of metrics."""
        self._logs.writer.write(line + b"\n")
        if not line.startswith(METRICS_MARK):
            self._printed(worker, output, line.decode("utf-8", "backslashreplace"))

    def _printed(self, worker: WorkerName, output: Output, text: str) -> None:
        level = "WARN" if output == "stderr" else "INFO"
        name = f"{self._names(worker)}-{output}"
        self._files.write(("model_log", self._words.log), level, name, self._words.output_logger, text)

    def _changed(self, worker: WorkerName, before: str, after: str) -> None:
        self._of_worker(worker, "DEBUG", f"{self._names(worker)} State change {before} -> {after}")

    def _of_worker(self, worker: WorkerName, level: str, text: str) -> None:
        self._files.write((self._words.log,), level, self._names(worker), self._words.worker_logger, text)

    def close(self) -> None:
        """Writes what waits."""
        self._files.close(CLOSE_LIMIT_S)


def dialect_logs(settings: Settings, logs: Logs) -> DialectLogs | None:
    """The log files that the settings ask for.

    Args:
        settings: The settings.
        logs: The log of the process.

    Returns:
        The files of the first dialect that is served, `None` for none.

    Raises:
        InvalidRequestError: They cannot be written.
    """
    served = [name.lower() for name in settings.dialects]
    dialects: tuple[Dialect, ...] = ("torchserve", "mms")
    dialect = next((known for name in served for known in dialects if known == name), None)
    if settings.log_location is None or dialect is None:
        return None
    folder = Path(settings.log_location)
    metrics_folder = Path(settings.metrics_location or settings.log_location)
    for setting, place in (("log_location", folder), ("metrics_location", metrics_folder)):
        if not can_be_written(place):
            raise InvalidRequestError(f"{setting} {place}: no files can be written there")
    try:
        for place in (folder, metrics_folder):
            place.mkdir(parents=True, exist_ok=True)
        return DialectLogs(dialect, folder, metrics_folder, logs)
    except OSError as error:
        raise InvalidRequestError(f"log_location {error.filename}: {error.strerror}") from None


def worker_label(worker: int, model: str, version: str) -> str:
    """What TorchServe calls a worker, after its port."""
    return f"W-{FIRST_WORKER - 1 + worker}-{model}_{version}"


def _torchserve_name(worker: WorkerName) -> str:
    return worker_label(worker.id, worker.model.replace(":", "__"), worker.version or "1.0")


def _mms_name(worker: WorkerName) -> str:
    return f"W-{FIRST_WORKER - 1 + worker.id}-{worker.model[:25]}"


def _address(client: tuple[str, int] | None) -> str:
    """As Java writes it; a socket file has none."""
    if not client or not client[0]:
        return NO_ADDRESS
    host, port = client[0], client[1]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"/{host}:{port}"
    if address.version == 6:
        host = ":".join(f"{int(part, 16):x}" for part in address.exploded.partition("%")[0].split(":"))
    return f"/{host}:{port}"


def _without_secrets(target: str) -> str:
    path, mark, query = target[:TARGET_LENGTH].partition("?")
    return f"{path}?..." if mark and _SECRET.search(query) else target[:TARGET_LENGTH]
