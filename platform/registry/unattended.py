"""Registrations that nobody waits for: recorded and acknowledged first, then fetched and brought up."""

from __future__ import annotations

import msgspec
import structlog

from flowyard.platform.archives.names import check_name, check_version, infer_model_name
from flowyard.platform.archives.store import StoredArchive
from flowyard.platform.registry.compiling import Compiler
from flowyard.platform.registry.deploying import Deployer
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import registered
from flowyard.platform.registry.request import Request, kind_of, record_of, request_of
from flowyard.platform.registry.staging import Staging
from flowyard.platform.registry.store import RegistryStore
from flowyard.platform.registry.tasks import Tasks
from flowyard.schemas.errors import FlowyardError
from flowyard.workflows.plan import Plan

log = structlog.stdlib.get_logger(__name__)


class Unattended:
    """Registers while requests are answered. What fails stays, as `FAILED`, with its reason.

    Args:
        endpoints: What is registered.
        store: The record.
        staging: Fetches.
        compiler: Checks what was fetched.
        deployer: Starts the workers.
        tasks: Where it is under way.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        store: RegistryStore,
        staging: Staging,
        compiler: Compiler,
        deployer: Deployer,
        tasks: Tasks,
    ) -> None:
        self._endpoints = endpoints
        self._store = store
        self._staging = staging
        self._compiler = compiler
        self._deployer = deployer
        self._tasks = tasks

    async def acknowledge_unfetched(self, request: Request) -> Entry:
        """Records a registration before anything has been fetched; the name is the caller's or the URL's (DJL §1.3).

        Args:
            request: What is to be registered.

        Returns:
            The entry, recorded on disk, `PENDING`.

        Raises:
            FlowyardError: The name is none or taken, or the record cannot be written; nothing is left of it.
        """
        name = check_name(request.name or infer_model_name(request.url))
        version = check_version(request.version) if request.version else ""
        entry = Entry(record_of(request, name, version, request.kind, ""))
        self._endpoints.add(entry)
        await self._record(entry)
        self.fetch(entry)
        return entry

    async def acknowledge(self, entry: Entry, plan: Plan, stored: StoredArchive) -> None:
        """Records a registration before its workers are started.

        Args:
            entry: The entry, which has its name already.
            plan: What is to run.
            stored: Its archive.

        Raises:
            StorageError: The record cannot be written; nothing is left of it.
        """
        await self._record(entry)
        self._tasks.schedule(self.bring_up(entry, plan, stored))

    def fetch(self, entry: Entry) -> None:
        """Begins to fetch, and then to bring up, what has been acknowledged already."""
        entry.fetched(0, None)
        self._tasks.schedule(self._fetch_and_bring_up(entry))

    async def bring_up(self, entry: Entry, plan: Plan, stored: StoredArchive) -> None:
        """Brings up what has been acknowledged already.

        Args:
            entry: The entry.
            plan: What is to run.
            stored: Its archive.
        """
        parts = entry.record.parts
        try:
            deployment = await self._deployer.deploy(entry, plan, stored)
            if entry.record.parts != parts and self._endpoints.holds(entry):
                await self._store.put(entry.record)
        except (FlowyardError, OSError) as error:
            failed(entry, error)
            return
        if self._endpoints.holds(entry):
            self._endpoints.ready(entry, deployment)
        else:
            await deployment.close(0)

    async def _record(self, entry: Entry) -> None:
        try:
            await self._store.put(entry.record, change=registered(entry.record))
        except BaseException:
            self._endpoints.remove(entry)
            raise

    async def _fetch_and_bring_up(self, entry: Entry) -> None:
        try:
            plan, stored = await self._fetch(entry)
        except (FlowyardError, OSError) as error:
            failed(entry, error)
        except Exception:
            entry.failed("internal error; the log has the details")
            raise
        else:
            await self.bring_up(entry, plan, stored)

    async def _fetch(self, entry: Entry) -> tuple[Plan, StoredArchive]:
        request = request_of(entry.record)
        async with self._staging.stored(request, entry) as (_, stored):
            plan, kind = self._compiler.compile(request, stored)
            self._staging.check_parts(plan, stored.folder)
            entry.record = msgspec.structs.replace(entry.record, digest=stored.digest, kind=kind_of(kind))
            # One that was unregistered meanwhile must not come back.
            self._endpoints.check_held(entry)
            await self._store.put(entry.record)
        return plan, stored


def failed(entry: Entry, error: Exception) -> None:
    """Marks an entry as one that could not be brought up, and says so in the log."""
    entry.failed(str(error))
    log.error("could not bring up", name=entry.record.name, version=entry.record.version or None, reason=str(error))
