"""Registers models and workflows.

The order of a registration is what keeps the promises: the archive is stored, the workflow checked, the name taken, the workers
started, the record committed, the endpoint opened, and only then is the caller told. What fails on the way undoes what came
before it.
"""

from __future__ import annotations

import structlog

from flowyard.platform.archives.remote import is_remote
from flowyard.platform.archives.store import StoredArchive
from flowyard.platform.registry.admission import Admission
from flowyard.platform.registry.compiling import Compiler
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import change, registered
from flowyard.platform.registry.request import Request, identity, record_of
from flowyard.platform.registry.sources import Sources
from flowyard.platform.registry.staging import Staging
from flowyard.platform.registry.store import RegistryStore
from flowyard.platform.registry.unattended import Unattended
from flowyard.platform.telemetry.measures import RegistrationMeasures
from flowyard.schemas.errors import StorageError, storage_error
from flowyard.workflows.plan import Plan

log = structlog.stdlib.get_logger(__name__)


class Registration:
    """Registers what callers ask for.

    Args:
        endpoints: What is registered.
        store: The record.
        sources: Says whether a URL is allowed.
        staging: Puts archives into the store.
        compiler: Checks them.
        admission: Brings up what is waited for.
        unattended: Brings up what nobody waits for.

    Attributes:
        measures: How many were accepted and refused.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        store: RegistryStore,
        sources: Sources,
        staging: Staging,
        compiler: Compiler,
        admission: Admission,
        unattended: Unattended,
    ) -> None:
        self._endpoints = endpoints
        self._store = store
        self._sources = sources
        self._staging = staging
        self._compiler = compiler
        self._admission = admission
        self._unattended = unattended
        self.measures = RegistrationMeasures()

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
        try:
            entry = await self._register(request)
        except OSError as error:
            self.measures.refused += 1
            raise storage_error(error) or error from error
        except BaseException:
            self.measures.refused += 1
            raise
        self.measures.accepted += 1
        return entry

    async def _register(self, request: Request) -> Entry:
        if request.upload is None:
            self._sources.check(request.url, operator=request.operator)
            if is_remote(request.url) and not request.wait:
                return await self._unattended.acknowledge_unfetched(request)
            if is_remote(request.url) and request.name:
                self._check_free(request)
        async with self._staging.stored(request) as (source, stored):
            plan, kind = self._compiler.compile(source, stored)
            return await self.register_stored(source, stored, plan, kind)

    async def register_stored(self, request: Request, stored: StoredArchive, plan: Plan, kind: str) -> Entry:
        """Registers what is in the store, as `register`.

        Args:
            request: What was asked for.
            stored: Its archive.
            plan: What is in it.
            kind: Whether that is a workflow or a model.

        Returns:
            The entry.

        Raises:
            FlowyardError: It cannot be registered; nothing is left of the attempt.
        """
        name, version = identity(request, plan)
        self._staging.check_parts(plan, stored.folder)
        entry = Entry(record_of(request, name, version, kind, stored.digest), at_startup=request.operator)
        before = self._endpoints.get(name, version) if request.replace else None
        if before is not None:
            await self._admission.replace(before, entry, plan, stored, change("replace", name, version, url=request.url))
            return entry
        taken_from = self._endpoints.add(entry)
        if not request.wait:
            await self._unattended.acknowledge(entry, plan, stored)
            return entry
        try:
            deployment = await self._admission.bring_up(entry, plan, stored, registered(entry.record))
        except BaseException:
            if self._endpoints.holds(entry):
                self._endpoints.remove(entry)
                if taken_from is not None:
                    await self._forget(taken_from)
            raise
        self._endpoints.ready(entry, deployment)
        log.info("registered", name=name, version=version or None, kind=kind, url=request.url)
        return entry

    def _check_free(self, request: Request) -> None:
        if not (request.replace and self._endpoints.get(request.name, request.version)):
            self._endpoints.check_free(request.name, request.version)

    async def _forget(self, failed: Entry) -> None:
        """Forgets an entry whose place was wanted; it stays where that cannot be recorded."""
        name, version = failed.record.name, failed.record.version
        try:
            await self._store.delete(name, [version], self._endpoints.traffic(name))
        except StorageError:
            self._endpoints.add(failed)
            raise
