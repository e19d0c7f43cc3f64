"""What MMS tells of a model (TorchServe reference §1.4), and the `metrics` of its early document."""

from __future__ import annotations

import msgspec

from flowyard.platform.http.torchserve.descriptions import limits, runtime_of, seen_workers, shown_url, told_time
from flowyard.platform.http.torchserve.entries import Model
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.dialect_logs import FIRST_WORKER
from flowyard.platform.workers.crew import WorkerView
from flowyard.platform.workers.pool import ModelPool


class WorkerInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A worker."""

    id: str
    start_time: str
    status: str
    gpu: bool
    memory_usage: int


class MetricsInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the early document tells of the requests of a model."""

    rejected_requests: int
    waiting_queue_size: int
    requests: int


class ModelInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A model, in the original's order."""

    model_name: str
    model_version: str | msgspec.UnsetType
    model_url: str | msgspec.UnsetType
    engine: str | msgspec.UnsetType
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    loaded_at_startup: bool
    workers: list[WorkerInfo]
    metrics: MetricsInfo


def describe(model: Model, settings: Settings) -> ModelInfo:
    """A model in full.

    Args:
        model: The model.
        settings: What counts where nothing is known of its workers yet.
    """
    pool = model.pool
    policy = pool.spec.policy if pool is not None else None
    properties = pool.spec.properties if pool is not None else {}
    low, high = limits(pool)
    return ModelInfo(
        model_name=model.name,
        model_version=model.entry.record.version or msgspec.UNSET,
        model_url=shown_url(model, settings),
        engine=properties.get("engine") or msgspec.UNSET,
        runtime=runtime_of(model),
        min_workers=low,
        max_workers=high,
        batch_size=pool.spec.batch_size if pool is not None else settings.batch_size,
        max_batch_delay=round(policy.batch_delay_s * 1000) if policy is not None else settings.max_batch_delay,
        loaded_at_startup=model.entry.at_startup,
        workers=[_worker(worker) for worker in seen_workers(pool)],
        metrics=_metrics(model, pool),
    )


def _metrics(model: Model, pool: ModelPool | None) -> MetricsInfo:
    deployment = model.entry.deployment
    return MetricsInfo(
        rejected_requests=pool.measures.failures.get("queue_full", 0) if pool is not None else 0,
        waiting_queue_size=pool.queue_length if pool is not None else 0,
        requests=sum(deployment.requests.codes.values()) if deployment is not None else 0,
    )


def _worker(worker: WorkerView) -> WorkerInfo:
    """A worker is `READY` from the first moment, as in the original, until it is on its way out."""
    return WorkerInfo(
        id=str(FIRST_WORKER - 1 + worker.id),
        start_time=told_time(worker.started),
        status="UNLOADING" if worker.leaving else "READY",
        gpu=worker.device.type == "gpu",
        memory_usage=worker.memory_bytes(),
    )
