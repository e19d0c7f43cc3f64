"""What the management API answers about models and workflows: DJL's fields (§1.5, §1.6), ours at the end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from flowyard.platform.registry.deployment import FUNCTIONS
from flowyard.platform.registry.endpoints import Entry
from flowyard.platform.workers.pool import ModelPool
from flowyard.schemas.devices import Device
from flowyard.schemas.tensors import Signature


class Status(msgspec.Struct, frozen=True):
    """The answer to a change."""

    status: str


class DeviceView(msgspec.Struct, frozen=True, rename="camel"):
    """A device; `deviceId` is -1 for the CPU."""

    device_type: str
    device_id: int

    @classmethod
    def of(cls, device: Device) -> DeviceView:
        """From a device."""
        return cls(device.type, device.id)


class WorkerInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A worker process; `state` is `starting`, `idle` or `busy`."""

    id: int
    start_time: str
    status: str
    pid: int | None
    state: str


class WorkerGroupInfo(msgspec.Struct, frozen=True, rename="camel"):
    """The workers of a model on one device."""

    device: DeviceView
    min_workers: int
    max_workers: int
    workers: list[WorkerInfo]


class ModelInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One model of a workflow."""

    model_name: str
    model_url: str
    batch_size: int
    max_batch_delay_millis: int
    max_idle_seconds: int
    queue_size: int
    request_in_queue: int
    status: str
    loaded_at_startup: bool
    worker_groups: list[WorkerGroupInfo]
    engine: str = ""
    signature: Signature | None = None


class WorkflowInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One version of a workflow, with its models and the workers of its functions."""

    workflow_name: str
    version: str | None = None
    models: list[ModelInfo]
    url: str = ""
    status: str = ""
    reason: str = ""
    functions: ModelInfo | None = None


class ModelItem(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One model in a list."""

    model_name: str
    version: str | None = None
    model_url: str
    status: str


class ModelList(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A page of models."""

    models: list[ModelItem]
    next_page_token: str | None = None


class WorkflowItem(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One workflow version in a list."""

    workflow_name: str
    version: str | None = None
    status: str = ""


class WorkflowList(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A page of workflows."""

    workflows: list[WorkflowItem]
    next_page_token: str | None = None


class Health(msgspec.Struct, frozen=True):
    """Whether a model can answer: `Healthy`, `Unhealthy`, `PENDING` or `FAILED`."""

    status: str


def model_name(entry: Entry, key: str) -> str:
    """What a list calls a model: its own name, or `workflow:model` (DJL §1.5)."""
    return key if key == entry.record.name else f"{entry.record.name}:{key}"


def describe(entry: Entry) -> WorkflowInfo:
    """One version of an endpoint in full."""
    record = entry.record
    pools = entry.deployment.pools if entry.deployment is not None else {}
    functions = pools.get(FUNCTIONS)
    return WorkflowInfo(
        workflow_name=record.name,
        version=record.version or None,
        models=[_model_info(entry, key, pool) for key, pool in pools.items() if key != FUNCTIONS],
        url=record.url,
        status=entry.status,
        reason=entry.reason,
        functions=_model_info(entry, "functions", functions) if functions is not None else None,
    )


def _model_info(entry: Entry, key: str, pool: ModelPool) -> ModelInfo:
    policy = pool.spec.policy
    is_model = entry.record.kind == "model"
    return ModelInfo(
        model_name=key,
        model_url=entry.record.url if is_model else pool.spec.spec.url,
        batch_size=policy.batch_size,
        max_batch_delay_millis=round(policy.batch_delay_s * 1000),
        max_idle_seconds=round(policy.idle_s),
        queue_size=policy.queue_size,
        request_in_queue=pool.queue_length,
        status="Healthy" if pool.healthy else "Unhealthy",
        loaded_at_startup=entry.at_startup,
        worker_groups=_groups(pool),
        engine=pool.spec.engine,
        signature=pool.signature,
    )


def _groups(pool: ModelPool) -> list[WorkerGroupInfo]:
    workers = pool.workers()
    return [
        WorkerGroupInfo(
            device=DeviceView.of(group.device),
            min_workers=group.min,
            max_workers=group.max,
            workers=[
                WorkerInfo(worker.id, _time(worker.started), "READY", worker.pid, worker.state)
                for worker in workers
                if worker.device == group.device
            ],
        )
        for group in pool.groups
    ]


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def model_items(entries: Iterable[Entry]) -> list[ModelItem]:
    """The models of some entries, one item each; an entry that does not run is one item of its own."""
    return [item for entry in entries for item in _entry_items(entry)]


def _entry_items(entry: Entry) -> list[ModelItem]:
    keys = [key for key in (entry.deployment.pools if entry.deployment else {}) if key != FUNCTIONS]
    return [
        ModelItem(
            model_name=model_name(entry, key),
            version=entry.record.version or None,
            model_url=_url(entry, key),
            status=entry.status,
        )
        for key in keys or [entry.record.name]
    ]


def _url(entry: Entry, key: str) -> str:
    pool = entry.deployment.pools.get(key) if entry.deployment is not None else None
    return entry.record.url if pool is None or entry.record.kind == "model" else pool.spec.spec.url


def health(entries: Iterable[Entry]) -> dict[str, Health]:
    """Every model's health by `workflow` or `workflow:model` (DJL §2.6)."""
    found: dict[str, Health] = {}
    for entry in entries:
        if entry.deployment is None:
            found[entry.record.name] = Health(entry.status)
            continue
        for key, pool in entry.deployment.pools.items():
            name = model_name(entry, "functions" if key == FUNCTIONS else key)
            found[name] = Health("Healthy" if pool.healthy else "Unhealthy")
    return found
