"""From a plan and its archive to workers that run."""

from __future__ import annotations

import asyncio
import functools
import time

import structlog

from flowyard.platform.archives.store import StoredArchive
from flowyard.platform.held import Held
from flowyard.platform.registry.adapters import begin as begin_with_adapters
from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.planner import Planner
from flowyard.platform.registry.requirements import Requirements
from flowyard.platform.registry.retention import Retention
from flowyard.platform.registry.staging import Staging
from flowyard.platform.registry.workplaces import Workplaces
from flowyard.platform.settings import Settings
from flowyard.platform.workers.room import MIB
from flowyard.platform.workers.watchers import Watchers
from flowyard.workflows.plan import Plan

log = structlog.stdlib.get_logger(__name__)


class Deployer:
    """Starts what entries are.

    Args:
        settings: How much memory is left to others.
        planner: Says which workers a plan needs.
        staging: Gets the models that are not in the archive.
        requirements: Installs what archives ask for.
        retention: Keeps the archives meanwhile.
        watchers: Are told what the workers do.
        workplaces: Where handlers work that may write.
        held: Counts what their requests hold.
    """

    def __init__(
        self,
        settings: Settings,
        planner: Planner,
        staging: Staging,
        requirements: Requirements,
        retention: Retention,
        watchers: Watchers,
        workplaces: Workplaces,
        held: Held,
    ) -> None:
        self._reserved_bytes = settings.reserved_memory_mb * MIB
        self._planner = planner
        self._staging = staging
        self._requirements = requirements
        self._retention = retention
        self._watchers = watchers
        self._workplaces = workplaces
        self._held = held

    async def deploy(self, entry: Entry, plan: Plan, stored: StoredArchive) -> Deployment:
        """Starts an entry. Its record keeps what was put into the store for it.

        Args:
            entry: The entry, whether it is registered or not.
            plan: What is to run.
            stored: Its archive.

        Returns:
            What runs.

        Raises:
            FlowyardError: It cannot be started; nothing of it runs.
        """
        with self._retention.held([entry]):
            return await self._start(entry, plan, stored)

    async def _start(self, entry: Entry, plan: Plan, stored: StoredArchive) -> Deployment:
        started = time.monotonic()
        await self._staging.add_parts(entry, plan, stored.folder)
        record = entry.record
        specs = self._planner.pool_specs(record.name, plan, stored.folder, record.spec, self._staging.parts(record))
        specs = await self._requirements.satisfy(specs)
        specs = await asyncio.to_thread(self._workplaces.give, specs)
        deployment = Deployment(record.name, record.version, plan, specs, self._reserved_bytes, self._watchers, self._held)
        deployment.on_closed = functools.partial(self._workplaces.take_back, specs.values())
        entry.attempt = deployment
        try:
            deployment.restore(record.workers)
            begin_with_adapters(deployment, record, stored.folder)
            with self._requirements.hint(specs):
                await deployment.start()
        except BaseException:
            deployment.on_closed()
            raise
        log.info("deployed", name=record.name, seconds=round(time.monotonic() - started, 3))
        return deployment
