"""Lets an entry in: its workers are started, then it is recorded, then it answers. What fails undoes what came before it."""

from __future__ import annotations

import structlog

from flowyard.platform.archives.store import StoredArchive
from flowyard.platform.registry.deploying import Deployer
from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry, shown
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.removal import Removal
from flowyard.platform.registry.store import RegistryStore
from flowyard.schemas.errors import ConflictError
from flowyard.workflows.plan import Plan

log = structlog.stdlib.get_logger(__name__)


class Admission:
    """Brings entries up and records them.

    Args:
        endpoints: What is registered.
        store: The record.
        deployer: Starts the workers.
        removal: Ends what is replaced.
    """

    def __init__(self, endpoints: Endpoints, store: RegistryStore, deployer: Deployer, removal: Removal) -> None:
        self._endpoints = endpoints
        self._store = store
        self._deployer = deployer
        self._removal = removal

    async def bring_up(self, entry: Entry, plan: Plan, stored: StoredArchive, made: Change) -> Deployment:
        """Starts what an entry is, and records it, unless it is unregistered meanwhile.

        Args:
            entry: The entry, which has its name already.
            plan: What is to run.
            stored: Its archive.
            made: What goes into the history.

        Returns:
            What runs.

        Raises:
            FlowyardError: It cannot be started or recorded, or was unregistered; nothing of it runs.
        """
        deployment = await self._deployer.deploy(entry, plan, stored)
        try:
            self._endpoints.check_held(entry)
            await self._store.put(entry.record, change=made)
            self._endpoints.check_held(entry)
        except BaseException:
            await deployment.close(0)
            raise
        return deployment

    async def replace(self, before: Entry, entry: Entry, plan: Plan, stored: StoredArchive, made: Change) -> None:
        """Brings an entry up beside the one whose place it takes, lets it answer, then ends that one.

        Args:
            before: The one that goes.
            entry: The one that comes, of the same name and version.
            plan: What is to run.
            stored: Its archive.
            made: What goes into the history.

        Raises:
            FlowyardError: It cannot be started or recorded, or the other was unregistered; everything is as it was.
        """
        record = entry.record
        deployment = await self._deployer.deploy(entry, plan, stored)
        try:
            if not self._endpoints.holds(before):
                label = shown(record.name, record.version)
                raise ConflictError(f"{label} was unregistered or replaced while it was being replaced.")
            self._endpoints.swap(before, entry, deployment)
            try:
                await self._store.put(entry.record, change=made)
            except BaseException:
                self._endpoints.swap(entry, before, before.deployment)
                raise
        except BaseException:
            await deployment.close(0)
            raise
        log.info("replaced", name=record.name, version=record.version or None, url=record.url)
        await self._removal.end([before])
