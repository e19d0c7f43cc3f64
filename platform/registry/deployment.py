"""A workflow version that runs: its plan, one pool of workers per model, and one for its functions."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from flowyard.engines import discovery
from flowyard.engines.djl import folder as djl
from flowyard.engines.djl import pretrained
from flowyard.engines.djl.folder import DjlModel
from flowyard.engines.djl.pretrained import check_pretrained
from flowyard.engines.djl.translators.registry import check_translator
from flowyard.engines.torchserve import folder as torchserve
from flowyard.engines.torchserve.folder import ArchivedModel
from flowyard.platform.archives.locate import Roots, resolve_url
from flowyard.platform.archives.remote import is_remote, url_arguments
from flowyard.platform.devices import cpu_count, parse_device, parse_devices
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.measures import RequestMeasures
from flowyard.platform.workers.confinement import Confinement
from flowyard.platform.workers.pool import ModelPool, PoolSpec
from flowyard.platform.workers.room import check_room
from flowyard.platform.workers.scheduler import Policy
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import (
    FlowyardError,
    ForbiddenError,
    InvalidModelError,
    InvalidRequestError,
    InvalidWorkflowError,
    UserError,
)
from flowyard.schemas.messages import Handlers
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import Signature
from flowyard.workflows.cache import make_caches
from flowyard.workflows.plan import CALL, FROM_REQUEST, Plan, Spelling, Step
from flowyard.workflows.signatures import check_signatures, signature_of

#: Key of the pool of a workflow's functions; no model can be called that.
FUNCTIONS = "functions/"
#: What a registration may say in `options` that only counts where the model's own file does not say it, as in TorchServe.
INITIAL_WORKERS, RESPONSE_TIMEOUT, STARTUP_TIMEOUT = "initial_workers", "response_timeout", "startup_timeout"
#: Most calls of functions that are sent to a worker together.
FUNCTION_CALLS = 8


class Scaling(msgspec.Struct, frozen=True):
    """A change of the number of workers; `None` leaves a number as it is.

    Attributes:
        min_worker: Least number of workers per device.
        max_worker: Most workers per device; raised to the minimum where only that is given.
        device: The device meant, all of the model's when `None`. The model is loaded there if it is not yet.
        model: The local name of the model meant, all of the workflow's when `None`.
    """

    min_worker: int | None = None
    max_worker: int | None = None
    device: Device | None = None
    model: str | None = None

    def on(self, pool: ModelPool) -> list[Device]:
        """The devices of a model that the change is for."""
        return [group.device for group in pool.groups] if self.device is None else [self.device]

    def apply(self, pool: ModelPool, device: Device) -> tuple[int, int]:
        """Minimum and maximum on a device, after the change.

        Raises:
            InvalidRequestError: The minimum would be over the maximum.
        """
        group = next((group for group in pool.groups if group.device == device), None)
        low = self.min_worker if self.min_worker is not None else (group.min if group else 1)
        high = self.max_worker if self.max_worker is not None else max(low, group.max if group else 1)
        if low > high:
            if self.min_worker is not None:
                raise InvalidRequestError(f"Parameter min_worker: {low} is over max_worker: {high}.")
            low = high
        return low, high


class Deployment:
    """Runs one version of a workflow. A single model is a workflow of one node.

    Attributes:
        name: Name of the endpoint.
        version: Its version, empty for none.
        identity: Name and version.
        plan: The compiled workflow.
        pools: By local model name; the functions' under `FUNCTIONS`.
        caches: Results that nodes keep, by step.
        streaming_step: Name of the node whose pieces, if its result comes in pieces, are the answer's; empty where there is none.
        single: The pool of the one model, where the whole plan is to call it with the request's body.
        takes_requests: Whether a node may want the request as a message, not only its body as a value.
        requests: What has been asked of it over HTTP.
        start_s: Seconds that it took to start, 0 before.
        closing: Whether it finishes what it has and takes nothing new.
    """

    def __init__(self, name: str, version: str, plan: Plan, specs: Mapping[str, PoolSpec], reserved_bytes: int = 0) -> None:
        self._reserved_bytes = reserved_bytes
        self.name = name
        self.version = version
        self.identity = (name, version)
        self.plan = plan
        self.pools = {key: ModelPool(spec) for key, spec in specs.items()}
        self.caches = make_caches(plan)
        self.streaming_step = plan.steps[plan.out].name if is_plain_call(plan.steps[plan.out]) else ""
        self.requests = RequestMeasures()
        self.start_s = 0.0
        self.single = self.pools.get(plan.steps[0].callees[0].name) if is_single_call(plan) else None
        self.takes_requests = bool(plan.references) or any(spec.handlers for spec in specs.values())
        self.closing = False
        self._runs = 0
        self._runs_over = asyncio.Event()

    def scale(self, scaling: Scaling) -> dict[str, dict[str, tuple[int, int]]]:
        """Changes the number of workers of every model; takes effect on its own.

        Args:
            scaling: What to change.

        Returns:
            Minimum and maximum by model and device, for the record.

        Raises:
            InvalidRequestError: The minimum would be over the maximum, or there is no such model.
            OutOfMemoryError: There is no memory for so many workers.
        """
        pools = {key: pool for key, pool in self.pools.items() if key != FUNCTIONS and scaling.model in (None, key)}
        if scaling.model is not None and not pools:
            known = ", ".join(sorted(self.numbers()))
            raise InvalidRequestError(f"Parameter model: there is no model {scaling.model} in {self.name}; it has {known}.")
        changes = [(pool, device, scaling.apply(pool, device)) for pool in pools.values() for device in scaling.on(pool)]
        check_room((pool.more_workers(low, device) for pool, device, (low, _) in changes), self._reserved_bytes)
        for pool, device, (low, high) in changes:
            pool.scale(low, high, device)
        return self.numbers()

    def numbers(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Minimum and maximum of workers by model and device."""
        pools = {key: pool for key, pool in self.pools.items() if key != FUNCTIONS}
        return {key: {str(group.device): (group.min, group.max) for group in pool.groups} for key, pool in pools.items()}

    def restore(self, workers: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
        """Sets the numbers of workers that an earlier life of the server was told, before `start`."""
        for key, by_device in workers.items():
            for device, (low, high) in by_device.items():
                if key in self.pools:
                    self.pools[key].scale(low, high, parse_device(device))

    async def settled(self) -> None:
        """Waits until every model has the workers it should have at least.

        Raises:
            NotReadyError: They cannot be started.
        """
        await asyncio.gather(*(pool.settled() for pool in self.pools.values()))

    async def start(self) -> None:
        """Starts all pools at the same time and waits for them.

        Raises:
            FlowyardError: One of them cannot start, with the model's name, or does not fit the one that feeds it; none is left
                running.
        """
        began = time.monotonic()
        groups = [(pool, group) for pool in self.pools.values() for group in pool.groups]
        check_room((pool.more_workers(group.min, group.device) for pool, group in groups), self._reserved_bytes)
        starts = [asyncio.ensure_future(self._start(key, pool)) for key, pool in self.pools.items()]
        try:
            await asyncio.gather(*starts)
            self._check_signatures()
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self.close(0)
            raise
        self.start_s = time.monotonic() - began

    @property
    def signature(self) -> Signature:
        """What the whole workflow takes and gives, as far as its models say it."""
        return signature_of(self.plan, self._known_signatures())

    def _known_signatures(self) -> dict[str, Signature]:
        return {key: pool.signature for key, pool in self.pools.items() if pool.signature is not None}

    def _check_signatures(self) -> None:
        """Holds what the models turned out to take and give against the edges between them."""
        problems = check_signatures(self.plan, self._known_signatures())
        if problems:
            raise InvalidWorkflowError(problems)

    async def _start(self, key: str, pool: ModelPool) -> None:
        try:
            await pool.start()
        except FlowyardError as error:
            error.starting = started = self._label(key), self.version
            if key == self.name or not isinstance(error, UserError):
                raise
            what = "functions" if key == FUNCTIONS else f'model "{key}"'
            named = InvalidModelError(f"{what}: {error}")
            named.starting = started
            raise named from error

    def _label(self, key: str) -> str:
        """What a model of a workflow is called outside of it, as TorchServe has it."""
        return self.name if key in (self.name, FUNCTIONS) else f"{self.name}__{key}"

    def run_began(self) -> None:
        """A run of several calls began: until it is over, `close` leaves the workers of its later calls alone."""
        self._runs += 1

    def run_ended(self) -> None:
        """A run is over."""
        self._runs -= 1
        if not self._runs:
            self._runs_over.set()

    async def close(self, drain_s: float) -> None:
        """Finishes what was accepted, for `drain_s` seconds at most, and ends all workers."""
        self.closing = True
        until = time.monotonic() + drain_s
        while self._runs and time.monotonic() < until:
            self._runs_over.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._runs_over.wait(), until - time.monotonic())
        left_s = max(0.0, until - time.monotonic())
        await asyncio.gather(*(pool.close(left_s) for pool in self.pools.values()))


