"""TorchServe's management API (TorchServe reference §1.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog

from flowyard.platform.archives.remote import is_remote
from flowyard.platform.http.torchserve import openapi
from flowyard.platform.http.torchserve.answers import Answer, Change, json_answer, status_answer
from flowyard.platform.http.torchserve.descriptions import ModelInfo, ModelList, describe, item, limits, seen_workers
from flowyard.platform.http.torchserve.entries import NO_VERSION, Model, Models
from flowyard.platform.http.torchserve.errors import (
    NO_METHOD,
    DefaultVersionError,
    DownloadError,
    FileExistsAlreadyError,
    InstallationError,
    NegativeWorkersError,
    VersionNotFoundError,
)
from flowyard.platform.http.torchserve.metadata import ask_model
from flowyard.platform.http.torchserve.pages import matches, slice_of
from flowyard.platform.http.torchserve.parameters import Parameters, of_json, of_query
from flowyard.platform.http.torchserve.placement import spread, with_gpus
from flowyard.platform.http.torchserve.registrations import (
    MOST_WORKERS,
    TORCHSERVE_RUNTIMES,
    Asked,
    read_registration,
    reason_of,
    start_failure,
)
from flowyard.platform.http.torchserve.requests import HttpRequest
from flowyard.platform.http.torchserve.urls import check_relative, in_store, is_file_url, is_web_or_file, taken_name
from flowyard.platform.http.torchserve.workflows import Workflows
from flowyard.platform.registry.deployment import FUNCTIONS
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.request import Request
from flowyard.platform.registry.scaling import Scaling
from flowyard.platform.telemetry.gpus import Gpus
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import (
    AlreadyRegisteredError,
    ConflictError,
    DeadlineError,
    FlowyardError,
    ForbiddenError,
    InvalidArchiveError,
    InvalidModelError,
    InvalidRequestError,
    MethodNotAllowedError,
    ModelNotFoundError,
    UnavailableError,
)
from flowyard.schemas.models import ModelSpec

log = structlog.stdlib.get_logger(__name__)

NO_NAME = "Model name is not defined."
NO_STORE = "Model store has not been configured."


class Management:
    """Answers the management API.

    Args:
        registry: Where models are.
        gpus: Looks at the GPUs, `None` for nobody.

    Attributes:
        may_change: Whether models may be registered and unregistered.
    """

    def __init__(self, registry: Registry, gpus: Gpus | None = None) -> None:
        self._registry = registry
        self._settings = registry.settings
        self._gpus = gpus
        self._models = Models(registry.endpoints)
        self._workflows = Workflows(registry, self._models)
        self.may_change = registry.settings.torchserve_model_api and registry.settings.enable_model_api

    async def answer(self, request: HttpRequest) -> Answer | None:
        """Answers a request, `None` where nothing is at its path.

        Raises:
            FlowyardError: It cannot be done.
        """
        match request.segments:
            case ["models"]:
                return await self._all(request)
            case ["models", name]:
                return await self._one(request, name, None)
            case ["models", name, version]:
                return await self._one(request, name, version)
            case ["models", name, version, "set-default"]:
                return await self._default(request, name, version)
            case ["v1", "models", target]:
                return self._ready(request, target)
            case ["workflows", *names]:
                return await self._workflows.answer(request, names)
        return None

    # ---- what is at a path ----

    async def _all(self, request: HttpRequest) -> Answer:
        match request.method:
            case "GET":
                return self._list(of_query(request.query))
            case "POST" if self.may_change:
                return status_answer(*await self.register(self._given(request)))
        raise MethodNotAllowedError(NO_METHOD)

    async def _one(self, request: HttpRequest, name: str, version: str | None) -> Answer:
        given = of_query(request.query)
        match request.method:
            case "GET":
                return await self._describe(name, version, given)
            case "PUT":
                return status_answer(*await self.change_workers(name, version, given))
            case "DELETE" if self.may_change:
                return status_answer(await self.remove(name, version, given))
            case "OPTIONS":
                self._models.find(name, version)
                return json_answer(openapi.torchserve_model_management(name))
        raise MethodNotAllowedError(NO_METHOD)

    async def _default(self, request: HttpRequest, name: str, version: str) -> Answer:
        match request.method:
            case "PUT":
                return status_answer(await self.set_default(name, version))
            case "GET":
                return await self._describe(name, None, of_query(request.query))
            case "OPTIONS":
                self._models.find(name, version)
                return json_answer(openapi.torchserve_model_management(name))
        raise MethodNotAllowedError(NO_METHOD)

    def _ready(self, request: HttpRequest, target: str) -> Answer:
        if request.method != "GET":
            raise MethodNotAllowedError(NO_METHOD)
        name = target.partition(":")[0]
        return json_answer({"name": name, "ready": bool(seen_workers(self._models.default(name).pool))})

    @staticmethod
    def _given(request: HttpRequest) -> Parameters:
        """The parameters of a registration: those of a JSON body alone, else those of the query."""
        return of_json(request.body) if request.media_type == "application/json" else of_query(request.query)

    # ---- reading ----

    def _list(self, given: Parameters) -> Answer:
        return json_answer(self.page(given))

    def page(self, given: Parameters) -> ModelList:
        """Some of the models."""
        models = self._models.default_models()
        pattern = given.text("model_name_pattern")
        if pattern:
            models = [model for model in models if matches(pattern, model.name)]
        found, token = slice_of([item(model, self._settings) for model in models], given)
        return ModelList(models=found, next_page_token=msgspec.UNSET if token is None else token)

    async def _describe(self, name: str, version: str | None, given: Parameters) -> Answer:
        is_customized = version != "all" and given.flag("customized", default=False)
        status, described = await self.description(name, version, customized=is_customized)
        return json_answer(described, status)

    async def description(self, name: str, version: str | None, *, customized: bool) -> tuple[int, list[ModelInfo]]:
        """Describes a model.

        Args:
            name: The model.
            version: Its version, `None` for the default one, `all` for all.
            customized: Whether it is asked what it says of itself; not of all versions.

        Returns:
            The status that it answers with where it is asked, and the versions.

        Raises:
            FlowyardError: There is no such model or version, or it cannot answer.
        """
        if version == "all":
            return 200, [self._described(model) for model in self._models.versions(name)]
        model = self._models.find(name, version)
        if not customized:
            return 200, [self._described(model)]
        status, metadata = await ask_model(model)
        return status, [self._described(model, metadata)]

    def _described(self, model: Model, metadata: Any = msgspec.UNSET) -> ModelInfo:
        return describe(model, self._settings, metadata, self._gpus.latest if self._gpus is not None else ())

    # ---- registering ----

    async def register(self, given: Parameters) -> Change:
        """Registers a model.

        Raises:
            FlowyardError: It cannot be registered.
        """
        asked = read_registration(given, self._settings, TORCHSERVE_RUNTIMES)
        url = self._checked_url(asked.url)
        entry = await self._registered(asked, url)
        model = self._registered_model(entry)
        low, _ = limits(model.pool)
        label = f'Model "{model.name}" Version: {model.version} registered with'
        if not low:
            return Change(f"{label} 0 initial workers. Use scale workers API to add workers for the model.")
        if not asked.synchronous:
            return Change("Processing worker updates...", 202)
        return Change(f"{label} {low} initial workers")

    def _registered_model(self, entry: Entry) -> Model:
        return Model(entry, entry.record.name)

    def _checked_url(self, url: str) -> str:
        """Where a registration's URL leads, in the order in which the original looks (TorchServe reference §1.2)."""
        if not self._settings.model_store:
            raise ModelNotFoundError(NO_STORE)
        if not url:
            raise ModelNotFoundError("empty url")
        check_relative(url)
        if is_web_or_file(url):
            return self._checked_download(url)
        if is_remote(url):
            try:
                self._registry.check_url(url)
            except FlowyardError:
                raise ModelNotFoundError(f"Model not found at: {url}") from None
            return url
        inside = in_store(url, self._settings)
        if inside is None:
            raise ModelNotFoundError(f"Model not found at: {url}")
        if url.endswith("/"):
            raise InvalidModelError(NO_NAME)
        if not self._registry.has_file(url):
            raise ModelNotFoundError(f"Model not found at: {url}")
        return url

    def _checked_download(self, url: str) -> str:
        if is_file_url(url) or not self._registry.allows_url(url):
            raise ModelNotFoundError(f"Given URL {url} does not match any allowed URL(s)")
        taken = taken_name(url, self._settings.model_store, self._registry.endpoints)
        if taken is not None:
            raise FileExistsAlreadyError(f"Model file already exists {taken}")
        try:
            self._registry.check_url(url)
        except FlowyardError as error:
            error.fetching = True
            raise self._refusal(error, url) from None
        return url

    async def _registered(self, asked: Asked, url: str) -> Entry:
        try:
            return await self._register_at(asked, url)
        except AlreadyRegisteredError as error:
            raise self._taken(error.name, error.version) from None
        except FlowyardError as error:
            if error.starting is not None:
                raise start_failure(self._not_started(*error.starting), reason_of(error)) from None
            raise self._refusal(error, asked.url) from None

    def _taken(self, name: str, version: str) -> FlowyardError:
        """What is told of a name and version that are taken."""
        return ConflictError(f"Model version {version or NO_VERSION} is already registered for model {name}")

    def _not_started(self, name: str, version: str) -> str:
        """What is told when the workers of a new model cannot be started."""
        return f"Failed to start workers for model {name} version: {version or NO_VERSION}"

    def _refusal(self, error: FlowyardError, url: str) -> FlowyardError:
        """What the original says of an archive that cannot be had or read."""
        log.warning("registration refused", url=url, reason=str(error))
        if error.fetching:
            return DownloadError(f"Failed to download archive from: {url}")
        if isinstance(error, ForbiddenError):
            return ModelNotFoundError(f"Model not found at: {url}")
        return archive_refusal(error)

    async def _register_at(self, asked: Asked, url: str) -> Entry:
        """Registers a model; where nobody waits, its workers start afterwards, so that it is there whatever becomes of them."""
        spec = asked.spec
        if not asked.synchronous:
            spec = deferred(spec)
        entry = await self._registry.register(Request(url=url, name=asked.name, spec=spec, infer_name=False))
        model = self._registered_model(entry)
        assert model.pool is not None
        low, high = model.pool.spec.own_workers
        if not asked.synchronous and high:
            await self._share(model, low * len(model.pool.spec.devices), high * len(model.pool.spec.devices), wait=False)
        return entry

    # ---- changing ----

    async def change_workers(self, name: str, version: str | None, given: Parameters) -> Change:
        """Changes the number of workers of a model; the version can be a parameter, too.

        Raises:
            FlowyardError: There is no such model or version, or its workers cannot be started.
        """
        low, high = read_workers(given)
        model = self._models.find(name, version if version is not None else given.text("model_version"))
        wait = given.flag("synchronous", default=False)
        label = version if version is not None else given.text("model_version")
        was_failing = model.pool is not None and model.pool.failing
        try:
            await self.scale(model, low, high, given, wait=wait)
        except UnavailableError as error:
            if was_failing:
                return Change("Workers scaling in progress...", 206)
            told = f"Failed to start workers for model {name} version: {label or 'null'}"
            raise start_failure(told, reason_of(error)) from None
        if not wait:
            return Change("Processing worker updates...", 202)
        return Change(f"Workers scaled to {low} for model: {name}{f', version: {label}' if label else ''}")

    async def scale(self, model: Model, low: int, high: int, given: Parameters, *, wait: bool) -> None:
        """Changes the number of workers of a model; with `number_gpu` and `timeout` as the early documents have them.

        Raises:
            NegativeWorkersError: Fewer than none are wanted.
        UnavailableError: It does not run, or its workers cannot be started.
        """
        if low < 0:
            raise NegativeWorkersError(f"Parameter min_worker: {low} is not allowed; allowed is a whole number from 0.")
        model.running()
        pool = model.pool
        number_gpu = given.integer("number_gpu")
        if number_gpu is not None and number_gpu >= 0:
            gpus = [device for device in self._registry.gpus if pool is None or pool.spec.may_run_on(device)]
            await self._apply(model, with_gpus(number_gpu, low, high, gpus), wait=wait)
        else:
            await self._share(model, low, high, wait=wait)
        timeout_s = given.integer("timeout")
        if timeout_s is not None and timeout_s >= 0:
            self._end_surplus(model, timeout_s)

    async def _share(self, model: Model, low: int, high: int, *, wait: bool) -> None:
        assert model.pool is not None
        await self._apply(model, spread(low, high, [group.device for group in model.pool.groups]), wait=wait)

    async def _apply(self, model: Model, shares: dict[Device, tuple[int, int]], *, wait: bool) -> None:
        record = model.entry.record
        pool = None if model.key in ("", FUNCTIONS) else model.key
        *others, last = shares.items()
        for device, (low, high) in others:
            await self._registry.scale(record.name, record.version, Scaling(low, high, device, pool), wait=False)
        device, (low, high) = last
        await self._registry.scale(record.name, record.version, Scaling(low, high, device, pool), wait=wait)

    def _end_surplus(self, model: Model, timeout_s: float) -> None:
        """Workers that are on their way out get so long to finish."""
        pool = model.pool
        assert pool is not None
        asyncio.get_running_loop().call_later(timeout_s, pool.end_leaving, f"no time left: timeout={timeout_s:g}")

    async def set_default(self, name: str, version: str) -> str:
        """Makes a version the default one, and says so.

        Raises:
            FlowyardError: There is no such model or version.
        """
        try:
            model = self._models.find(name, version)
        except VersionNotFoundError:
            raise VersionNotFoundError(f"Model version {version} does not exist for model {name}") from None
        await self._registry.set_default(model.entry.record.name, model.entry.record.version)
        return f'Default version successfully updated for model "{name}" to "{version}"'

    async def remove(self, name: str, version: str | None, given: Parameters) -> str:
        """Unregisters a model, and says so.

        Raises:
            FlowyardError: There is no such model or version, or it is the default one of several.
        """
        model = self._models.find(name, version)
        if model.key:
            raise InvalidRequestError(f"{name} is a node of the workflow {model.entry.record.name}; unregister that.")
        if len(self._models.versions(name)) > 1 and self._models.is_default(model):
            raise DefaultVersionError(f"Cannot remove default version for model {name}")
        await unregister(self._registry, model, given)
        return f'Model "{name}" unregistered'


