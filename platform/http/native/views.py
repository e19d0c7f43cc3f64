"""What the management API answers about models and workflows: DJL's fields (§1.5, §1.6), ours at the end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from flowyard.platform.registry.deployment import FUNCTIONS
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.workers.crew import WorkerView
from flowyard.platform.workers.pool import ModelPool
from flowyard.schemas.adapters import Adapter
from flowyard.schemas.devices import Device
from flowyard.schemas.tensors import Signature

#: The worst of several versions is what `/ping` tells of a name.
_WORST_FIRST = ("FAILED", "Unhealthy", "PENDING", "Healthy")

#: Header of a registration's answer: under which name it can be asked.
NAME_HEADER = "x-flowyard-name"


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
    """A worker process.

    Attributes:
        status: `READY`, `PENDING` while it loads the model, `UNLOADING` when it is on its way out.
        state: `starting`, `idle` or `busy`.
        memory: Bytes of its resident set, shared memory included.
    """

    id: int
    start_time: str
    status: str
    pid: int | None
    state: str
    memory: int


class WorkerGroupInfo(msgspec.Struct, frozen=True, rename="camel"):
    """The workers of a model on one device."""

    device: DeviceView
    min_workers: int
    max_workers: int
    workers: list[WorkerInfo]


class ModelInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One model of a workflow.

    Attributes:
        status: `Healthy` with at least the minimum of workers, `Unhealthy` with fewer, `PENDING` or `FAILED`.
        batches: Number of batches by their size: 1, 2, up to 4, up to 8 and so on, by doubling.
        restarts: Workers that were lost and replaced.
    """

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
    batches: dict[str, int] = {}
    restarts: int = 0


class ProgressInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """How far a registration is.

    Attributes:
        fetched_bytes: Of the archive, where it comes from elsewhere.
        total_bytes: Size of the archive, where that is known.
        workers_ready: Workers that have loaded their model.
        workers_wanted: Workers there must be.
    """

    fetched_bytes: int | None = None
    total_bytes: int | None = None
    workers_ready: int
    workers_wanted: int


