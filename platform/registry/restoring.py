"""Brings back at the start what is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from flowyard.platform.registry.compiling import Compiler
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import change
from flowyard.platform.registry.places import outside_urls
from flowyard.platform.registry.request import request_of
from flowyard.platform.registry.retention import Retention
from flowyard.platform.registry.staging import Staging
from flowyard.platform.registry.store import RegistryStore
from flowyard.platform.registry.tasks import Tasks
from flowyard.platform.registry.traffic import NO_TRAFFIC
from flowyard.platform.registry.unattended import Unattended, failed
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import FlowyardError

log = structlog.stdlib.get_logger(__name__)


class Restoration:
    """Brings back what an earlier life of the server has recorded, in parallel. One that fails stays, as `FAILED`.

    Args:
        settings: Whether it is brought back, and how much at the same time.
        endpoints: Where it goes.
        store: The record, opened already.
        staging: The archives.
        compiler: Reads them.
        unattended: Brings up what is acknowledged.
        retention: Removes the archives that are left over.
        tasks: Where it is under way.
    """

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        store: RegistryStore,
        staging: Staging,
        compiler: Compiler,
        unattended: Unattended,
        retention: Retention,
        tasks: Tasks,
    ) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._store = store
        self._staging = staging
        self._compiler = compiler
        self._unattended = unattended
        self._retention = retention
        self._tasks = tasks
        self._under_way: asyncio.Task[None] | None = None

    async def restore(self, *, wait: bool) -> None:
        """Brings everything back.

        Args:
            wait: Whether to wait until all of it is up.
        """
        if not self._settings.restore:
            await self._forget_all()
        await self._retention.load_former()
        entries = [Entry(record) for record in await self._store.all()]
        for entry in entries:
            self._endpoints.add(entry)
        for name, traffic in (await self._store.all_traffic()).items():
            self._endpoints.restore_traffic(name, traffic)
        self._under_way = self._tasks.start(self._restore_all(entries))
        if wait:
            await self._under_way
        # An archive that nothing refers to is left of a registration that a crash has cut short.
        await self._retention.collect()

    async def finished(self) -> None:
        """Waits until all of it is up."""
        if self._under_way is not None:
            await self._under_way

    async def _forget_all(self) -> None:
        """Takes everything out of the record, as if it had been unregistered."""
        versions: dict[str, list[str]] = {}
        for record in await self._store.all():
            versions.setdefault(record.name, []).append(record.version)
        for name, registered in versions.items():
            await self._store.delete(name, registered, NO_TRAFFIC, change("unregister", name))

    async def _restore_all(self, entries: Sequence[Entry]) -> None:
        """Brings up what was recorded, some at a time: each has processes to start."""
        room = asyncio.Semaphore(self._settings.startup_parallelism)
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
            self._unattended.fetch(entry)
            return
        try:
            stored = self._staging.open(record.digest)
            plan, _ = self._compiler.compile(request_of(record), stored, is_new=False)
        except (FlowyardError, OSError) as error:
            failed(entry, error)
            return
        if record.parts.keys() >= outside_urls(plan, stored.folder).keys():
            await self._unattended.bring_up(entry, plan, stored)
        else:
            self._tasks.schedule(self._unattended.bring_up(entry, plan, stored))