def is_plain_call(step: Step) -> bool:
    """Whether all that a node does is to make one call, whose result is the node's."""
    plain = step.guard is None and step.otherwise is None and step.fallback is None and step.timeout_s is None
    return step.kind == CALL and plain and step.retries == 0 and step.cache is None


def is_single_call(plan: Plan) -> bool:
    """Whether all that a plan does is to call one model, once, with the request's body."""
    (step, *others) = plan.steps
    if others or not is_plain_call(step) or plan.pass_errors:
        return False
    return step.callees[0].kind == "model" and step.args == ((FROM_REQUEST, 0, None),)


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """A model that has been found.

    Attributes:
        engine: Name of its engine adapter.
        root: Folder that its own modules are imported from.
        path: What is to be loaded: a path, or `module:callable`.
        described: What its folder says, where it is one of DJL's, TorchServe's or MMS's kind.
    """

    engine: str
    root: Path
    path: str
    described: DjlModel | ArchivedModel | None = None

    @property
    def handlers(self) -> Handlers:
        """Whose handlers it has; a model of DJL's kind with a translator takes and gives messages as its handlers do."""
        if isinstance(self.described, ArchivedModel):
            return self.described.handlers
        return "djl" if self.described is not None else ""

    @property
    def is_djl_handler(self) -> bool:
        """Whether it is Python code written for DJL."""
        return self.handlers == "djl" and self.engine == "Python"

    @property
    def parameters(self) -> dict[str, str]:
        """What its workers are told of its own files."""
        return self.described.parameters if self.described is not None else {}

    @property
    def startup_timeout_s(self) -> float | None:
        """How long its workers may take to load it, where it says so."""
        return self.described.loading_timeout_s() if self.described is not None else None

    def spec(self, device_type: str = "cpu") -> ModelSpec:
        """What the model itself says about how it is to be served."""
        return self.described.spec(device_type) if self.described is not None else ModelSpec()


