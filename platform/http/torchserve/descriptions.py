"""What TorchServe tells of a model (TorchServe reference §1.2, `GET /models/{name}`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowyard.engines.torchserve.folder import CONFIG
from flowyard.platform.http.torchserve.entries import Model
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.dialect_logs import FIRST_WORKER
from flowyard.platform.telemetry.gpus import GpuUse
from flowyard.platform.workers.crew import WorkerView
from flowyard.platform.workers.pool import ModelPool
from flowyard.schemas.models import ModelSpec

DEFAULT_RETRY_S = 300
#: The process of a worker that is to be started again.
NO_PROCESS = -1
#: The engine of all models of TorchServe, as its documents name it.
ENGINE = "Torch"


class Configured(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a description tells of a `model-config.yaml`, besides how the model is served."""

    max_retry_timeout_in_sec: int = DEFAULT_RETRY_S
    client_timeout_in_mills: int = 0
    parallel_type: str = ""
    parallel_level: int = 0
    device_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    continuous_batching: bool = False
    use_job_ticket: bool = False
    use_venv: bool = False
    sequence_max_idle_m_sec: int = 0
    sequence_timeout_m_sec: int = 0
    max_num_sequence: int = 0
    max_sequence_job_queue_size: int = 0


class WorkerInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A worker; it is `READY`, or `UNLOADING` before and after."""

    id: str
    start_time: str
    status: str
    memory_usage: int
    pid: int
    gpu: bool
    gpu_usage: str


class QueueInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The queue of a model."""

    remaining_capacity: int
    pending_requests: int


class ModelInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One version of a model, in the original's order."""

    model_name: str
    model_version: str
    model_url: str | msgspec.UnsetType
    engine: str
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: int
    startup_timeout: int
    max_retry_timeout_in_sec: int
    client_timeout_in_mills: int
    parallel_type: str
    parallel_level: int
    device_type: str
    device_ids: list[int] | msgspec.UnsetType
    continuous_batching: bool
    use_job_ticket: bool
    use_venv: bool
    stateful: bool
    sequence_max_idle_m_sec: int
    sequence_timeout_m_sec: int
    max_num_sequence: int
    max_sequence_job_queue_size: int
    loaded_at_startup: bool
    workers: list[WorkerInfo]
    job_queue_status: QueueInfo
    customized_metadata: Any = msgspec.UNSET


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """How a version is served; workers are those of all devices, times in seconds and the delay in milliseconds."""

    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: int
    startup_timeout: int


class ModelItem(msgspec.Struct, frozen=True, rename="camel"):
    """A model in a list."""

    model_name: str
    model_url: str


