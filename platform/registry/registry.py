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
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
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
from flowyard.platform.registry.endpoints import Before, Endpoints, Entry, shown
from flowyard.platform.registry.former import FormerVersions
from flowyard.platform.registry.history import CALLER, Change, change, now
from flowyard.platform.registry.layout import WORKFLOW_FILES, WorkflowPlace, find_workflow, locate_model_dir
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.requirements import Requirements
from flowyard.platform.registry.rollback import choose
from flowyard.platform.registry.sources import Source, Sources
from flowyard.platform.registry.startup import spec_at_start, with_defaults
from flowyard.platform.registry.store import RegistryStore, StateDirLock
from flowyard.platform.registry.templates import Templates
from flowyard.platform.registry.traffic import DEFAULT, NO_TRAFFIC, Traffic, shown_weights
from flowyard.platform.settings import Settings
from flowyard.platform.state_dir import let_through
from flowyard.platform.telemetry.measures import RegistrationMeasures
from flowyard.platform.torchserve_config import model_defaults
from flowyard.platform.workers.room import MIB
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import (
    ConflictError,
    FlowyardError,
    InvalidModelError,
    InvalidRequestError,
    InvalidWorkflowError,
    Problem,
    ShutDownError,
    StorageError,
    UnavailableError,
    UserError,
    storage_error,
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
        replace: Whether it takes the place of what has its name and version, which answers until this one is up.
        infer_name: Whether a model that neither the caller nor its archive names is called after the URL; else it is refused.
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
    replace: bool = False
    infer_name: bool = True


class Registry:
    """All that is registered, on disk and running."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.endpoints = Endpoints()
        self.registrations = RegistrationMeasures()
        state_dir = Path(settings.state_dir).resolve()
        self._lock = StateDirLock(state_dir)
        self._archives = ArchiveStore(state_dir / "archives")
        self._store = RegistryStore(state_dir / "registry.sqlite", settings.history_size)
        self._former = FormerVersions(settings.rollback_versions, settings.rollback_keep_s)
        self._sources = Sources(settings, self._archives)
        self._available = discover()
        self._planner = Planner(settings, self._available)
        self._requirements = Requirements(settings, state_dir / "requirements", self._planner.confinement)
        account = self._planner.confinement.account
        if account is not None:
            let_through((state_dir, *self._archives.folders), account.gid)
        self.templates = Templates(Path(settings.workflow_templates) if settings.workflow_templates else None)
        self._model_defaults = model_defaults(settings.models)
        self._registering = 0
        self._busy: Counter[Entry] = Counter()
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
        if not self.settings.restore:
            await self._forget_all()
        self._former.restore(await self._store.all_former())
        await self._forget_former()
        entries = [Entry(record) for record in await self._store.all()]
        for entry in entries:
            self.endpoints.add(entry)
        for name, traffic in (await self._store.all_traffic()).items():
            self.endpoints.restore_traffic(name, traffic)
        restoring = asyncio.ensure_future(self._restore_all(entries))
        if wait:
            await restoring
        else:
            self._restoring = restoring
        # An archive that nothing refers to is left of a registration that a crash has cut short.
        await self._collect()

    async def _forget_all(self) -> None:
        """Takes everything out of the record, as if it had been unregistered."""
        versions: dict[str, list[str]] = {}
        for record in await self._store.all():
            versions.setdefault(record.name, []).append(record.version)
        for name, registered in versions.items():
            await self._store.delete(name, registered, NO_TRAFFIC, change("unregister", name))

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
            name=name, version=item.version or "", kind="model", url=item.url, digest="", spec=ModelSpec(), created=now()
        )
        entry = Entry(record, at_startup=True)
        try:
            self.endpoints.add(entry)
        except ConflictError:
            return None
        return entry

    async def _load(self, item: LoadItem, announced: Entry | None = None) -> None:
        spec = spec_at_start(item, self.settings, len(self.gpus))
        request = Request(url=item.url, name=item.name or "", version=item.version or "", spec=spec, operator=True)
        async with self._stored(request, announced) as (asked, stored):
            source, plan, kind = self._compile_at_start(asked, stored)
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

    def _compile_at_start(self, request: Request, stored: StoredArchive) -> tuple[Request, Plan, str]:
        """What is in an archive that the operator has loaded, served as the setting `models` has it."""
        plan, kind = self._compile(request, stored)
        said = self._model_defaults.get(_identity(request, plan))
        if said is None:
            return request, plan, kind
        request = msgspec.structs.replace(request, spec=with_defaults(request.spec, said))
        return request, *self._compile(request, stored)

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
        log.info("replacing what was registered by what the operator says", name=name, version=version or None, url=source.url)
        await self._register(msgspec.structs.replace(source, replace=True), stored, plan, kind)

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
        except OSError as error:
            self.registrations.refused += 1
            raise storage_error(error) or error from error
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
                self._check_free(request)
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
            await self._collect()

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
        if not request.infer_name:
            raise InvalidModelError("Model name is not defined.")
        if request.upload is None:
            return infer_model_name(request.url)
        if not request.filename:
            raise InvalidRequestError("Parameter model_name is required: the upload has no file name to take it from.")
        return infer_model_name(request.filename)

    async def _register(self, request: Request, stored: StoredArchive, plan: Plan, kind: str) -> Entry:
        name, version = _identity(request, plan)
        self._check_parts(plan, stored.folder)
        entry = Entry(_record(request, name, version, kind, stored.digest), at_startup=request.operator)
        before = self.endpoints.get(name, version) if request.replace else None
        if before is not None:
            return await self._replace(before, entry, plan, stored, change("replace", name, version, url=request.url))
        failed = self.endpoints.add(entry)
        if not request.wait:
            await self._record_first(entry)
            self._schedule(self._deploy_later(entry, plan, stored))
            return entry
        try:
            deployment = await self._bring_up(entry, plan, stored, _registered(entry.record))
        except BaseException:
            if self.endpoints.holds(entry):
                self.endpoints.remove(entry)
                if failed is not None:
                    await self._forget_failed(failed)
            raise
        self.endpoints.ready(entry, deployment)
        log.info("registered", name=name, version=version or None, kind=kind, url=request.url)
        return entry

    def _check_free(self, request: Request) -> None:
        if not (request.replace and self.endpoints.get(request.name, request.version)):
            self.endpoints.check_free(request.name, request.version)

    async def _forget_failed(self, failed: Entry) -> None:
        """Forgets an entry whose place was wanted; it stays where that cannot be recorded."""
        name, version = failed.record.name, failed.record.version
        try:
            await self._store.delete(name, [version], self.endpoints.traffic(name))
        except StorageError:
            self.endpoints.add(failed)
            raise

    async def _replace(self, before: Entry, entry: Entry, plan: Plan, stored: StoredArchive, made: Change) -> Entry:
        """Brings an entry up beside the one whose place it takes, lets it answer, then ends that one."""
        record = entry.record
        deployment = await self._deploy(entry, plan, stored)
        try:
            if not self.endpoints.holds(before):
                label = shown(record.name, record.version)
                raise ConflictError(f"{label} was unregistered or replaced while it was being replaced.")
            self.endpoints.swap(before, entry, deployment)
            try:
                await self._store.put(entry.record, change=made)
            except BaseException:
                self.endpoints.swap(entry, before, before.deployment)
                raise
        except BaseException:
            await deployment.close(0)
            raise
        log.info("replaced", name=record.name, version=record.version or None, url=record.url)
        await self._end([before], self.settings.drain_timeout_s)
        return entry

    async def _bring_up(self, entry: Entry, plan: Plan, stored: StoredArchive, made: Change) -> Deployment:
        """Starts what an entry is, and records it, unless it is unregistered meanwhile."""
        deployment = await self._deploy(entry, plan, stored)
        try:
            self._check_held(entry)
            await self._store.put(entry.record, change=made)
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
            await self._store.put(entry.record, change=_registered(entry.record))
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
            # One that was unregistered meanwhile must not come back.
            self._check_held(entry)
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
        self._busy.update([entry])
        try:
            return await self._start(entry, plan, stored)
        finally:
            self._let_go([entry])

    async def _start(self, entry: Entry, plan: Plan, stored: StoredArchive) -> Deployment:
        started = time.monotonic()
        await self._fetch_parts(entry, plan, stored.folder)
        await self._unpack_parts(entry, plan, stored.folder)
        record = entry.record
        specs = self._planner.pool_specs(record.name, plan, stored.folder, record.spec, self._parts(record))
        specs = await self._requirements.satisfy(specs)
        deployment = Deployment(record.name, record.version, plan, specs, self.settings.reserved_memory_mb * MIB)
        entry.attempt = deployment
        deployment.restore(record.workers)
        begin_with_adapters(deployment, record, stored.folder)
        with self._requirements.hint(specs):
            await deployment.start()
        log.info("deployed", name=record.name, seconds=round(time.monotonic() - started, 3))
        return deployment

    async def _restore_all(self, entries: Sequence[Entry]) -> None:
        """Brings up what was recorded, some at a time: each has processes to start."""
        room = asyncio.Semaphore(self.settings.startup_parallelism)
        done = 0

        async def restore(entry: Entry) -> None:
            nonlocal done
            async with room:
                await self._restore(entry)
            done += 1
            record = entry.record
            log.info(
                "restored", name=record.name, version=record.version or None, status=entry.status, done=done, of=len(entries)
            )

        await asyncio.gather(*(restore(entry) for entry in entries))

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
        for entry, _ in running:
            self._check_held(entry)
        before = [(entry, deployment, entry.record.workers, deployment.numbers()) for entry, deployment in running]
        try:
            for entry, deployment in running:
                entry.record = msgspec.structs.replace(entry.record, workers=deployment.scale(scaling))
            await self._store.put(*(entry.record for entry, _ in running), change=_scaled(running, scaling))
        except BaseException:
            for entry, deployment, workers, numbers in before:
                deployment.restore(numbers)
                entry.record = msgspec.structs.replace(entry.record, workers=workers)
            raise
        if wait:
            await asyncio.gather(*(deployment.settled() for _, deployment in running))
        return sum(len(entry.record.workers) for entry, _ in running)

    # ---- adapters ----

    async def change_adapters(self, served: Served, work: Coroutine[Any, Any, str]) -> str:
        """Changes the adapters of a model. The change is recorded on disk when this returns.

        Args:
            served: The model.
            work: What is to be done with its adapters.

        Returns:
            What the handler says about it.

        Raises:
            FlowyardError: The change was refused; nothing has changed.
        """
        return await self._unbroken(self._change_adapters(served, work))

    async def _change_adapters(self, served: Served, work: Coroutine[Any, Any, str]) -> str:
        before = served.adapters.known()
        said = await work
        entry = served.entry
        recorded = entry.record.adapters
        entry.record = msgspec.structs.replace(entry.record, adapters=recorded | {served.key: tuple(served.adapters)})
        if self.endpoints.holds(entry):
            made = change("adapters", entry.record.name, entry.record.version, model=served.key)
            try:
                await self._store.put(entry.record, change=made)
            except BaseException:
                entry.record = msgspec.structs.replace(entry.record, adapters=recorded)
                served.adapters.restore(before)
                raise
        return said

    @property
    def gpus(self) -> list[Device]:
        """The GPUs of this machine."""
        return [device for device in self._available if device.type == "gpu"]

    def check_url(self, url: str) -> None:
        """Checks a caller's URL before anything of it is read.

        Raises:
            UserError: It is not well formed, not allowed, or a path where nothing is.
        """
        self._sources.check(url)

    def has_file(self, url: str) -> bool:
        """Whether a caller's path leads to something that callers may name."""
        return self._sources.has_file(url)

    def allows_url(self, url: str) -> bool:
        """Whether the settings allow a remote URL, as far as its text says."""
        return self._sources.allows(url)

    def device(self, name: str) -> Device:
        """A device by name.

        Raises:
            InvalidRequestError: No such name, or no such device here.
        """
        return parse_device(name, self._available)

    def from_url(self, url: str) -> list[Entry]:
        """Everything that was registered from a URL, in the order in which it was."""
        return sorted((entry for entry in self.endpoints if entry.record.url == url), key=lambda entry: entry.record.created)

    # ---- how requests are spread over versions ----

    async def set_weights(self, name: str, weights: Mapping[str, int]) -> None:
        """Sets the shares of the versions of a name, as `Endpoints.set_weights`; recorded on disk when this returns."""
        await self._change_traffic(
            change("weights", name, weights=shown_weights(weights)), functools.partial(self.endpoints.set_weights, name, weights)
        )

    async def set_default(self, name: str, version: str) -> None:
        """Chooses the version that answers, as `Endpoints.set_default`; recorded on disk when this returns."""
        await self._change_traffic(
            change("set-default", name, version), functools.partial(self.endpoints.set_default, name, version)
        )

    async def clear_default(self, name: str, version: str) -> None:
        """Takes that choice back, as `Endpoints.clear_default`; recorded on disk when this returns."""
        await self._change_traffic(
            change("clear-default", name, version), functools.partial(self.endpoints.clear_default, name, version)
        )

    async def set_shadow(self, name: str, version: str, *, on: bool) -> None:
        """Makes a version a shadow or an ordinary one, as `Endpoints.set_shadow`; recorded on disk when this returns."""
        await self._change_traffic(
            change("shadow", name, version, on=str(on).lower()),
            functools.partial(self.endpoints.set_shadow, name, version, on=on),
        )

    async def _change_traffic(self, made: Change, carry_out: Callable[[], None]) -> None:
        await self._unbroken(self._changed_traffic(made.name, carry_out, made))

    async def _changed_traffic(self, name: str, carry_out: Callable[[], None], made: Change | None) -> None:
        before = self.endpoints.traffic(name)
        carry_out()
        # Nothing may come between the change and its way to the store: the last one that is recorded must be the last one made.
        try:
            await self._store.put_traffic(name, self.endpoints.traffic(name), made)
        except BaseException:
            self.endpoints.restore_traffic(name, before)
            raise

    # ---- back to an earlier version ----

    async def rollback(self, name: str, version: str | None = None) -> Record:
        """Lets an earlier version answer, which is brought up again where it was unregistered or replaced; see `choose`.

        Args:
            name: The name.
            version: The version, `None` for the one before.

        Returns:
            What answers now; recorded on disk. Weights of the name are taken back.

        Raises:
            NotFoundError: There is nothing to go back to.
            ConflictError: The named version answers already.
            FlowyardError: It cannot be brought up; everything is as it was.
        """
        return await self._unbroken(self._rollback(name, version))

    async def _rollback(self, name: str, version: str | None) -> Record:
        registered = [entry.record for entry in self.endpoints if entry.record.name == name and entry.deployment is not None]
        former = [kept.record for kept in self._former.of(name)]
        choice = choose(name, registered, self.endpoints.traffic(name), former, version)
        made = change("rollback", name, choice.record.version, digest=choice.record.digest)
        if choice.former:
            await self._take_up(choice.record, made)
        # Nothing that was said may keep requests from it, and it is the default only where there are others.
        exact = choice.record.version
        shadows = tuple(shadow for shadow in self.endpoints.traffic(name).shadows if shadow != exact)
        alone = len(self.endpoints.versions(name)) == 1
        traffic = Traffic(default=None if alone else exact, shadows=shadows)
        await self._changed_traffic(
            name,
            functools.partial(self.endpoints.restore_traffic, name, traffic),
            None if choice.former else made,
        )
        log.info("rolled back", name=name, version=exact or None)
        return choice.record

    async def _take_up(self, record: Record, made: Change) -> None:
        """Registers anew what has ended, in the place of what has its version now."""
        async with self._registration():
            stored = self._archives.open(record.digest)
            plan, _ = self._compile(_request(record), stored)
            entry = Entry(record)
            before = self.endpoints.get(record.name, record.version)
            if before is not None:
                await self._replace(before, entry, plan, stored, made)
                return
            self.endpoints.add(entry, again=True)
            try:
                deployment = await self._bring_up(entry, plan, stored, made)
            except BaseException:
                self.endpoints.remove(entry)
                raise
            self.endpoints.ready(entry, deployment)

    # ---- history and state ----

    async def history(self, *, name: str | None, before: int, limit: int) -> list[tuple[int, Change]]:
        """Changes with their numbers, the last first, as `RegistryStore.history`."""
        return await self._store.history(name=name, before=before, limit=limit)

    # ---- removal ----

    async def unregister(self, name: str, version: str | None = None, *, drain_s: float | None = None) -> None:
        """Removes one version of a name, or all. It is gone from the record, and its workers have ended, when this returns.

        Args:
            name: The name.
            version: The version, `None` for all.
            drain_s: How long running requests get to finish, `None` for what the settings say.

        Raises:
            NotFoundError: There is no such name or version.
        """
        await self._unregister(self.endpoints.versions(name, version), drain_s)

    async def unregister_entry(self, entry: Entry) -> None:
        """Removes one entry, as `unregister`; does nothing when it is not there any more."""
        if self.endpoints.holds(entry):
            await self._unregister([entry])

    async def _unregister(self, entries: list[Entry], drain_s: float | None = None) -> None:
        # At once: nobody else may find them and change them while their removal is under way.
        before = self.endpoints.taken_out(entries)
        # Until that is recorded a crash brings them back, and they need their archives.
        self._busy.update(entries)
        self._cut_short([task for task, fetched_for in self._fetches.items() if fetched_for in entries])
        await self._unbroken(self._remove(before, self.settings.drain_timeout_s if drain_s is None else drain_s))

    async def _remove(self, before: Before, drain_s: float) -> None:
        """Forgets the entries of one name, which answer no new requests any more, and ends what runs."""
        name, entries = before.name, list(before.entries)
        versions = [entry.record.version for entry in entries]
        made = change("unregister", name, ",".join(version or DEFAULT for version in versions) if any(versions) else "")
        try:
            await self._store.delete(name, versions, self.endpoints.traffic(name), made)
        except BaseException:
            self.endpoints.put_back(before)
            raise
        finally:
            self._let_go(entries)
        await self._end(entries, drain_s)
        for entry in entries:
            log.info("unregistered", name=name, version=entry.record.version or None)

    async def _end(self, entries: list[Entry], drain_s: float) -> None:
        """Ends what ran, and remembers it for a rollback; until then its archives stay."""
        running = [(entry, entry.deployment) for entry in entries if entry.deployment is not None]
        self._busy.update(entries)
        try:
            await self._remember([entry.record for entry, _ in running])
            await asyncio.gather(*(deployment.close(drain_s) for _, deployment in running))
        finally:
            self._let_go(entries)
            await self._collect()

    def _let_go(self, entries: Iterable[Entry]) -> None:
        """Their archives are no longer in use by what has put them among the busy ones."""
        self._busy.subtract(entries)
        self._busy = +self._busy

    async def _remember(self, records: list[Record]) -> None:
        """A disk that is full is no reason to keep what was unregistered: then there is no rollback to it."""
        if not records:
            return
        try:
            await self._store.keep_former(records, time.time())
            self._former.restore(await self._store.all_former())
            await self._forget_former()
        except StorageError as error:
            log.warning("not kept for a rollback", reason=str(error))

    async def _forget_former(self) -> None:
        over = self._former.over(time.time())
        if over:
            await self._store.drop_former(over)

    async def _collect(self) -> None:
        """Removes the archives that nothing refers to, unless something is being registered just now."""
        if self._registering:
            return
        entries = [*self.endpoints, *self._busy]
        registered = [digest for entry in entries for digest in entry.record.digests]
        needed = [*registered, *self._former.digests()]
        self._requirements.remove_unused(needed)
        unused = self._archives.put_unused_aside(needed)
        if unused:
            await asyncio.to_thread(self._archives.discard, unused)

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


def _registered(record: Record) -> Change:
    return change("register", record.name, record.version, url=record.url, digest=record.digest)


def _scaled(running: list[tuple[Entry, Deployment]], scaling: Scaling) -> Change:
    (first, _), *others = running
    numbers = {
        "min_worker": scaling.min_worker,
        "max_worker": scaling.max_worker,
        "device": scaling.device,
        "model": scaling.model,
    }
    said = {key: str(value) for key, value in numbers.items() if value is not None}
    return change("scale", first.record.name, "" if others else first.record.version, **said)


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
        created=now(),
        sha256=request.sha256,
        who=CALLER.get(),
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
