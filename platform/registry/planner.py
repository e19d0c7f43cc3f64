"""From a plan and an unpacked archive to the pools of workers that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from flowyard.engines.torchserve.config import ModelConfig
from flowyard.engines.torchserve.folder import MODEL_METRICS, SEQUENCE_HEADERS, ArchivedModel
from flowyard.platform.archives.remote import url_arguments
from flowyard.platform.devices import cpu_count, in_sets, parse_devices
from flowyard.platform.registry.deployment import FUNCTIONS
from flowyard.platform.registry.locating import Located, Locator
from flowyard.platform.registry.places import Places
from flowyard.platform.registry.precedence import fill, late_spec, overridden, shared_out, workers
from flowyard.platform.registry.sequences import cache_problems
from flowyard.platform.settings import Settings
from flowyard.platform.torchserve_metrics import declared_by, told_to_workers
from flowyard.platform.workers.confinement import Confinement
from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.platform.workers.sequences import SequenceHeaders, SequenceLimits
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import ForbiddenError, InvalidModelError, InvalidWorkflowError
from flowyard.schemas.messages import Handlers
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.ranks import Ranks
from flowyard.workflows.plan import Plan, Spelling

#: Most calls of functions that are sent to a worker together.
FUNCTION_CALLS = 32


class Planner:
    """Turns a plan and an unpacked archive into the specification of the pools it needs."""

    def __init__(self, settings: Settings, available: tuple[Device, ...]) -> None:
        """Reads the settings.

        Args:
            settings: The settings.
            available: The devices of this machine.

        Raises:
            InvalidRequestError: The file that declares the metrics of handlers cannot be read.
        """
        self._settings = settings
        self._available = available
        self._locator = Locator(settings, available)
        self._cores = cpu_count()
        self.confinement = Confinement.of(settings)
        headers = dict(zip(SEQUENCE_HEADERS, msgspec.structs.astuple(sequence_headers(settings)), strict=True))
        self._of_handlers = {MODEL_METRICS: told_to_workers(declared_by(settings)), **headers}

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
            UserError: A model that is not there, an engine or device that does not exist, something not allowed, a node that
                cannot do what it is to do.
        """
        specs = {
            key: self._model_pool(name, key, overridden(spec, overrides), Places(folder, parts))
            for key, spec in plan.models.items()
            if not spec.model
        }
        problems = cache_problems(plan, lambda key: key in specs and bool(specs[key].sequence_header))
        if problems:
            raise InvalidWorkflowError(tuple(problems))
        if plan.functions:
            specs[FUNCTIONS] = self._functions_pool(name, dict(plan.functions), folder, plan.spelling)
        return specs

    def _model_pool(self, name: str, key: str, spec: ModelSpec, places: Places) -> PoolSpec:
        if spec.trusted and not self._settings.allow_trusted:
            raise ForbiddenError(f'model "{key}": `trusted` is not allowed here; the setting allow_trusted permits it')
        spec = msgspec.structs.replace(spec, arguments=url_arguments(spec.url) | spec.arguments)
        located = self._locator.find(key, spec, places)
        # What the caller says counts, then the model's own file, then the settings.
        spec = fill(spec, ModelSpec(device=located.spec().device))
        devices = parse_devices(spec.device or self._settings.load_on_devices, self._available)
        ranks = self._ranks(located, devices, key if key == name else f"{name}__{key}")
        gpus = _gpus_of(ranks, devices)
        devices = tuple(gpus) if ranks is not None else devices
        spec = fill(spec, shared_out(spec.options, len(devices)))
        own = fill(located.spec(devices[0].type), late_spec(spec.options, len(devices)))
        spec = fill(spec, own)
        spec = fill(spec, ModelSpec(min_worker=self._settings.min_workers, max_worker=self._settings.max_workers))
        processes = ranks.count if ranks is not None else 1
        low, high = workers(spec, max(1, self._default_workers(located, devices) // processes))
        policy = self._policy(key, spec)
        return PoolSpec(
            name=key if key == name else f"{name}:{key}",
            engine=located.engine,
            root=str(located.root),
            path=located.path,
            spec=msgspec.structs.replace(spec, batch_size=policy.batch_size),
            policy=policy if located.described is None else self._policy_of(policy, located, high * len(devices)),
            devices=devices,
            min_workers=low,
            max_workers=high,
            threads=(ranks.threads if ranks else None) or max(1, self._cores // max(1, low * len(devices) * processes)),
            ranks=ranks,
            gpus=gpus,
            own_workers=workers(own),
            startup_timeout_s=located.startup_timeout_s or self._settings.startup_timeout_s,
            silent_limit_s=self._settings.silent_limit_s,
            handlers=located.handlers,
            properties=self._properties(located, key if key == name else f"{name}__{key}"),
            confinement=self.confinement,
        )

    def _policy_of(self, policy: Policy, located: Located, most_workers: int) -> Policy:
        """How a model with handlers is served, in sequences where its archive says so; `most_workers` on all devices together."""
        at_once = policy.batch_size * most_workers
        policy = policy_of_handlers(policy, located)
        if not isinstance(located.described, ArchivedModel) or not located.described.config.has_sequences:
            return policy
        limits = _limits_of(located.described.config, at_once, sequence_headers(self._settings))
        return msgspec.structs.replace(policy, sequences=limits)

    def _ranks(self, located: Located, devices: tuple[Device, ...], name: str) -> Ranks | None:
        """How workers are made of processes, with every number known."""
        ranks = located.ranks
        if ranks is None:
            return None
        gpus = sum(device.type == "gpu" for device in devices)
        count, each = ranks.count or max(1, gpus), ranks.devices or max(1, gpus)
        return msgspec.structs.replace(ranks, count=count, devices=each, name=name, silent_limit_s=self._settings.silent_limit_s)

    def _default_workers(self, located: Located, devices: tuple[Device, ...]) -> int:
        """Most workers per device where nobody says: handlers on the CPU may use all cores, as in DJL (§5), others have one."""
        return self._cores if located.is_djl_handler and devices[0].type == "cpu" else 1

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
            properties={"model_name": name} | self._of_handlers if spelling == "torchserve" else {},
            confinement=self.confinement,
            startup_timeout_s=self._settings.startup_timeout_s,
            silent_limit_s=self._settings.silent_limit_s,
        )

    def _properties(self, located: Located, model_name: str) -> dict[str, str]:
        """What workers are told; handlers of TorchServe and MMS also under which name the model is served, and their metrics."""
        if not isinstance(located.described, ArchivedModel):
            return located.parameters
        return located.parameters | {"model_name": model_name} | self._of_handlers

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


def _gpus_of(ranks: Ranks | None, devices: tuple[Device, ...]) -> dict[Device, tuple[int, ...]]:
    """The GPUs of a worker by its device, where it may take several.

    Raises:
        InvalidModelError: There are fewer than one worker takes; the text begins as TorchServe's.
    """
    if ranks is None:
        return {}
    sets = in_sets(devices, ranks.devices)
    if not sets:
        told = f"each worker takes {ranks.devices} GPUs, and may have {', '.join(map(str, devices))}"
        raise InvalidModelError(f"No enough gpu devices for model:{ranks.name} parallelLevel:{ranks.devices} ({told})")
    return {device: tuple(one.id for one in several) for device, several in sets.items()}


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
    policy = msgspec.structs.replace(policy, timeout_error=timeout_error, died_error=died_error)
    if isinstance(located.described, ArchivedModel):
        config = located.described.config
        policy = msgspec.structs.replace(policy, client_timeout_s=config.client_timeout_s, needs_idle=config.needs_idle)
    if located.described is None or not located.described.is_asynchronous:
        return policy
    # What is computed side by side shares no batch: there the slowest would hold the others.
    return msgspec.structs.replace(policy, batch_size=1, concurrency=located.described.concurrency(policy.batch_size))


def sequence_headers(settings: Settings) -> SequenceHeaders:
    """Headers with which requests say which sequence they belong to."""
    return SequenceHeaders(
        settings.ts_header_key_sequence_id, settings.ts_header_key_sequence_start, settings.ts_header_key_sequence_end
    )


def _limits_of(config: ModelConfig, at_once: int, headers: SequenceHeaders) -> SequenceLimits:
    """How long sequences live and how many there may be: as many as can be computed at once at least, as in TorchServe."""
    return SequenceLimits(
        idle_s=config.sequence_idle_s,
        timeout_s=config.sequence_timeout_s,
        most=max(config.max_sequences, at_once, 1),
        queue_size=config.sequence_queue_size,
        headers=headers,
    )
