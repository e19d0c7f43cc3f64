"""Which metrics there are: TorchServe's `metrics.yaml` (TorchServe reference §6.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import msgspec
import yaml

from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidRequestError

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

KINDS: tuple[Kind, ...] = ("counter", "gauge", "histogram")
#: What every metric of a handler has for its last dimension.
HOSTNAME = "Hostname"
MAX_CONFIG_BYTES = 1 << 20
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class Family(msgspec.Struct, frozen=True):
    """One metric.

    Attributes:
        kind: What becomes of a value that is not the first.
        unit: As the original tells it.
        labels: Names of the labels, in order; the last one is the host's.
    """

    kind: Kind
    unit: str
    labels: tuple[str, ...]


class Declared(msgspec.Struct, frozen=True):
    """The metrics that there are.

    Attributes:
        of_server: Those of the server, by name.
        of_models: Those of handlers, by name.
    """

    of_server: Mapping[str, Family]
    of_models: Mapping[str, Family]


_BY_MODEL = ("model_name", "model_version", "hostname")
_BY_HOST = ("Level", HOSTNAME)
_BY_GPU = ("Level", "DeviceId", HOSTNAME)
_OF_MODEL = ("ModelName", "Level", HOSTNAME)
#: What TorchServe declares itself, with the labels that the server's metrics have.
DEFAULT = Declared(
    {
        "Requests2XX": Family("counter", "Count", _BY_HOST),
        "Requests4XX": Family("counter", "Count", _BY_HOST),
        "Requests5XX": Family("counter", "Count", _BY_HOST),
        "ts_inference_requests_total": Family("counter", "Count", _BY_MODEL),
        "ts_inference_latency_microseconds": Family("counter", "Microseconds", _BY_MODEL),
        "ts_queue_latency_microseconds": Family("counter", "Microseconds", _BY_MODEL),
        "QueueTime": Family("gauge", "Milliseconds", _BY_HOST),
        "WorkerThreadTime": Family("gauge", "Milliseconds", _BY_HOST),
        "WorkerLoadTime": Family("gauge", "Milliseconds", ("WorkerName", "Level", HOSTNAME)),
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
    },
    {
        "HandlerTime": Family("gauge", "ms", _OF_MODEL),
        "PredictionTime": Family("gauge", "ms", _OF_MODEL),
    },
)


def declared_by(settings: Settings) -> Declared:
    """The metrics that there are.

    Raises:
        InvalidRequestError: The file that says so cannot be read.
    """
    return DEFAULT if settings.metrics_config is None else read_metric_config(Path(settings.metrics_config))


def told_to_workers(declared: Declared) -> str:
    """The metrics of handlers as JSON: name, unit, dimensions without the host, and kind of each."""
    return msgspec.json.encode(
        [(name, family.unit, family.labels[:-1], family.kind) for name, family in declared.of_models.items()]
    ).decode()


def is_name(text: str) -> bool:
    """Whether a metric can be called so."""
    return _NAME.fullmatch(text) is not None


def are_labels(names: tuple[str, ...]) -> bool:
    """Whether labels can be called so."""
    return len(set(names)) == len(names) and all(_LABEL.fullmatch(name) for name in names)


def read_metric_config(file: Path) -> Declared:
    """Reads a `metrics.yaml`.

    Args:
        file: The file of the setting `metrics_config`.

    Returns:
        What it declares.

    Raises:
        InvalidRequestError: It cannot be read, or declares something that is no metric.
    """
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise InvalidRequestError(f"metrics_config {file} has more than {MAX_CONFIG_BYTES} bytes")
        given = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise InvalidRequestError(f"metrics_config {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"metrics_config {file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise InvalidRequestError(f"metrics_config {file}: expected are ts_metrics and model_metrics")
    of_server = dict(_families(given.get("ts_metrics"), f"metrics_config {file}: ts_metrics"))
    of_models = dict(_families(given.get("model_metrics"), f"metrics_config {file}: model_metrics", (HOSTNAME,)))
    for name, family in of_server.items():
        known = DEFAULT.of_server.get(name)
        if known is not None and len(known.labels) != len(family.labels):
            raise InvalidRequestError(f"metrics_config {file}: ts_metrics: {name} has the dimensions {', '.join(known.labels)}")
    return Declared(of_server, of_models)


def _families(section: Any, place: str, further: tuple[str, ...] = ()) -> Iterator[tuple[str, Family]]:
    if section is None:
        return
    if not isinstance(section, dict):
        raise InvalidRequestError(f"{place}: expected are {', '.join(KINDS)}")
    for kind, items in section.items():
        if kind not in KINDS:
            raise InvalidRequestError(f"{place}: {str(kind)[:50]!r} is no kind of metric; known are {', '.join(KINDS)}")
        if items is not None and not isinstance(items, list):
            raise InvalidRequestError(f"{place}.{kind}: expected is a list of metrics")
        for number, item in enumerate(items or ()):
            yield _family(item, cast(Kind, kind), f"{place}.{kind}[{number}]", further)


def _family(item: Any, kind: Kind, place: str, further: tuple[str, ...]) -> tuple[str, Family]:
    given = item if isinstance(item, dict) else {}
    name, unit, dimensions = given.get("name"), given.get("unit"), given.get("dimensions") or []
    if not isinstance(name, str) or not is_name(name):
        raise InvalidRequestError(f"{place}: name {str(name)[:50]!r} is none that a metric can have")
    if not isinstance(unit, str) or not unit:
        raise InvalidRequestError(f"{place}: {name} has no unit")
    if not isinstance(dimensions, list) or not all(isinstance(one, str) for one in dimensions):
        raise InvalidRequestError(f"{place}: the dimensions of {name} are no list of names")
    labels = (*dimensions, *further)
    if not are_labels(labels):
        raise InvalidRequestError(f"{place}: the dimensions of {name} are none that labels can be called, each once")
    return name, Family(kind, unit, labels)
