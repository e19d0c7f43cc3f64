"""Which archives stay in the store: of what is registered, of what is under way, and of what a rollback could take up again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

import structlog

from flowyard.platform.archives.store import ArchiveStore
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.former import FormerVersions
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.requirements import Requirements
from flowyard.platform.registry.store import RegistryStore
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import StorageError

log = structlog.stdlib.get_logger(__name__)


class Retention:
    """Keeps archives as long as anything needs them, and removes them then.

    Args:
        settings: How many ended registrations are kept for a rollback, and how long.
        endpoints: What is registered.
        store: Where ended registrations are recorded.
        archives: The archives.
        requirements: Packages that were installed for archives.
    """

    def __init__(
        self,
        settings: Settings,
        endpoints: Endpoints,
        store: RegistryStore,
        archives: ArchiveStore,
        requirements: Requirements,
    ) -> None:
        self._endpoints = endpoints
        self._store = store
        self._archives = archives
        self._requirements = requirements
        self._former = FormerVersions(settings.rollback_versions, settings.rollback_keep_s)
        self._adding = 0
        self._busy: Counter[Entry] = Counter()

    @contextlib.asynccontextmanager
    async def adding(self) -> AsyncIterator[None]:
        """Keeps archives from being collected between being stored and being referred to."""
        self._adding += 1
        try:
            yield
        finally:
            self._adding -= 1
            await self.collect()

    def hold(self, entries: Iterable[Entry]) -> None:
        """Keeps the archives of entries until as many calls of `let_go`, whether they are registered or not."""
        self._busy.update(entries)

    def let_go(self, entries: Iterable[Entry]) -> None:
        """Their archives are no longer in use by what has called `hold`."""
        self._busy.subtract(entries)
        self._busy = +self._busy

    @contextlib.contextmanager
    def held(self, entries: Sequence[Entry]) -> Iterator[None]:
        """Keeps the archives of entries for a while."""
        self.hold(entries)
        try:
            yield
        finally:
            self.let_go(entries)

    async def load_former(self) -> None:
        """Takes over what is recorded of ended registrations, less what has become too old."""
        self._former.restore(await self._store.all_former())
        over = self._former.over(time.time())
        if over:
            await self._store.drop_former(over)

    def former(self, name: str) -> list[Record]:
        """The ended registrations of a name that can be taken up again."""
        return [kept.record for kept in self._former.of(name)]

    async def remember(self, records: list[Record]) -> None:
        """Keeps registrations that end for a rollback.

        A disk that is full is no reason to keep what was unregistered: then there is no rollback to it.
        """
        if not records:
            return
        try:
            await self._store.keep_former(records, time.time())
            await self.load_former()
        except StorageError as error:
            log.warning("not kept for a rollback", reason=str(error))

    async def collect(self) -> None:
        """Removes the archives that nothing refers to, unless something is being added just now, or it is not known what does."""
        if self._adding or self._store.has_lost:
            return
        entries = [*self._endpoints, *self._busy]
        registered = [digest for entry in entries for digest in entry.record.digests]
        needed = [*registered, *self._former.digests()]
        self._requirements.remove_unused(needed)
        unused = self._archives.put_unused_aside(needed)
        if unused:
            await asyncio.to_thread(self._archives.discard, unused)
