"""What counts where several say how a model is to be served: the caller, the model's own file, the settings."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from flowyard.schemas.models import ModelSpec

#: What a registration may say in `options` that only counts where the model's own file does not say it, as in TorchServe.
INITIAL_WORKERS, RESPONSE_TIMEOUT, STARTUP_TIMEOUT = "initial_workers", "response_timeout", "startup_timeout"
#: What it may say there of workers on all devices together, which are shared out among them.
LEAST_WORKERS, MOST_WORKERS = "least_workers_in_all", "most_workers_in_all"


def shared_out(options: Mapping[str, str], devices: int) -> ModelSpec:
    """What the operator's configuration says of workers on all devices together.

    Args:
        options: The options of the registration.
        devices: How many devices the model is loaded on.

    Returns:
        Workers per device, as far as they are said.
    """
    least, most = (options.get(name) for name in (LEAST_WORKERS, MOST_WORKERS))
    return ModelSpec(min_worker=_share(least, devices), max_worker=_share(most, devices))


def _share(workers: str | None, devices: int) -> int | None:
    return None if workers is None else -(-int(workers) // devices)


def late_spec(options: Mapping[str, str], devices: int) -> ModelSpec:
    """What a registration says that gives way to the model's own file.

    Args:
        options: The options of the registration.
        devices: How many devices the model is loaded on; workers are shared out among them.

    Returns:
        Workers and compute time, as far as they are said.
    """
    per_device = _share(options.get(INITIAL_WORKERS), devices)
    timeout = options.get(RESPONSE_TIMEOUT)
    return ModelSpec(min_worker=per_device, max_worker=per_device, timeout=float(timeout) if timeout else None)


def workers(spec: ModelSpec, default_high: int = 1) -> tuple[int, int]:
    """Minimum and maximum of workers per device.

    Args:
        spec: What is said about the model.
        default_high: The maximum where nothing is said; it is at least the minimum.
    """
    low = spec.min_worker if spec.min_worker is not None else (1 if spec.max_worker != 0 else 0)
    high = spec.max_worker if spec.max_worker is not None else max(low, default_high)
    return min(low, high), high


def fill(spec: ModelSpec, defaults: ModelSpec) -> ModelSpec:
    """Fills what a specification leaves open from another one."""
    absent = {
        field: value
        for field in ModelSpec.__struct_fields__
        if getattr(spec, field) is None and (value := getattr(defaults, field)) is not None
    }
    return msgspec.structs.replace(spec, **absent) if absent else spec


def overridden(spec: ModelSpec, overrides: ModelSpec) -> ModelSpec:
    """A model of a registration that says something about all of its models; that they are trusted, it can only add."""
    options = overrides.options | spec.options
    filled = fill(msgspec.structs.replace(spec, options=options) if options != spec.options else spec, overrides)
    return msgspec.structs.replace(filled, trusted=True) if overrides.trusted else filled