class ShadowInfo(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What became of the copies of requests for a shadow version; `skipped` ones it did not get, because it had enough to do."""

    sent: int
    answered: int
    failed: int
    skipped: int


class WorkflowInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One version of a workflow, with its models and the workers of its functions.

    Attributes:
        weight: Its share of the requests that name no version, where weights are set.
        default: Whether it is the version of `set-default`.
        shadow: Whether it gets copies of such requests; `shadow_requests` counts them.
        progress: How far it is, while it is `PENDING`.
    """

    workflow_name: str
    version: str | None = None
    models: list[ModelInfo]
    url: str = ""
    status: str = ""
    reason: str = ""
    functions: ModelInfo | None = None
    weight: int | None = None
    default: bool = False
    shadow: bool = False
    shadow_requests: ShadowInfo | None = None
    progress: ProgressInfo | None = None
    signature: Signature | None = None


class ModelItem(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One model in a list."""

    model_name: str
    version: str | None = None
    model_url: str
    status: str


class ModelList(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A page of models."""

    next_page_token: str | None = None
    models: list[ModelItem]


class WorkflowItem(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One workflow version in a list; `status` is `PENDING`, `FAILED`, or absent where it runs, as in DJL Serving."""

    workflow_name: str
    version: str | None = None
    status: str = "READY"


class WorkflowList(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A page of workflows."""

    next_page_token: str | None = None
    workflows: list[WorkflowItem]


class EndpointDocument(msgspec.Struct, frozen=True):
    """An OpenAPI document of one model or workflow."""

    openapi: str
    info: dict[str, str]
    paths: dict[str, Any]
    components: dict[str, Any]


class AdapterView(msgspec.Struct, frozen=True):
    """An adapter."""

    name: str
    src: str
    preload: bool
    pin: bool

    @classmethod
    def of(cls, adapter: Adapter) -> AdapterView:
        """From an adapter."""
        return cls(adapter.name, adapter.src, adapter.preload, adapter.pin)


class AdapterList(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A page of adapters."""

    next_page_token: str | None = None
    adapters: list[AdapterView]


class Health(msgspec.Struct, frozen=True):
    """Whether a model can answer: `Healthy`, `Unhealthy`, `PENDING` or `FAILED`."""

    status: str


def model_name(entry: Entry, key: str) -> str:
    """What a list calls a model: its own name, or `workflow:model` (DJL §1.5)."""
    return key if key == entry.record.name else f"{entry.record.name}:{key}"


def describe(endpoints: Endpoints, entry: Entry) -> WorkflowInfo:
    """One version of an endpoint in full."""
    record = entry.record
    pools = _pools(entry)
    functions = pools.get(FUNCTIONS)
    traffic = endpoints.traffic(record.name)
    shadow = record.version in traffic.shadows
    models = [_model_info(entry, key, pool) for key, pool in pools.items() if key != FUNCTIONS]
    return WorkflowInfo(
        workflow_name=record.name,
        version=record.version or None,
        models=models if entry.attempt is not None else [_stub(entry)],
        url=record.url,
        status=entry.status,
        reason=entry.reason,
        functions=_model_info(entry, "functions", functions) if functions is not None else None,
        weight=traffic.weights.get(record.version, 0) if traffic.weights else None,
        default=traffic.default == record.version,
        shadow=shadow,
        shadow_requests=_shadow_info(entry) if shadow else None,
        progress=_progress(entry) if entry.status == "PENDING" else None,
        signature=_workflow_signature(entry),
    )


def _pools(entry: Entry) -> dict[str, ModelPool]:
    return entry.attempt.pools if entry.attempt is not None else {}


def _stub(entry: Entry) -> ModelInfo:
    """What there is to tell before the models are known, or when they never were (DJL §1.6)."""
    return ModelInfo(
        model_name=entry.record.name,
        model_url=entry.record.url,
        batch_size=0,
        max_batch_delay_millis=0,
        max_idle_seconds=0,
        queue_size=0,
        request_in_queue=0,
        status=entry.status,
        loaded_at_startup=entry.at_startup,
        worker_groups=[],
    )


def _model_info(entry: Entry, key: str, pool: ModelPool) -> ModelInfo:
    policy = pool.spec.policy
    is_model = entry.record.kind == "model"
    return ModelInfo(
        model_name=key,
        model_url=entry.record.url if is_model else pool.spec.spec.url,
        batch_size=pool.spec.batch_size,
        max_batch_delay_millis=round(policy.batch_delay_s * 1000),
        max_idle_seconds=round(policy.idle_s),
        queue_size=policy.queue_size,
        request_in_queue=pool.queue_length,
        status=_health(entry, pool),
        loaded_at_startup=entry.at_startup,
        worker_groups=_groups(pool),
        engine=pool.spec.engine,
        signature=_model_signature(pool),
        batches={str(1 << bits): count for bits, count in enumerate(pool.batches) if count},
        restarts=sum(group.lost for group in pool.groups),
    )


def _health(entry: Entry, pool: ModelPool) -> str:
    if entry.deployment is None:
        return entry.status
    return "Healthy" if pool.healthy else "Unhealthy"


def _workflow_signature(entry: Entry) -> Signature | None:
    """What is known of a whole workflow; of a single model, its own entry says it."""
    if entry.deployment is None or entry.record.kind == "model":
        return None
    found = entry.deployment.signature
    return found if found.inputs or found.outputs else None


def _model_signature(pool: ModelPool) -> Signature | None:
    """What a model says of itself, or else what the workflow file declares."""
    spec = pool.spec.spec
    declared = Signature(inputs=spec.inputs, outputs=spec.outputs) if spec.inputs or spec.outputs else None
    return pool.signature or declared


def _groups(pool: ModelPool) -> list[WorkerGroupInfo]:
    workers = pool.workers()
    return [
        WorkerGroupInfo(
            device=DeviceView.of(group.device),
            min_workers=group.min,
            max_workers=group.max,
            workers=[_worker_info(worker) for worker in workers if worker.device == group.device],
        )
        for group in pool.groups
    ]


def _worker_info(worker: WorkerView) -> WorkerInfo:
    status = "UNLOADING" if worker.leaving else "PENDING" if worker.state == "starting" else "READY"
    return WorkerInfo(worker.id, _time(worker.started), status, worker.pid, worker.state, worker.memory_bytes())


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shadow_info(entry: Entry) -> ShadowInfo:
    counts = entry.shadowed
    return ShadowInfo(sent=counts.sent, answered=counts.answered, failed=counts.failed, skipped=counts.skipped)


def _progress(entry: Entry) -> ProgressInfo:
    groups = [group for pool in _pools(entry).values() for group in pool.groups]
    fetch = entry.progress
    return ProgressInfo(
        fetched_bytes=fetch.fetched_bytes if fetch is not None else None,
        total_bytes=fetch.total_bytes if fetch is not None else None,
        workers_ready=sum(group.ready() for group in groups),
        workers_wanted=sum(group.min for group in groups),
    )


def model_items(entries: Iterable[Entry]) -> list[ModelItem]:
    """The models of some entries, one item each; an entry whose models are not known is one item of its own."""
    return [item for entry in entries for item in _entry_items(entry)]


def _entry_items(entry: Entry) -> list[ModelItem]:
    urls = {key: pool.spec.spec.url for key, pool in _pools(entry).items() if key != FUNCTIONS}
    if entry.record.kind == "model" or not urls:
        urls = dict.fromkeys(urls or [entry.record.name], entry.record.url)
    return [
        ModelItem(
            model_name=model_name(entry, key),
            version=entry.record.version or None,
            model_url=url,
            status=entry.status,
        )
        for key, url in urls.items()
    ]


def workflow_items(entries: Iterable[Entry]) -> list[WorkflowItem]:
    """Entries, one item each."""
    return [
        WorkflowItem(workflow_name=entry.record.name, version=entry.record.version or None, status=entry.status)
        for entry in entries
    ]


def health(entries: Iterable[Entry]) -> dict[str, Health]:
    """Every model's health by `workflow` or `workflow:model`, the worst of its versions (DJL §2.6)."""
    found: dict[str, str] = {}
    for name, status in (item for entry in entries for item in _healths(entry)):
        found[name] = min(status, found.get(name, status), key=_WORST_FIRST.index)
    return {name: Health(status) for name, status in found.items()}


def _healths(entry: Entry) -> list[tuple[str, str]]:
    if entry.deployment is None:
        return [(entry.record.name, entry.status)]
    pools = entry.deployment.pools.items()
    return [(model_name(entry, "functions" if key == FUNCTIONS else key), _health(entry, pool)) for key, pool in pools]