def archive_refusal(error: FlowyardError) -> FlowyardError:
    """What the originals say of an archive that is none, or says too little of itself: a message without our part of it."""
    if error.installing:
        return InstallationError(f"Custom pip package installation failed for model {error.installing}")
    if isinstance(error, (InvalidArchiveError, ModelNotFoundError)):
        return InvalidModelError(NO_NAME)
    if isinstance(error, InvalidModelError):
        return InvalidModelError(error.message.partition(" (")[0])
    return error


async def unregister(registry: Registry, model: Model, given: Parameters) -> None:
    """Unregisters a model; `timeout` is how long running requests get before they are ended, as the early documents have it.

    Raises:
        DeadlineError: They get as long as the setting says, and have not finished; the model stays.
    """
    timeout_s = given.integer("timeout")
    record = model.entry.record
    if timeout_s is not None and timeout_s >= 0:
        await registry.unregister(record.name, record.version, drain_s=timeout_s)
        return
    limit_s = registry.settings.unregister_model_timeout
    try:
        await registry.unregister(record.name, record.version, drain_s=limit_s, keep_busy=True)
    except DeadlineError as error:
        raise DeadlineError(f"Timed out while cleaning resources: {model.name}") from error


def read_workers(given: Parameters) -> tuple[int, int]:
    """Least and most workers that are asked for.

    Raises:
        InvalidRequestError: The most are fewer than the least, or more than anybody has.
    """
    low = given.integer("min_worker")
    low = 1 if low is None else low
    high = given.integer("max_worker")
    high = low if high is None else high
    if high < low:
        raise InvalidRequestError("max_worker cannot be less than min_worker.")
    if high > MOST_WORKERS:
        raise InvalidRequestError(f"Parameter max_worker: {high} is not allowed; allowed is a whole number up to {MOST_WORKERS}.")
    return low, high


def deferred(spec: ModelSpec) -> ModelSpec:
    """The same model without workers for now."""
    return msgspec.structs.replace(spec, min_worker=0, max_worker=0)