class Places(msgspec.Struct, frozen=True):
    """Where the models of a workflow are.

    Attributes:
        folder: Where the workflow file is.
        parts: Those that are not there, by URL.
    """

    folder: Path
    parts: Mapping[str, Path]

    def find(self, url: str) -> Path:
        """The file or folder of a model.

        Raises:
            ForbiddenError: A relative URL leads out of the archive.
        """
        if url in self.parts:
            return self.parts[url]
        folder = self.folder.resolve()
        inside = (folder / url).resolve()
        if not inside.is_relative_to(folder):
            raise ForbiddenError(f"{url} leads out of the archive")
        return inside

    def root(self, url: str) -> Path:
        """The folder that a model's own modules are imported from."""
        place = self.parts.get(url, self.folder)
        return place if place.is_dir() else place.parent


def outside_urls(plan: Plan, folder: Path) -> dict[str, str]:
    """The models of a workflow that are not in its archive.

    Those with a full URL or an absolute path, and those that are in the model store instead.

    Args:
        plan: The compiled workflow.
        folder: Where the workflow file is.

    Returns:
        Local names of the models, by URL.
    """
    return {spec.url: key for key, spec in plan.models.items() if not spec.model and _is_elsewhere(spec.url, plan, folder)}


def inside_urls(plan: Plan, folder: Path) -> dict[str, str]:
    """The models of a workflow that are files or folders in its archive.

    Args:
        plan: The compiled workflow.
        folder: Where the workflow file is.

    Returns:
        Local names of the models, by URL.
    """
    return {
        spec.url: key
        for key, spec in plan.models.items()
        if not (spec.model or _is_elsewhere(spec.url, plan, folder) or is_callable_reference(spec.url))
    }


def _is_elsewhere(url: str, plan: Plan, folder: Path) -> bool:
    """Whether a model is not in the archive; relative URLs of TorchServe's specs, and of `.mar` files, lead to the store then."""
    if _is_outside(url):
        return True
    may_be_stored = plan.spelling == "torchserve" or url.endswith(".mar")
    return may_be_stored and ".." not in url.split("/") and not is_callable_reference(url) and not (folder / url).exists()


def _is_outside(url: str) -> bool:
    if is_remote(url):
        return True
    return not is_callable_reference(url) and ("://" in url or url.startswith(("file:", "/")))


