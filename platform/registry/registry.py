"""Registers, brings back and unregisters models and workflows.

The order of a registration is what keeps the promises: the archive is stored, the workflow checked, the name taken, the workers
started, the record committed, the endpoint opened, and only then is the caller told. What fails on the way undoes what came
before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from flowyard.platform.archives.locate import Roots, resolve_url
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.names import LoadItem, check_name, check_version, infer_model_name
from flowyard.platform.archives.store import ArchiveStore, StoredArchive
from flowyard.platform.archives.view import FolderView
from flowyard.platform.devices import discover, parse_device
from flowyard.platform.registry.deployment import Deployment, Planner, Scaling, registered_pool
from flowyard.platform.registry.endpoints import Endpoints, Entry
from flowyard.platform.registry.layout import WORKFLOW_FILES, workflow_file
from flowyard.platform.registry.store import Record, RegistryStore, StateDirLock
from flowyard.platform.settings import Settings
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import (
    ConflictError,
    FlowyardError,
    InvalidRequestError,
    InvalidWorkflowError,
    NotReadyError,
    Problem,
    UserError,
)
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.check import compile_workflow
from flowyard.workflows.plan import Plan, Registered, single_model_plan

log = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")

UPLOAD = "upload:sha256:"


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
        wait: Whether to wait for the workers.
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


class Registry:
    """All that is registered, on disk and running."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.endpoints = Endpoints()
        state_dir = Path(settings.state_dir).resolve()
        self._lock = StateDirLock(state_dir)
        self._archives = ArchiveStore(state_dir / "archives")
        self._store = RegistryStore(state_dir / "registry.sqlite")
        self._roots = Roots.of(settings)
        self._available = discover()
        self._planner = Planner(settings, self._roots, self._available)
        self._limits = Limits.of(settings)
        self._registering = 0
        self._background: set[asyncio.Task[Any]] = set()
        self._scheduled: set[asyncio.Task[Any]] = set()
        self._restoring: asyncio.Future[Any] | None = None

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
        unfinished = {*self._scheduled, *([self._restoring] if self._restoring is not None else [])}
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        running = [entry.deployment for entry in self.endpoints if entry.deployment is not None]
        await asyncio.gather(*(deployment.close(drain_s) for deployment in running))
        if self._background:
            await asyncio.wait(self._background)
        await self._store.close()
        self._lock.release()

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
        async with self._registration():
            source, stored = await self._fetch(request)
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
        if self.endpoints.has(name, version):
            (entry,) = self.endpoints.versions(name, version or "default")
            is_same = entry.record.digest == stored.digest and entry.record.spec == source.spec
            if is_same and entry.deployment is not None:
                entry.at_startup = True
                return
            log.info("replacing what was registered by what --load says", name=name, version=version)
            await self.unregister(name, version or "default")
        await self._register(source, stored, plan, kind)

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

        Raises:
            FlowyardError: It cannot be registered; nothing is left of the attempt.
        """
        return await self._unbroken(self._register_request(request))

    async def _register_request(self, request: Request) -> Entry:
        async with self._registration():
            source, stored = await self._fetch(request)
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

    async def _fetch(self, request: Request) -> tuple[Request, StoredArchive]:
        """Puts the archive into the store; an upload gets its digest for a URL."""
        if request.upload is not None:
            filename = request.filename or "upload"
            stored = await asyncio.to_thread(self._archives.add_file, request.upload, filename, self._limits)
            return msgspec.structs.replace(request, url=UPLOAD + stored.digest), stored
        path = resolve_url(request.url, self._roots, request.operator)
        if path.is_dir():
            return request, await asyncio.to_thread(self._archives.add_directory, path, self._limits)
        # A workflow file names its models relative to itself: it is registered with the folder around it.
        if path.name in WORKFLOW_FILES:
            return request, await asyncio.to_thread(self._archives.add_directory, path.parent, self._limits)
        return request, await asyncio.to_thread(self._archives.add_file, path, path.name, self._limits)

    def _compile(self, request: Request, stored: StoredArchive) -> tuple[Plan, str]:
        """Checks and compiles what is in an archive: its workflow file, or else the one model it holds."""
        file = workflow_file(stored.folder)
        if file is not None:
            plan = compile_workflow(file.read_bytes(), file.name, FolderView(stored.folder))
            if plan.spelling == "torchserve":
                raise InvalidRequestError(f"{file.name}: a TorchServe workflow; this version cannot serve its handler file")
            return plan, "workflow"
        if request.kind == "workflow":
            wanted = ", ".join(WORKFLOW_FILES)
            raise InvalidRequestError(f"no workflow in {request.url}: none of {wanted} at its root; a model goes to POST /models")
        name = request.name or self._model_name(request)
        spec = msgspec.structs.replace(request.spec, url=stored.filename or ".")
        return single_model_plan(check_name(name), spec), "model"

    def _model_name(self, request: Request) -> str:
        if request.upload is None:
            return infer_model_name(request.url)
        if not request.filename:
            raise InvalidRequestError("Parameter model_name is required: the upload has no file name to take it from.")
        return infer_model_name(request.filename)

    async def _register(self, request: Request, stored: StoredArchive, plan: Plan, kind: str) -> Entry:
        name, version = _identity(request, plan)
        self._check_references(plan)
        record = Record(
            name=name,
            version=version,
            kind="workflow" if kind == "workflow" else "model",
            url=request.url,
            digest=stored.digest,
            spec=request.spec,
            created=_now(),
        )
        entry = Entry(record, at_startup=request.operator)
        failed_before = self.endpoints.remove_failed(name, version)
        self.endpoints.add(entry)
        if not request.wait:
            await self._record_first(entry)
            self._schedule(self._deploy_later(entry, plan, stored))
            return entry
        try:
            deployment = await self._deploy(record, plan, stored)
            try:
                await self._store.put(record)
            except BaseException:
                await deployment.close(0)
                raise
        except BaseException:
            self.endpoints.remove(entry)
            if failed_before:
                await self._store.delete(name, version)
            raise
        entry.ready(deployment)
        log.info("registered", name=name, version=version or None, kind=kind, url=request.url)
        return entry

    async def _record_first(self, entry: Entry) -> None:
        try:
            await self._store.put(entry.record)
        except BaseException:
            self.endpoints.remove(entry)
            raise

    async def _deploy_later(self, entry: Entry, plan: Plan, stored: StoredArchive) -> None:
        """Brings up what has been acknowledged already. One that fails stays, as `FAILED`."""
        record = entry.record
        try:
            deployment = await self._deploy(record, plan, stored)
        except (FlowyardError, OSError) as error:
            entry.failed(str(error))
            log.error("could not bring up", name=record.name, version=record.version or None, reason=str(error))
            return
        if self.endpoints.holds(entry):
            entry.ready(deployment)
        else:
            await deployment.close(0)

    def _check_references(self, plan: Plan) -> None:
        """What a workflow expects to find on the server must be there when it is registered."""
        problems = [problem for reference in plan.references if (problem := self._missing(plan, reference)) is not None]
        if plan.adapters:
            problems.append(Problem(message="`configs.adapters` is not supported by this version", file=plan.file))
        if problems:
            raise InvalidWorkflowError(tuple(problems))

    def _missing(self, plan: Plan, reference: Registered) -> Problem | None:
        name, _, version = reference.name.partition(":")
        try:
            if reference.kind == "model":
                registered_pool(self.endpoints.route, reference.name)
            else:
                self.endpoints.versions(name, version or None)
        except UserError as error:
            near = difflib.get_close_matches(name, self.endpoints.names(), n=1)
            fix = f'did you mean "{near[0]}"?' if near else f"register the {reference.kind} first"
            return Problem(
                message=error.message,
                file=plan.file,
                line=reference.line,
                column=reference.column,
                name=reference.name,
                fix=fix,
            )
        return None

    async def _deploy(self, record: Record, plan: Plan, stored: StoredArchive) -> Deployment:
        started = time.monotonic()
        specs = self._planner.pool_specs(record.name, plan, stored.folder, record.spec)
        deployment = Deployment(record.name, record.version, plan, specs)
        deployment.restore(record.workers)
        await deployment.start()
        log.info("deployed", name=record.name, seconds=round(time.monotonic() - started, 3))
        return deployment

    async def _restore(self, entry: Entry) -> None:
        record = entry.record
        try:
            stored = self._archives.open(record.digest)
            request = Request(url=record.url, name=record.name, version=record.version, spec=record.spec)
            plan, _ = self._compile(request, stored)
        except (FlowyardError, OSError) as error:
            entry.failed(str(error))
            log.error("could not bring back", name=record.name, version=record.version or None, reason=str(error))
            return
        await self._deploy_later(entry, plan, stored)

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
            NotReadyError: It does not run, or the new workers cannot be started.
            InvalidRequestError: The minimum would be over the maximum, or the device is not here.
        """
        entries = self.endpoints.versions(name, version)
        running = [(entry, entry.deployment) for entry in entries if entry.deployment is not None]
        if len(running) < len(entries):
            raise NotReadyError(f"Model or workflow is not ready: {name}")
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

    def device(self, name: str) -> Device:
        """A device by name.

        Raises:
            InvalidRequestError: No such name, or no such device here.
        """
        return parse_device(name, self._available)

    # ---- removal ----

    async def unregister(self, name: str, version: str | None = None) -> None:
        """Removes one version of a name, or all. It is gone from the record, and its workers have ended, when this returns.

        Raises:
            NotFoundError: There is no such name or version.
        """
        entries = self.endpoints.versions(name, version)
        for entry in entries:
            self.endpoints.remove(entry)
        await self._unbroken(self._remove(entries))

    async def _remove(self, entries: list[Entry]) -> None:
        for entry in entries:
            await self._store.delete(entry.record.name, entry.record.version)
        running = [entry.deployment for entry in entries if entry.deployment is not None]
        await asyncio.gather(*(deployment.close(self.settings.drain_timeout_s) for deployment in running))
        for entry in entries:
            log.info("unregistered", name=entry.record.name, version=entry.record.version or None)
        self._collect()

    def _collect(self) -> None:
        """Removes the archives that nothing refers to, unless something is being registered just now."""
        if not self._registering:
            self._archives.remove_unused([entry.record.digest for entry in self.endpoints])

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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _identity(request: Request, plan: Plan) -> tuple[str, str]:
    """Name and version to register under: what the caller says, else what the file says."""
    version = request.version or plan.version or ""
    return check_name(request.name or plan.name), check_version(version) if version else ""
