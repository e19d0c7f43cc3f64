"""What the server tells, typed.

The client has structs of its own for it: those of the server come with its worker pools, and a client reads answers of servers
that are older or newer than itself. So every field has a default, and what is not known here is passed over.
"""

from __future__ import annotations

from typing import Any

import msgspec

from flowyard.schemas.tensors import Signature


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what the management API answers."""


class Status(Answer, frozen=True, kw_only=True):
    """The answer to a change: what was done, in words."""

    status: str = ""


class Device(Answer, frozen=True, kw_only=True):
    """A device; `device_id` is -1 for the CPU."""

    device_type: str = ""
    device_id: int = -1

    def __str__(self) -> str:
        """Renders as `cpu` or `gpu0`."""
        return self.device_type if self.device_id < 0 else f"{self.device_type}{self.device_id}"


class Worker(Answer, frozen=True, kw_only=True):
    """A worker process; `state` is `starting`, `idle` or `busy`, `memory` its bytes where the server tells."""

    id: int = 0
    start_time: str = ""
    status: str = ""
    pid: int | None = None
    state: str = ""
    memory: int | None = None


class WorkerGroup(Answer, frozen=True, kw_only=True):
    """The workers of a model on one device."""

    device: Device = Device()
    min_workers: int = 0
    max_workers: int = 0
    workers: tuple[Worker, ...] = ()


class Model(Answer, frozen=True, kw_only=True):
    """One model of a workflow, with its settings and workers; times in the unit that their names say.

    Attributes:
        batches: Number of batches by their size, where the server counts them.
        restarts: Workers that were lost and replaced.
    """

    model_name: str = ""
    model_url: str = ""
    batch_size: int = 0
    max_batch_delay_millis: int = 0
    max_idle_seconds: int = 0
    queue_size: int = 0
    request_in_queue: int = 0
    status: str = ""
    loaded_at_startup: bool = False
    worker_groups: tuple[WorkerGroup, ...] = ()
    engine: str = ""
    signature: Signature | None = None
    batches: dict[str, int] = {}
    restarts: int = 0


class Progress(Answer, frozen=True, kw_only=True):
    """How far an asynchronous registration is; bytes are `None` where nothing is fetched, or the size is not known."""

    fetched_bytes: int | None = None
    total_bytes: int | None = None
    workers_ready: int = 0
    workers_wanted: int = 0


class ShadowRequests(Answer, frozen=True, kw_only=True):
    """What became of the copies of requests for a shadow version."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    skipped: int = 0


class Workflow(Answer, frozen=True, kw_only=True):
    """One version of a workflow, or of a single model, which is a workflow of one node.

    Attributes:
        workflow_name: Its name.
        version: Its version, `None` for the one without.
        models: Its models.
        url: Where it came from, empty for an upload.
        status: `PENDING` and `FAILED` as they say; anything else can be asked.
        reason: Why it failed.
        functions: The workers of its functions, `None` when it has none.
        progress: How far its registration is, where the server tells.
        weight: Its share of the requests that name no version, where it has one.
        default: Whether requests that name no version go to it.
        shadow: Whether it gets copies of such requests, and its answers are dropped.
        shadow_requests: What became of those.
    """

    workflow_name: str = ""
    version: str | None = None
    models: tuple[Model, ...] = ()
    url: str = ""
    status: str = ""
    reason: str = ""
    functions: Model | None = None
    progress: Progress | None = None
    weight: float | None = None
    default: bool = False
    shadow: bool = False
    shadow_requests: ShadowRequests | None = None


class ModelItem(Answer, frozen=True, kw_only=True):
    """One model in a list."""

    model_name: str = ""
    version: str | None = None
    model_url: str = ""
    status: str = ""


class WorkflowItem(Answer, frozen=True, kw_only=True):
    """One workflow version in a list; a server that says no status means that it runs."""

    workflow_name: str = ""
    version: str | None = None
    status: str = "READY"


class ModelPage(Answer, frozen=True, kw_only=True):
    """A page of models; `next_page_token` is `None` on the last one."""

    models: tuple[ModelItem, ...] = ()
    next_page_token: str | None = None


class WorkflowPage(Answer, frozen=True, kw_only=True):
    """A page of workflows; `next_page_token` is `None` on the last one."""

    workflows: tuple[WorkflowItem, ...] = ()
    next_page_token: str | None = None


class AdapterState(Answer, frozen=True, kw_only=True):
    """An adapter of a model, as it was registered."""

    name: str = ""
    src: str = ""
    options: dict[str, str | int | float | bool] = {}
    alias: str = ""


class Adapter(Answer, frozen=True, kw_only=True):
    """An adapter of a model: whether it is in memory before the first request, and stays there."""

    name: str = ""
    src: str = ""
    preload: bool = True
    pin: bool = False


class AdapterPage(Answer, frozen=True, kw_only=True):
    """One page of adapters."""

    next_page_token: str | None = None
    adapters: tuple[Adapter, ...] = ()


class VersionState(Answer, frozen=True, kw_only=True):
    """One version as it was registered.

    Attributes:
        version: Its version, empty for none.
        kind: `model` or `workflow`.
        url: Where it came from, `upload:sha256:…` for an upload.
        digest: Of its archive in the server's store.
        sha256: What its digest had to be, where the registration said so.
        parameters: What the registration said, by parameter.
        workers: What scaling has set since: minimum and maximum by model and device.
        adapters: All adapters by model, where one was registered, changed or removed since.
        created: When it was registered.
        who: Who registered it.
        status: `PENDING`, `READY` or `FAILED`.
    """

    version: str = ""
    kind: str = ""
    url: str = ""
    digest: str = ""
    sha256: str = ""
    parameters: dict[str, Any] = {}
    workers: dict[str, dict[str, tuple[int, int]]] = {}
    adapters: dict[str, tuple[AdapterState, ...]] = {}
    created: str = ""
    who: str = ""
    status: str = ""


class NameState(Answer, frozen=True, kw_only=True):
    """One name: its versions and what is said about them; the version without a name is `default`."""

    name: str = ""
    versions: tuple[VersionState, ...] = ()
    weights: dict[str, int] = {}
    default: str | None = None
    shadows: tuple[str, ...] = ()


class RegistryState(Answer, frozen=True, kw_only=True):
    """All that is registered."""

    names: tuple[NameState, ...] = ()


class Change(Answer, frozen=True, kw_only=True):
    """One change: when, by whom, what, of which name and version."""

    number: int = 0
    time: str = ""
    who: str = ""
    action: str = ""
    name: str = ""
    version: str = ""
    detail: dict[str, str] = {}


class History(Answer, frozen=True, kw_only=True):
    """A page of changes, the last first; `next_page_token` is `None` on the last one."""

    changes: tuple[Change, ...] = ()
    next_page_token: str | None = None


class Health(msgspec.Struct, frozen=True):
    """Whether the server and its models can answer.

    Attributes:
        healthy: Whether the server says so.
        models: Status by model.
    """

    healthy: bool
    models: dict[str, str]