class Planner:
    """Turns a plan and an unpacked archive into the specification of the pools it needs."""

    def __init__(self, settings: Settings, available: tuple[Device, ...]) -> None:
        self._settings = settings
        self._available = available
        self._cores = cpu_count()
        self.confinement = Confinement.of(settings)

    def pool_specs(
        self, name: str, plan: Plan, folder: Path, overrides: ModelSpec, parts: Mapping[str, Path]
    ) -> dict[str, PoolSpec]:
        """The pools of a workflow.

        Args:
            name: Name of the endpoint.
            plan: The compiled workflow; a model that refers to a registered one (`{model: x}`) gets no pool.
            folder: Where the workflow file is.
            overrides: What the registration says about every model that does not say it itself.
            parts: Where the models are that are not in the archive, by URL.

        Returns:
            Pool specifications by local model name, and `FUNCTIONS` when there are functions.

        Raises:
            UserError: A model that is not there, an engine or device that does not exist, something not allowed.
        """
        specs = {
            key: self._model_pool(name, key, _overridden(spec, overrides), Places(folder, parts))
            for key, spec in plan.models.items()
            if not spec.model
        }
        if plan.functions:
            specs[FUNCTIONS] = self._functions_pool(name, dict(plan.functions), folder, plan.spelling)
        return specs

    def _model_pool(self, name: str, key: str, spec: ModelSpec, places: Places) -> PoolSpec:
        if spec.trusted and not self._settings.allow_trusted:
            raise ForbiddenError(f'model "{key}": `trusted` is not allowed here; the setting allow_trusted permits it')
        spec = msgspec.structs.replace(spec, arguments=url_arguments(spec.url) | spec.arguments)
        located = self._locate(key, spec, places)
        # What the caller says counts, then the model's own file, then the settings.
        spec = fill(spec, ModelSpec(device=located.spec().device))
        devices = parse_devices(spec.device or self._settings.load_on_devices, self._available)
        own = fill(located.spec(devices[0].type), late_spec(spec.options, len(devices)))
        spec = fill(spec, own)
        spec = fill(spec, ModelSpec(min_worker=self._settings.min_workers, max_worker=self._settings.max_workers))
        low, high = workers(spec, self._default_workers(located, devices))
        policy = self._policy(key, spec)
        return PoolSpec(
            name=key if key == name else f"{name}:{key}",
            engine=located.engine,
            root=str(located.root),
            path=located.path,
            spec=msgspec.structs.replace(spec, batch_size=policy.batch_size),
            policy=policy if located.described is None else policy_of_handlers(policy, located),
            devices=devices,
            min_workers=low,
            max_workers=high,
            threads=max(1, self._cores // max(1, low * len(devices))),
            own_workers=workers(own),
            startup_timeout_s=located.startup_timeout_s or self._settings.startup_timeout_s,
            silent_limit_s=self._settings.silent_limit_s,
            handlers=located.handlers,
            properties=_properties(located, key if key == name else f"{name}__{key}"),
            confinement=self.confinement,
        )

    def _default_workers(self, located: Located, devices: tuple[Device, ...]) -> int:
        """Most workers per device where nobody says: handlers on the CPU may use all cores, as in DJL (§5), others have one."""
        return self._cores if located.is_djl_handler and devices[0].type == "cpu" else 1

    def _locate(self, key: str, spec: ModelSpec, places: Places) -> Located:
        """The engine, and what it is to load."""
        if is_callable_reference(spec.url) and (spec.engine is None or discovery.canonical(spec.engine) == "Python"):
            return Located(engine="Python", root=places.folder, path=spec.url)
        path = places.find(spec.url)
        if spec.engine is None or discovery.canonical(spec.engine) == "Python":
            gpus = sum(device.type == "gpu" for device in self._available)
            archived = torchserve.recognise(path, spec.options, gpus)
            if archived is not None:
                return Located(engine="Python", root=archived.folder, path="", described=archived)
        found = djl.recognise(path, spec.engine)
        if found is not None:
            self._check(found, spec)
            return Located(engine=found.engine, root=found.folder, path=found.path, described=found)
        if spec.engine is None:
            engine, model = discovery.infer(path)
            return Located(engine=engine, root=places.root(spec.url), path=str(model))
        adapter = discovery.find(spec.engine)
        chosen = adapter.recognise(path)
        if chosen is None:
            raise InvalidModelError(f'model "{key}": {spec.url} is no model that the engine {adapter.name} can load')
        return Located(engine=adapter.name, root=places.root(spec.url), path=str(chosen))

    def _check(self, model: DjlModel, spec: ModelSpec) -> None:
        """Refuses a model of DJL's kind that could only fail in a worker."""
        if model.engine != "Python":
            check_translator(model.folder, model.properties, spec.arguments)
        elif model.path == pretrained.MODULE:
            roots = Roots.of(self._settings)
            check_pretrained(model.folder, model.properties, functools.partial(resolve_url, roots=roots))

    def _functions_pool(self, name: str, functions: dict[str, str], folder: Path, spelling: Spelling) -> PoolSpec:
        return PoolSpec(
            name=f"{name} functions",
            engine="Python",
            root=str(folder),
            path="",
            spec=ModelSpec(),
            policy=msgspec.structs.replace(
                self._policy(f"{name} functions", ModelSpec(batch_size=FUNCTION_CALLS)), join_quick=True
            ),
            devices=(Device("cpu"),),
            min_workers=1,
            max_workers=max(1, self._cores),
            functions=functions,
            handlers="torchserve" if spelling == "torchserve" else "",
            properties={"model_name": name} if spelling == "torchserve" else {},
            confinement=self.confinement,
            startup_timeout_s=self._settings.startup_timeout_s,
            silent_limit_s=self._settings.silent_limit_s,
        )

    def _policy(self, name: str, spec: ModelSpec) -> Policy:
        settings = self._settings
        delay_ms = settings.max_batch_delay if spec.max_batch_delay is None else spec.max_batch_delay
        return Policy(
            name=name,
            batch_size=spec.batch_size or settings.batch_size,
            batch_delay_s=delay_ms / 1000,
            fill=spec.batching == "fill",
            queue_size=spec.job_queue_size or settings.job_queue_size,
            idle_s=settings.max_idle_time if spec.max_idle_time is None else spec.max_idle_time,
            timeout_s=spec.timeout or settings.default_timeout_s,
        )


def _properties(located: Located, model_name: str) -> dict[str, str]:
    """What workers are told; handlers of TorchServe and MMS also under which name the model is served."""
    named = isinstance(located.described, ArchivedModel)
    return located.parameters | {"model_name": model_name} if named else located.parameters


#: What is told of a request that took too long, and of one whose worker died, by whose handlers they are (DJL §2.8; TorchServe
#: reference §2.3).
_TOLD: dict[Handlers, tuple[str, str]] = {
    "djl": (
        "java.util.concurrent.TimeoutException",
        "java.util.concurrent.ExecutionException: java.io.IOException: Python worker disconnected.",
    ),
    "torchserve": ("Worker died.", "Worker died."),
    "mms": ("Worker died.", "Worker died."),
}


def policy_of_handlers(policy: Policy, located: Located) -> Policy:
    """How models with handlers are served: a request that takes too long, or kills its worker, is told so as their servers do."""
    if located.handlers == "djl" and not located.is_djl_handler:
        return policy
    timeout_error, died_error = _TOLD[located.handlers]
    return msgspec.structs.replace(policy, timeout_error=timeout_error, died_error=died_error)


def late_spec(options: Mapping[str, str], devices: int) -> ModelSpec:
    """What a registration says that gives way to the model's own file.

    Args:
        options: The options of the registration.
        devices: How many devices the model is loaded on; workers are shared out among them.

    Returns:
        Workers and compute time, as far as they are said.
    """
    said = options.get(INITIAL_WORKERS)
    per_device = -(-int(said) // devices) if said is not None else None
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


def _overridden(spec: ModelSpec, overrides: ModelSpec) -> ModelSpec:
    """A model of a registration that says something about all of its models; that they are trusted, it can only add."""
    options = overrides.options | spec.options
    filled = fill(msgspec.structs.replace(spec, options=options) if options != spec.options else spec, overrides)
    return msgspec.structs.replace(filled, trusted=True) if overrides.trusted else filled


def is_callable_reference(url: str) -> bool:
    """Whether a URL is `module:callable` or `file.py:callable` rather than a path or a real URL."""
    module, colon, attribute = url.partition(":")
    return bool(colon) and attribute.isidentifier() and "/" not in attribute and bool(module)


Lookup = Callable[[str, str | None], Deployment]


def registered_pool(lookup: Lookup, reference: str) -> ModelPool:
    """The pool of a model that is registered on the server, by `name[:version]`.

    Raises:
        FlowyardError: It is not registered or not ready.
        InvalidModelError: The name is a workflow of several models.
    """
    name, _, version = reference.partition(":")
    deployment = lookup(name, version or None)
    pool = deployment.pools.get(name)
    if pool is None:
        raise InvalidModelError(f'"{reference}" is a workflow, not a model; call it as {{workflow: {reference}}}')
    return pool
