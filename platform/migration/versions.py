"""How a model of TorchServe or MMS is served: its archive, the configuration and the defaults, as a document has it."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from typing import Any

import msgspec

from flowyard.platform.devices import cpu_count
from flowyard.platform.migration.archives import Archive
from flowyard.platform.migration.verdicts import Outcome, Verdict, verdict
from flowyard.platform.registry.precedence import fill
from flowyard.platform.settings import Settings
from flowyard.platform.sources import Given
from flowyard.platform.torchserve_snapshots import KEY, ModelDefaults
from flowyard.schemas.models import ModelSpec

#: Keys of a model in the JSON of `models` and of snapshots, and what a document calls them.
_KEYS = {
    "marName": "url",
    "minWorkers": "min_worker",
    "maxWorkers": "max_worker",
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay",
    "responseTimeout": "timeout",
    "startupTimeout": "startup_timeout",
    "handler": "handler",
    "defaultVersion": "default",
}
#: Those that a snapshot repeats from the archive.
_OF_ARCHIVE = frozenset({"deviceIds", "deviceType", "jobQueueSize", "parallelLevel", "parallelType"})


def serving(
    archive: Archive, said: ModelDefaults, settings: Settings, *, of_snapshot: bool, handler: str = "", gpus: int = 0
) -> dict[str, Any]:
    """The keys of a version.

    A snapshot counts more than the archive, which counts more than the key `models` (TorchServe reference §1.2).

    Args:
        archive: What the archive says.
        said: What the configuration says of this version.
        settings: Defaults of the installation.
        of_snapshot: Whether it says so in a snapshot.
        handler: The handler that the configuration names, empty for the archive's own.
        gpus: How many GPUs there are; the originals share workers out among them.
    """
    own = archive.config.spec()
    device = archive.config.device(0)
    devices = 1 if device == "cpu" else max(1, gpus)
    configured = ModelSpec(
        min_worker=_share(said.min_workers, devices),
        max_worker=_share(said.max_workers, devices),
        batch_size=said.batch_size,
        max_batch_delay=said.max_batch_delay,
    )
    spec = fill(configured, own) if of_snapshot else fill(own, configured)
    if spec.min_worker is None and spec.max_worker is None:
        number = _share(settings.default_workers_per_model or gpus or cpu_count(), devices)
        spec = msgspec.structs.replace(spec, min_worker=number, max_worker=number)
    timeout_s = own.timeout or said.response_timeout
    given = {
        "device": device,
        "batch_size": spec.batch_size,
        "max_batch_delay": spec.max_batch_delay,
        "min_worker": spec.min_worker,
        "max_worker": spec.max_worker,
        "job_queue_size": spec.job_queue_size,
        "timeout": timeout_s or None,
        "startup_timeout": None if archive.config.startup_timeout_s else said.startup_timeout or None,
        "handler": handler or None,
        "service_envelope": settings.service_envelope,
        "decode_input_request": None if settings.decode_input_request else False,
    }
    return {key: value for key, value in given.items() if value is not None}


def _share(workers: int | None, devices: int) -> int | None:
    return None if workers is None else -(-workers // devices)


def judge(item: Given, carried: Container[tuple[str, str]]) -> Iterator[Verdict]:
    """What became of the keys that say how versions are served.

    Args:
        item: The key `models`, or a snapshot; its JSON has been read already.
        carried: Names and versions that are in documents. What a snapshot names besides is a verdict of its own.
    """
    head = "models" if item.name == KEY else ""
    for name, versions in json.loads(str(item.value)).items():
        for version, keys in versions.items():
            path = ".".join([item.name, *([head] if head else []), name, version])
            if (name, version) in carried:
                names = " ".join(_KEYS[key] for key in keys if key in _KEYS)
                yield verdict(item, "carried", f"document {name}, version {version}: {names}", path)
                for key in sorted(keys.keys() - _KEYS.keys()):
                    outcome, text = _outcome(key, keys[key])
                    yield verdict(item, outcome, text, f"{path}.{key}")
            elif not head:
                yield verdict(item, "no effect", "it is in no document", path)


def _outcome(key: str, value: object) -> tuple[Outcome, str]:
    if key in _OF_ARCHIVE:
        return "carried", "the archive, whose model-config.yaml says so"
    if key == "runtimeType":
        if str(value).lower() == "lsp":
            return "changes answers", "handlers in C++ are not supported"
        return "no effect", "handlers run with the server's Python"
    return "no effect", "nothing here looks at it"
