"""Registers, brings back and unregisters models and workflows.

The order of a registration is what keeps the promises: the archive is stored, the workflow checked, the name taken, the workers
started, the record committed, the endpoint opened, and only then is the caller told. What fails on the way undoes what came
before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import structlog

from flowyard.engines.torchserve.folder import Manifest, find_manifest
from flowyard.platform.archives.fetch import Report
from flowyard.platform.archives.names import LoadItem, check_name, check_version, infer_model_name
from flowyard.platform.archives.remote import is_remote, url_arguments
from flowyard.platform.archives.store import ArchiveStore, StoredArchive
from flowyard.platform.devices import discover, parse_device
from flowyard.platform.registry.adapters import Served, adapter_problems
from flowyard.platform.registry.adapters import begin as begin_with_adapters
from flowyard.platform.registry.checking import check_place, read_text
from flowyard.platform.registry.deployment import (
    Deployment,
    Places,
    Planner,
    Scaling,
    inside_urls,
    outside_urls,
    registered_pool,
)
from flowyard.platform.registry.endpoints import Endpoints, Entry, shown
from flowyard.platform.registry.layout import WORKFLOW_FILES, WorkflowPlace, find_workflow, locate_model_dir
from flowyard.platform.registry.requirements import Requirements
from flowyard.platform.registry.sources import Source, Sources
from flowyard.platform.registry.store import Record, RegistryStore, StateDirLock
from flowyard.platform.registry.templates import Templates
from flowyard.platform.settings import Settings
from flowyard.platform.state_dir import let_through
from flowyard.platform.telemetry.measures import RegistrationMeasures
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import (
    ConflictError,
    FlowyardError,
    InvalidRequestError,
    InvalidWorkflowError,
    Problem,
    ShutDownError,
    UnavailableError,
    UserError,
)
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.check import Checked
from flowyard.workflows.plan import Plan, Registered, single_model_plan

log = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")

UPLOAD = "upload:sha256:"


def _unseen(fetched_bytes: int, total_bytes: int | None) -> None:
    """Progress that nobody looks at: the caller waits."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants registered.

    Attributes:
        url: Where the archive is, or empty for an upload.
        upload: The uploaded file.
        filename: What the uploaded file is called, where the caller said so.
        name: Name to serve it under; that of the workflow file, or inferred from the URL, when empty.
        version: Version; that of the workflow file when empty.
        spec: What is said about the model, or about every model of the workflow.
        operator: Whether the operator asks, who may name any path.
        kind: `workflow` refuses what is none; `any` takes a single model as well.
        wait: Whether to wait for the workers, and for what has to be fetched.
        sha256: What the digest of the archive has to be, in hex; empty for any.
    """

    url: str = ""
    upload: Path | None = None
    filename: str = ""
    name: str = ""
    version: str = ""
    spec: ModelSpec = msgspec.field(default_factory=ModelSpec)
    operator: bool = False
    kind: str = "any"
    wait: bool = True
    sha256: str = ""


class Registry:
    """All that is registered, on disk and running."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.endpoints = Endpoints()
        self.registrations = RegistrationMeasures()
        state_dir = Path(settings.state_dir).resolve()
        self._lock = StateDirLock(state_dir)
        self._archives = ArchiveStore(state_dir / "archives")
        self._store = RegistryStore(state_dir / "registry.sqlite")
        self._sources = Sources(settings, self._archives)
        self._available = discover()
        self._planner = Planner(settings, self._available)
        self._requirements = Requirements(settings, state_dir / "requirements", self._planner.confinement)
        account = self._planner.confinement.account
        if account is not None:
            let_through((state_dir, *self._archives.folders), account.gid)
        self.templates = Templates(Path(settings.workflow_templates) if settings.workflow_templates else None)
        self._registering = 0
        self._background: set[asyncio.Task[Any]] = set()
        self._scheduled: set[asyncio.Task[Any]] = set()
        self._restoring: asyncio.Future[Any] | None = None
        self._fetches: dict[asyncio.Task[Any], Entry | None] = {}

    # ---- life ----

    async def open(self, *, wait: bool = True) -> None:
        """Opens the record and brings back what is in it, in parallel. One that fails stays, as `FAILED`.

        Args:
            wait: Whether to wait until all of it is up.
        """
        await self._store.open()
        entries = [Entry(record) for record in await self._store.all()]
        for entry in entries:
            self.endpoints.add(entry)
        for name, traffic in (await self._store.all_traffic()).items():
            self.endpoints.restore_traffic(name, traffic)
        restoring = asyncio.gather(*(self._restore(entry) for entry in entries))
        if wait:
            await restoring
        else:
            self._restoring = restoring
        # An archive that nothing refers to is left of a registration that a crash has cut short.
        self._collect()

    async def close(self) -> None:
        """Drains and ends everything that runs. The record stays as it is."""
        drain_s = self.settings.drain_timeout_s
        self._requirements.stop()
        unfinished = {*self._scheduled, *([self._restoring] if self._restoring is not None else [])}
        for task in unfinished:
            task.cancel()
        self.stop_fetching()
        await asyncio.gather(*unfinished, return_exceptions=True)
        running = [entry.deployment for entry in self.endpoints if entry.deployment is not None]
        await asyncio.gather(*(deployment.close(drain_s) for deployment in running))
        if self._background:
            await asyncio.wait(self._background)
        await self._store.close()
        self._lock.release()

    def stop_fetching(self) -> None:
        """Cuts short what somebody waits for, who is told so. What nobody waits for ends with `close`; a start takes it up."""
        self._cut_short(set(self._fetches) - self._scheduled)

    async def load(self, item: LoadItem) -> None:
        """Loads what the operator asked for at the start. It replaces what the record has under that name.

        Raises:
            UserError: It cannot be loaded; the message says which it is.
        """
        try:
            await self._load(item)
        except InvalidWorkflowError as error:
            raise InvalidWorkflowError((Problem(message=f"cannot load {item}"), *error.problems)) from error
        except FlowyardError as error:
            raise InvalidRequestError(f"cannot load {item}: {error}") from error
        except OSError as error:
            raise InvalidRequestError(f"cannot load {item}: {error.strerror or error}") from error

    def load_later(self, items: Sequence[LoadItem]) -> None:
        """Loads what the operator asked for while requests are answered already. What cannot be loaded stays, as `FAILED`.

        Args:
            items: What to load; one after the other, after everything that is in the record.
        """
        self._schedule(self._load_one_by_one([(item, self._announce(item)) for item in items]))

    async def _load_one_by_one(self, announced: list[tuple[LoadItem, Entry | None]]) -> None:
        if self._restoring is not None:
            await self._restoring
        for item, entry in announced:
            if entry is not None and not self.endpoints.holds(entry):
                continue
            try:
                await self._load(item, entry)
            except (FlowyardError, OSError) as error:
                log.error("could not load", item=str(item), reason=str(error))
                if entry is not None:
                    entry.failed(str(error))

    def _announce(self, item: LoadItem) -> Entry | None:
        """An entry that says that something is being loaded, until it is; none where there is one of that name."""
        try:
            name = check_name(item.name or infer_model_name(item.url))
        except InvalidRequestError:
            return None
        record = Record(
            name=name, version=item.version or "", kind="model", url=item.url, digest="", spec=ModelSpec(), created=_now()
        )
        entry = Entry(record, at_startup=True)
        try:
            self.endpoints.add(entry)
        except ConflictError:
            return None
        return entry

    async def _load(self, item: LoadItem, announced: Entry | None = None) -> None:
        spec = ModelSpec(engine=item.engine, device=item.devices)
        request = Request(url=item.url, name=item.name or "", version=item.version or "", spec=spec, operator=True)
        async with self._stored(request, announced) as (source, stored):
            plan, kind = self._compile(source, stored)
            if announced is not None:
                if not self.endpoints.holds(announced):
                    return
                self.endpoints.remove(announced)
            try:
                await self._load_stored(source, stored, plan, kind)
            except FlowyardError:
                if announced is not None:
                    with contextlib.suppress(ConflictError):
                        self.endpoints.add(announced)
                raise

    async def _load_stored(self, source: Request, stored: StoredArchive, plan: Plan, kind: str) -> None:
        """Registers what the operator asked for, unless just that is there already."""
        name, version = _identity(source, plan)
        entry = self.endpoints.get(name, version)
        if entry is None:
            await self._register(source, stored, plan, kind)
            return
        is_same = entry.record.digest == stored.digest and entry.record.spec == source.spec
        if is_same and entry.deployment is not None:
            entry.at_startup = True
            return
        log.info("replacing what was registered by what --load says", name=name, version=version)
        traffic = self.endpoints.traffic(name)
        await self._unregister([entry])
        await self._register(source, stored, plan, kind)
        await self._change_traffic(name, functools.partial(self.endpoints.restore_traffic, name, traffic))

    @property
    def default_name(self) -> str | None:
        """The one name that the operator loaded at the start, which requests without a name mean (DJL §2.3)."""
        names = {entry.record.name for entry in self.endpoints if entry.at_startup}
        return names.pop() if len(names) == 1 else None

    # ---- registration ----

    def temporary_file(self) -> AbstractContextManager[Path]:
        """Lends a file for an upload, on the file system of the archives."""
        return self._archives.temporary_file()

    async def register(self, request: Request) -> Entry:
        """Registers a model or workflow and waits until it serves, unless the caller does not want to wait.

        Args:
            request: What to register. An upload must stay until this returns.

        Returns:
            The entry, recorded on disk; open for requests, or `PENDING` when nobody waits. One that then fails stays as `FAILED`.
            What is remote is fetched while it is `PENDING`.

        Raises:
            FlowyardError: It cannot be registered; nothing is left of the attempt.
        """
        return await self._unbroken(self._count_registration(request))

    async def _count_registration(self, request: Request) -> Entry:
        try:
            entry = await self._register_request(request)
        except BaseException:
            self.registrations.refused += 1
            raise
        self.registrations.accepted += 1
        return entry

    async def _register_request(self, request: Request) -> Entry:
        if request.upload is None:
            self._sources.check(request.url, operator=request.operator)
            if is_remote(request.url) and not request.wait:
                return await self._register_unfetched(request)
            if is_remote(request.url) and request.name:
                self.endpoints.check_free(request.name, request.version)
        async with self._stored(request) as (source, stored):
            plan, kind = self._compile(source, stored)
            return await self._register(source, stored, plan, kind)

    @contextlib.asynccontextmanager
    async def _registration(self) -> AsyncIterator[None]:
        """Keeps archives from being collected between being stored and being referred to."""
        self._registering += 1
        try:
            yield
        finally:
            self._registering -= 1
            self._collect()

    @contextlib.asynccontextmanager
    async def _stored(self, request: Request, entry: Entry | None = None) -> AsyncIterator[tuple[Request, StoredArchive]]:
        """Puts the archive into the store, where it stays for the time of the context; an upload gets its digest for a URL."""
        report: Report = entry.fetched if entry is not None else _unseen
        async with contextlib.AsyncExitStack() as keeping:
            if request.upload is not None:
                await keeping.enter_async_context(self._registration())
                stored = await self._sources.add(Source(request.upload, request.filename or "upload"), request.sha256)
                yield msgspec.structs.replace(request, url=UPLOAD + stored.digest), stored
                return
            with self._fetching(entry):
                async with self._sources.at_hand(request.url, report, operator=request.operator) as source:
                    await keeping.enter_async_context(self._registration())
                    stored = await self._sources.add(source, request.sha256)
            yield request, stored

    def _compile(self, request: Request, stored: StoredArchive, *, is_new: bool = True) -> tuple[Plan, str]:
        """Checks and compiles what is in an archive: its workflow file, or else the one model it holds."""
        place = find_workflow(stored.folder)
        if place is not None:
            return self._checked_plan(request, place, stored, is_new=is_new), "workflow"
        if request.kind == "workflow":
            wanted = ", ".join(WORKFLOW_FILES)
            raise InvalidRequestError(f"no workflow in {request.url}: none of {wanted} at its root; a model goes to POST /models")
        manifest = _manifest(stored)
        name = request.name or manifest.name or self._model_name(request)
        arguments = url_arguments(request.url) | request.spec.arguments
        spec = msgspec.structs.replace(request.spec, url=stored.filename or ".", arguments=arguments)
        plan = single_model_plan(check_name(name), spec)
        return msgspec.structs.replace(plan, version=manifest.version), "model"

    def _checked_plan(self, request: Request, place: WorkflowPlace, stored: StoredArchive, *, is_new: bool) -> Plan:
        """The plan of a workflow file; what a new one expects to find on the server must be there."""
        folder = stored.folder
        file = place.file.relative_to(folder).as_posix()
        text = locate_model_dir(read_text(place), request.url, alone=bool(stored.filename))
        # What has been registered has its models in the archive store, whatever has become of the model store since.
        store = Path(self.settings.model_store) if self.settings.model_store and is_new else None
        checked = check_place(place, folder, file, text=text, name=request.name, store=store, is_store_known=is_new)
        if is_new:
            checked = checked.with_problems(self._missing(checked, file))
        if checked.plan is None:
            raise InvalidWorkflowError(checked.problems)
        for problem in checked.problems if is_new else ():
            log.warning("workflow", name=checked.plan.name, problem=str(problem))
        return checked.plan

    def _model_name(self, request: Request) -> str:
        if request.upload is None:
            return infer_model_name(request.url)
        if not request.filename:
            raise InvalidRequestError("Parameter model_name is required: the upload has no file name to take it from.")
        return infer_model_name(request.filename)

    async def _register(self, request: Request, stored: StoredArchive, plan: Plan, kind: str) -> Entry:
        name, version = _identity(request, plan)
        self._check_parts(plan, stored.folder)
        entry = Entry(_record(request, name, version, kind, stored.digest), at_startup=request.operator)
        failed_before = self.endpoints.add(entry) is not None
        if not request.wait:
            await self._record_first(entry)
            self._schedule(self._deploy_later(entry, plan, stored))
            return entry
        try:
            deployment = await self._bring_up(entry, plan, stored)
        except BaseException:
            if self.endpoints.holds(entry):
                self.endpoints.remove(entry)
                if failed_before:
                    await self._store.delete(name, [version], self.endpoints.traffic(name))
            raise
        self.endpoints.ready(entry, deployment)
        log.info("registered", name=name, version=version or None, kind=kind, url=request.url)
        return entry

    async def _bring_up(self, entry: Entry, plan: Plan, stored: StoredArchive) -> Deployment:
        """Starts what an entry is, and records it, unless it is unregistered meanwhile."""
        deployment = await self._deploy(entry, plan, stored)
        try:
            self._check_held(entry)
            await self._store.put(entry.record)
            self._check_held(entry)
        except BaseException:
            await deployment.close(0)
            raise
        return deployment

    def _check_held(self, entry: Entry) -> None:
        if not self.endpoints.holds(entry):
            label = shown(entry.record.name, entry.record.version)
            raise ConflictError(f"Workflow {label} was unregistered while it was being registered.")

    async def _record_first(self, entry: Entry) -> None:
        try:
            await self._store.put(entry.record)
        except BaseException:
            self.endpoints.remove(entry)
            raise

    async def _deploy_later(self, entry: Entry, plan: Plan, stored: StoredArchive) -> None:
        """Brings up what has been acknowledged already. One that fails stays, as `FAILED`."""
        parts = entry.record.parts
        try:
            deployment = await self._deploy(entry, plan, stored)
            if entry.record.parts != parts and self.endpoints.holds(entry):
                await self._store.put(entry.record)
        except (FlowyardError, OSError) as error:
            _failed(entry, error)
            return
        if self.endpoints.holds(entry):
            self.endpoints.ready(entry, deployment)
        else:
            await deployment.close(0)

    def _missing(self, checked: Checked, shown: str) -> list[Problem]:
        """What a workflow expects of the server and would not find there."""
        found = [self._missing_reference(reference, shown) for reference in checked.references]
        problems = [problem for problem in found if problem is not None]
        return problems + (adapter_problems(checked.definition, shown) if checked.definition is not None else [])

    def _missing_reference(self, reference: Registered, shown: str) -> Problem | None:
        name, _, version = reference.name.partition(":")
        try:
            if reference.kind == "model":
                registered_pool(self.endpoints.route, reference.name)
            else:
                self.endpoints.versions(name, version or None)
        except UserError as error:
            near = difflib.get_close_matches(name, self.endpoints.names(), n=1)
            return Problem(
                message=error.message,
                file=shown,
                line=reference.line,
                column=reference.column,
                name=reference.name,
                nearest=near[0] if near else "",
                fix=f'did you mean "{near[0]}"?' if near else f"register the {reference.kind} first",
            )
        return None

    # ---- what has to be fetched ----

    async def _register_unfetched(self, request: Request) -> Entry:
        """Acknowledges a registration before anything has been fetched; the name is the caller's or the URL's (DJL §1.3)."""
        name = check_name(request.name or infer_model_name(request.url))
        version = check_version(request.version) if request.version else ""
        entry = Entry(_record(request, name, version, request.kind, ""))
        self.endpoints.add(entry)
        await self._record_first(entry)
        self._schedule_fetch(entry)
        return entry

    def _schedule_fetch(self, entry: Entry) -> None:
        entry.fetched(0, None)
        self._schedule(self._fetch_later(entry))

    async def _fetch_later(self, entry: Entry) -> None:
        """Fetches and brings up what has been acknowledged already. One that fails stays, as `FAILED`."""
        try:
            plan, stored = await self._fetch_entry(entry)
        except (FlowyardError, OSError) as error:
            _failed(entry, error)
        except Exception:
            entry.failed("internal error; the log has the details")
            raise
        else:
            await self._deploy_later(entry, plan, stored)

    async def _fetch_entry(self, entry: Entry) -> tuple[Plan, StoredArchive]:
        request = _request(entry.record)
        async with self._stored(request, entry) as (_, stored):
            plan, kind = self._compile(request, stored)
            self._check_parts(plan, stored.folder)
            entry.record = msgspec.structs.replace(entry.record, digest=stored.digest, kind=_kind(kind))
            await self._store.put(entry.record)
        return plan, stored

    @contextlib.contextmanager
    def _fetching(self, entry: Entry | None) -> Iterator[None]:
        """Lets whoever unregisters the entry, or stops the server, cut a fetch short."""
        task = asyncio.current_task()
        assert task is not None
        self._fetches[task] = entry
        try:
            yield
        except asyncio.CancelledError:
            if task in self._fetches:
                raise
            task.uncancel()
            raise ShutDownError("the fetch was cut short: unregistered, or the server is stopping") from None
        finally:
            self._fetches.pop(task, None)

    def _cut_short(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            del self._fetches[task]
            task.cancel()

    def _check_parts(self, plan: Plan, folder: Path) -> None:
        """Models outside of the archive follow the rule of every URL of a caller, whoever registers the workflow."""
        for url, key in outside_urls(plan, folder).items():
            with _naming(key):
                self._sources.check(url)

    async def _fetch_parts(self, entry: Entry, plan: Plan, folder: Path) -> None:
        """Puts the models outside of the archive into the store, where the entry's record keeps them."""
        for url, key in outside_urls(plan, folder).items():
            if url not in entry.record.parts:
                with _naming(key):
                    async with self._stored(Request(url=url), entry) as (_, part):
                        entry.keep_part(url, part.digest)

    async def _unpack_parts(self, entry: Entry, plan: Plan, folder: Path) -> None:
        """Unpacks models that are archives in the archive; DJL's workflows name such files (DJL §3.3)."""
        for url, key in inside_urls(plan, folder).items():
            with _naming(key):
                source = Source(Places(folder, {}).find(url), url)
                if url not in entry.record.parts and await self._sources.is_packed(source):
                    async with self._registration():
                        entry.keep_part(url, (await self._sources.add(source)).digest)

    def _parts(self, record: Record) -> dict[str, Path]:
        found = {url: self._archives.open(digest) for url, digest in record.parts.items()}
        return {url: stored.folder / stored.filename for url, stored in found.items()}

    # ---- bringing up ----

    async def _deploy(self, entry: Entry, plan: Plan, stored: StoredArchive) -> Deployment:
        started = time.monotonic()
        await self._fetch_parts(entry, plan, stored.folder)
        await self._unpack_parts(entry, plan, stored.folder)
        record = entry.record
        specs = self._planner.pool_specs(record.name, plan, stored.folder, record.spec, self._parts(record))
        specs = await self._requirements.satisfy(specs)
        deployment = Deployment(record.name, record.version, plan, specs)
        entry.attempt = deployment
        deployment.restore(record.workers)
        begin_with_adapters(deployment, record, stored.folder)
        with self._requirements.hint(specs):
            await deployment.start()
        log.info("deployed", name=record.name, seconds=round(time.monotonic() - started, 3))
        return deployment

    async def _restore(self, entry: Entry) -> None:
        record = entry.record
        if not record.digest:
            self._schedule_fetch(entry)
            return
        try:
            stored = self._archives.open(record.digest)
            plan, _ = self._compile(_request(record), stored, is_new=False)
        except (FlowyardError, OSError) as error:
            _failed(entry, error)
            return
        if record.parts.keys() >= outside_urls(plan, stored.folder).keys():
            await self._deploy_later(entry, plan, stored)
        else:
            self._schedule(self._deploy_later(entry, plan, stored))

    # ---- scaling ----

    async def scale(self, name: str, version: str | None, scaling: Scaling, *, wait: bool) -> int:
        """Changes the number of workers of one version of a name, or of all. It is recorded on disk when this returns.

        Args:
            name: Name of the endpoint.
            version: Its version, `None` for all.
            scaling: What to change.
            wait: Whether to wait until the workers are ready.

        Returns:
            The number of models scaled.

        Raises:
            ModelNotFoundError: There is no such name or version.
            UnavailableError: It does not run, or the new workers cannot be started.
            InvalidRequestError: The minimum would be over the maximum, or the device is not here.
        """
        entries = self.endpoints.versions(name, version)
        running = [(entry, entry.deployment) for entry in entries if entry.deployment is not None]
        if len(running) < len(entries):
            raise UnavailableError(f"Model or workflow is not ready: {name}")
        return await self._unbroken(self._scale(running, scaling, wait=wait))

    async def _scale(self, running: list[tuple[Entry, Deployment]], scaling: Scaling, *, wait: bool) -> int:
        count = 0
        for entry, deployment in running:
            workers = deployment.scale(scaling)
            count += len(workers)
            entry.record = msgspec.structs.replace(entry.record, workers=workers)
            await self._store.put(entry.record)
        if wait:
            await asyncio.gather(*(deployment.settled() for _, deployment in running))
        return count

    # ---- adapters ----

    async def change_adapters(self, served: Served, change: Coroutine[Any, Any, str]) -> str:
        """Changes the adapters of a model. The change is recorded on disk when this returns.

        Args:
            served: The model.
            change: What is to be done with its adapters.

        Returns:
            What the handler says about it.

        Raises:
            FlowyardError: The change was refused; nothing has changed.
        """
        return await self._unbroken(self._change_adapters(served, change))

    async def _change_adapters(self, served: Served, change: Coroutine[Any, Any, str]) -> str:
        before = served.adapters.known()
        said = await change
        entry = served.entry
        adapters = entry.record.adapters | {served.key: tuple(served.adapters)}
        entry.record = msgspec.structs.replace(entry.record, adapters=adapters)
        if self.endpoints.holds(entry):
            try:
                await self._store.put(entry.record)
            except BaseException:
                served.adapters.restore(before)
                raise
        return said

    def device(self, name: str) -> Device:
        """A device by name.

        Raises:
            InvalidRequestError: No such name, or no such device here.
        """
        return parse_device(name, self._available)

    # ---- how requests are spread over versions ----

    async def set_weights(self, name: str, weights: Mapping[str, int]) -> None:
        """Sets the shares of the versions of a name, as `Endpoints.set_weights`; recorded on disk when this returns."""
        await self._change_traffic(name, functools.partial(self.endpoints.set_weights, name, weights))

    async def set_default(self, name: str, version: str) -> None:
        """Chooses the version that answers, as `Endpoints.set_default`; recorded on disk when this returns."""
        await self._change_traffic(name, functools.partial(self.endpoints.set_default, name, version))

    async def clear_default(self, name: str, version: str) -> None:
        """Takes that choice back, as `Endpoints.clear_default`; recorded on disk when this returns."""
        await self._change_traffic(name, functools.partial(self.endpoints.clear_default, name, version))

    async def set_shadow(self, name: str, version: str, *, on: bool) -> None:
        """Makes a version a shadow or an ordinary one, as `Endpoints.set_shadow`; recorded on disk when this returns."""
        await self._change_traffic(name, functools.partial(self.endpoints.set_shadow, name, version, on=on))

    async def _change_traffic(self, name: str, change: Callable[[], None]) -> None:
        await self._unbroken(self._changed_traffic(name, change))

    async def _changed_traffic(self, name: str, change: Callable[[], None]) -> None:
        before = self.endpoints.traffic(name)
        change()
        # Nothing may come between the change and its way to the store: the last one that is recorded must be the last one made.
        try:
            await self._store.put_traffic(name, self.endpoints.traffic(name))
        except BaseException:
            self.endpoints.restore_traffic(name, before)
            raise

    # ---- removal ----

    async def unregister(self, name: str, version: str | None = None) -> None:
        """Removes one version of a name, or all. It is gone from the record, and its workers have ended, when this returns.

        Raises:
            NotFoundError: There is no such name or version.
        """
        await self._unregister(self.endpoints.versions(name, version))

    async def _unregister(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.endpoints.remove(entry)
        self._cut_short([task for task, fetched_for in self._fetches.items() if fetched_for in entries])
        await self._unbroken(self._remove(entries))

    async def _remove(self, entries: list[Entry]) -> None:
        """Forgets the entries of one name, which answer no new requests any more, and ends what runs."""
        name = entries[0].record.name
        await self._store.delete(name, [entry.record.version for entry in entries], self.endpoints.traffic(name))
        running = [entry.deployment for entry in entries if entry.deployment is not None]
        await asyncio.gather(*(deployment.close(self.settings.drain_timeout_s) for deployment in running))
        for entry in entries:
            log.info("unregistered", name=name, version=entry.record.version or None)
        self._collect()

    def _collect(self) -> None:
        """Removes the archives that nothing refers to, unless something is being registered just now."""
        if not self._registering:
            digests = [digest for entry in self.endpoints for digest in entry.record.digests]
            self._archives.remove_unused(digests)
            self._requirements.remove_unused(digests)

    def _schedule(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts work that nobody waits for, until the server stops."""
        task = asyncio.get_running_loop().create_task(work)
        for tasks in (self._background, self._scheduled):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs work to its end even when the caller goes away in the middle of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return await asyncio.shield(task)


def _manifest(stored: StoredArchive) -> Manifest:
    """What the manifest of a TorchServe or MMS archive says, an empty one where there is none."""
    found = find_manifest(stored.folder / stored.filename)
    return found[1] if found is not None else Manifest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _kind(kind: str) -> Literal["model", "workflow"]:
    return "workflow" if kind == "workflow" else "model"


def _record(request: Request, name: str, version: str, kind: str, digest: str) -> Record:
    return Record(
        name=name,
        version=version,
        kind=_kind(kind),
        url=request.url,
        digest=digest,
        spec=request.spec,
        created=_now(),
        sha256=request.sha256,
    )


def _request(record: Record) -> Request:
    """What was asked for, to take up again where a record has nothing or something in the store."""
    return Request(
        url=record.url,
        name=record.name,
        version=record.version,
        spec=record.spec,
        kind="workflow" if record.kind == "workflow" else "any",
        sha256=record.sha256,
    )


def _failed(entry: Entry, error: Exception) -> None:
    entry.failed(str(error))
    log.error("could not bring up", name=entry.record.name, version=entry.record.version or None, reason=str(error))


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Says in an error which model of a workflow it is about."""
    try:
        yield
    except UserError as error:
        raise type(error)(f'model "{key}": {error}') from None


def _identity(request: Request, plan: Plan) -> tuple[str, str]:
    """Name and version to register under: what the caller says, else what the file says."""
    version = request.version or plan.version or ""
    return check_name(request.name or plan.name), check_version(version) if version else ""
