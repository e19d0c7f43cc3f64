"""Takes models and workflows out: out of what answers, then out of the record, then their workers end."""

from __future__ import annotations

import asyncio

import structlog

from flowyard.platform.registry.endpoints import Before, Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import change
from flowyard.platform.registry.retention import Retention
from flowyard.platform.registry.store import RegistryStore
from flowyard.platform.registry.tasks import Tasks
from flowyard.platform.registry.traffic import DEFAULT
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import DeadlineError

log = structlog.stdlib.get_logger(__name__)


class Removal:
    """Unregisters.

    Args:
        settings: How long running requests get to finish.
        endpoints: What is registered.
        store: The record.
        retention: What becomes of the archives.
        tasks: What may be under way.
    """

    def __init__(
        self, settings: Settings, endpoints: Endpoints, store: RegistryStore, retention: Retention, tasks: Tasks
    ) -> None:
        self._drain_s = settings.drain_timeout_s
        self._endpoints = endpoints
        self._store = store
        self._retention = retention
        self._tasks = tasks

    async def unregister(self, entries: list[Entry], drain_s: float | None = None, *, keep_busy: bool = False) -> None:
        """Removes entries of one name. They are gone from the record, and their workers have ended, when this returns.

        Args:
            entries: At least one.
            drain_s: How long running requests get to finish, `None` for what the settings say.
            keep_busy: Whether entries stay whose requests have not finished by then; else these are ended.

        Raises:
            DeadlineError: They stay.
        """
        # At once: nobody else may find them and change them while their removal is under way.
        before = self._endpoints.taken_out(entries)
        # Until that is recorded a crash brings them back, and they need their archives.
        self._retention.hold(entries)
        self._tasks.stop_fetching_for(entries)
        await self._tasks.unbroken(self._remove(before, self._drain_s if drain_s is None else drain_s, keep_busy=keep_busy))

    async def _remove(self, before: Before, drain_s: float, *, keep_busy: bool) -> None:
        """Forgets the entries of one name, which answer no new requests any more, and ends what runs."""
        name, entries = before.name, list(before.entries)
        versions = [entry.record.version for entry in entries]
        made = change("unregister", name, ",".join(version or DEFAULT for version in versions) if any(versions) else "")
        try:
            with self._endpoints.places_kept(before):
                if keep_busy and not await _are_quiet(entries, drain_s):
                    raise DeadlineError(f"{name} still answers requests after {drain_s:g} s, and stays")
                await self._store.delete(name, versions, self._endpoints.traffic(name), made)
        except BaseException:
            self._endpoints.put_back(before)
            raise
        finally:
            self._retention.let_go(entries)
        await self.end(entries, drain_s)
        for entry in entries:
            log.info("unregistered", name=name, version=entry.record.version or None)

    async def end(self, entries: list[Entry], drain_s: float | None = None) -> None:
        """Ends what ran, and remembers it for a rollback; until then its archives stay.

        Args:
            entries: What is in no record any more.
            drain_s: How long running requests get to finish, `None` for what the settings say.
        """
        left_s = self._drain_s if drain_s is None else drain_s
        running = [(entry, entry.deployment) for entry in entries if entry.deployment is not None]
        try:
            with self._retention.held(entries):
                await self._retention.remember([entry.record for entry, _ in running])
                await asyncio.gather(*(deployment.close(left_s) for _, deployment in running))
        finally:
            await self._retention.collect()


async def _are_quiet(entries: list[Entry], limit_s: float) -> bool:
    """Whether what entries have been asked is answered within a time. With none at all only what has no workers is quiet."""
    running = [entry.deployment for entry in entries if entry.deployment is not None]
    if limit_s <= 0:
        return not any(pool.workers() for deployment in running for pool in deployment.pools.values())
    try:
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*(deployment.quiet() for deployment in running))
    except TimeoutError:
        return False
    return True