class ModelList(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A page of models."""

    next_page_token: str | msgspec.UnsetType = msgspec.UNSET
    models: list[ModelItem]


def describe(model: Model, settings: Settings, metadata: Any = msgspec.UNSET, gpus: Sequence[GpuUse] = ()) -> ModelInfo:
    """One version in full.

    Args:
        model: The model.
        settings: What counts where nothing is known of its workers yet.
        metadata: What it says of itself, where it was asked.
        gpus: What the GPUs are doing.
    """
    pool = model.pool
    served = served_as(model, settings)
    policy = pool.spec.policy if pool is not None and not model.function else None
    size = policy.queue_size if policy is not None else settings.job_queue_size
    waiting = pool.queue_length if pool is not None else 0
    configured = configured_of(pool)
    sequences = policy.sequences if policy is not None else None
    is_gpu = pool is not None and any(device.type == "gpu" for device in pool.spec.devices)
    return ModelInfo(
        model_name=model.name,
        model_version=model.version,
        model_url=shown_url(model, settings),
        engine=engine_of(pool),
        runtime=runtime_of(model),
        min_workers=served.min_workers,
        max_workers=served.max_workers,
        batch_size=served.batch_size,
        max_batch_delay=served.max_batch_delay,
        response_timeout=served.response_timeout,
        startup_timeout=served.startup_timeout,
        max_retry_timeout_in_sec=configured.max_retry_timeout_in_sec,
        client_timeout_in_mills=configured.client_timeout_in_mills,
        parallel_type=configured.parallel_type,
        parallel_level=configured.parallel_level,
        device_type="gpu" if is_gpu else "cpu",
        # Ids that are not there are ignored, all of them.
        device_ids=configured.device_ids if is_gpu else msgspec.UNSET,
        continuous_batching=configured.continuous_batching,
        use_job_ticket=configured.use_job_ticket,
        use_venv=configured.use_venv,
        sequence_max_idle_m_sec=configured.sequence_max_idle_m_sec,
        sequence_timeout_m_sec=configured.sequence_timeout_m_sec,
        stateful=sequences is not None,
        max_num_sequence=sequences.most if sequences is not None else configured.max_num_sequence,
        max_sequence_job_queue_size=sequences.queue_size if sequences is not None else configured.max_sequence_job_queue_size,
        loaded_at_startup=model.entry.at_startup,
        workers=[_worker(worker, gpus) for worker in seen_workers(pool)],
        job_queue_status=QueueInfo(remaining_capacity=max(0, size - waiting), pending_requests=waiting),
        customized_metadata=metadata,
    )


def served_as(model: Model, settings: Settings) -> Served:
    """How one version is served.

    Args:
        model: The model.
        settings: What counts where nothing is known of its workers yet.
    """
    pool = model.pool
    spec = pool.spec.spec if pool is not None else model.entry.record.spec
    policy = pool.spec.policy if pool is not None else None
    low, high = limits(pool)
    if model.function:
        # Functions share their workers, and more are started when there is work; alone, each is what it is in the original.
        high, spec, policy = low, ModelSpec(batch_size=1, max_batch_delay=0), None
    return Served(
        min_workers=low,
        max_workers=high,
        batch_size=pool.spec.batch_size if pool is not None and policy else spec.batch_size or settings.batch_size,
        max_batch_delay=round(policy.batch_delay_s * 1000) if policy is not None else _delay(spec, settings),
        response_timeout=round(policy.timeout_s if policy is not None else spec.timeout or settings.default_timeout_s),
        startup_timeout=round(pool.spec.startup_timeout_s if pool is not None else settings.startup_timeout_s),
    )


def configured_of(pool: ModelPool | None) -> Configured:
    """What a model's own file says, as far as descriptions tell it."""
    said = pool.spec.properties.get(CONFIG, "{}") if pool is not None else "{}"
    return msgspec.json.decode(said, type=Configured)


def engine_of(pool: ModelPool | None) -> str:
    """The engine: TorchServe's own for all that it could serve itself."""
    return pool.spec.engine if pool is not None and not pool.spec.handlers else ENGINE


def _delay(spec: ModelSpec, settings: Settings) -> int:
    return settings.max_batch_delay if spec.max_batch_delay is None else spec.max_batch_delay


def limits(pool: ModelPool | None) -> tuple[int, int]:
    """Least and most workers, over all devices."""
    groups = list(pool.groups) if pool is not None else []
    return sum(group.min for group in groups), sum(group.max for group in groups)


def runtime_of(model: Model) -> str:
    """The runtime that the registration or the archive names."""
    said = model.entry.record.spec.options.get("runtime")
    pool = model.pool
    return said or (pool.spec.properties.get("runtime") if pool is not None else None) or "python"


def shown_url(model: Model, settings: Settings) -> str | msgspec.UnsetType:
    """The URL as the caller gave it; what the operator has loaded from the store is told without the store."""
    url = model.url
    if url is None:
        return msgspec.UNSET
    store = f"{settings.model_store}/" if settings.model_store and (model.entry.at_startup or model.key) else ""
    return url.removeprefix(store)


def item(model: Model, settings: Settings) -> ModelItem:
    """A model in a list."""
    url = shown_url(model, settings)
    return ModelItem(model.name, url if isinstance(url, str) else "")


def seen_workers(pool: ModelPool | None) -> list[WorkerView]:
    """The workers as the originals list them: one that has died stays in the list until it is there again."""
    if pool is None:
        return []
    found = pool.workers()
    now = datetime.now(UTC)
    for group in pool.groups:
        there = sum(worker.device == group.device and not worker.leaving for worker in found)
        last = max((worker.id for worker in found), default=0)
        found += [WorkerView(last + more, group.device, now, "starting", None, False) for more in range(1, group.min - there + 1)]
    return found


def _worker(worker: WorkerView, gpus: Sequence[GpuUse]) -> WorkerInfo:
    is_ready = worker.state != "starting" and not worker.leaving
    is_gpu = worker.device.type == "gpu"
    return WorkerInfo(
        id=str(FIRST_WORKER - 1 + worker.id),
        start_time=told_time(worker.started),
        status="READY" if is_ready else "UNLOADING",
        memory_usage=worker.memory_bytes(),
        pid=worker.pid if worker.pid is not None else NO_PROCESS,
        gpu=is_gpu,
        gpu_usage=gpu_usage(worker.device.id, gpus) if is_gpu else "N/A",
    )


def gpu_usage(number: int, gpus: Sequence[GpuUse]) -> str:
    """What a GPU is doing, as TorchServe 0.12 makes it of what `nvidia-smi` tells.

    Args:
        number: The GPU.
        gpus: What the GPUs are doing.
    """
    use = next((gpu for gpu in gpus if gpu.id == number), None)
    if use is None:
        return "failed to obtained gpu usage"
    told = (
        ("utilization.gpu [%]", use.percent, "%"),
        ("utilization.memory [%]", use.memory_percent, "%"),
        ("memory.used [MiB]", use.memory_used_mb, "MiB"),
    )
    shown = (f"{name}::{'[N/A]' if value is None else f'{value} {unit}'}" for name, value, unit in told)
    return f"gpuId::{number} {' '.join(shown)}"


def told_time(moment: datetime) -> str:
    """A moment as the originals write it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
