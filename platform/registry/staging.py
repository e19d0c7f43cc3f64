"""Archives on their way into the store: fetched or uploaded ones, and those that a workflow names."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from flowyard.platform.archives.fetch import SIGNED, Report
from flowyard.platform.archives.store import ArchiveStore, StoredArchive
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.places import Places, inside_urls, outside_urls
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.request import Request
from flowyard.platform.registry.retention import Retention
from flowyard.platform.registry.sources import Source, Sources
from flowyard.platform.registry.tasks import Tasks
from flowyard.schemas.errors import UserError
from flowyard.workflows.plan import Plan

UPLOAD = "upload:sha256:"


class Staging:
    """Puts archives into the store, where they stay at least until they are referred to.

    Args:
        archives: The store.
        sources: Where archives come from.
        retention: Which of them stay.
        tasks: What can be cut short.
    """

    def __init__(self, archives: ArchiveStore, sources: Sources, retention: Retention, tasks: Tasks) -> None:
        self._archives = archives
        self._sources = sources
        self._retention = retention
        self._tasks = tasks

    def temporary_file(self) -> AbstractContextManager[Path]:
        """Lends a file for an upload, on the file system of the archives."""
        return self._archives.temporary_file()

    def open(self, digest: str) -> StoredArchive:
        """What is in the store under a digest, as `ArchiveStore.open`."""
        return self._archives.open(digest)

    @contextlib.asynccontextmanager
    async def stored(self, request: Request, entry: Entry | None = None) -> AsyncIterator[tuple[Request, StoredArchive]]:
        """Puts the archive into the store, where it stays for the time of the context.

        Args:
            request: What is to be registered.
            entry: Is told the progress of a fetch.

        Yields:
            The request, an upload with its digest for a URL, and what is stored.

        Raises:
            FlowyardError: It is refused, cannot be fetched, or is broken.
        """
        report: Report = entry.fetched if entry is not None else _unseen
        async with contextlib.AsyncExitStack() as keeping:
            if request.upload is not None:
                await keeping.enter_async_context(self._retention.adding())
                stored = await self._sources.add(Source(request.upload, request.filename or "upload"), request.sha256)
                yield msgspec.structs.replace(request, url=UPLOAD + stored.digest), stored
                return
            signed = request.spec.options.get(SIGNED) == "true"
            with self._tasks.fetching(entry):
                async with self._sources.at_hand(request.url, report, operator=request.operator, signed=signed) as source:
                    await keeping.enter_async_context(self._retention.adding())
                    stored = await self._sources.add(source, request.sha256)
            yield request, stored

    # ---- models of a workflow that have a place of their own in the store ----

    def check_parts(self, plan: Plan, folder: Path) -> None:
        """Models outside of the archive follow the rule of every URL of a caller, whoever registers the workflow.

        Raises:
            UserError: One is refused, with the model's name.
        """
        for url, key in outside_urls(plan, folder).items():
            with _naming(key):
                self._sources.check(url)

    async def add_parts(self, entry: Entry, plan: Plan, folder: Path) -> None:
        """Puts the models of a workflow that are elsewhere, or archives in its archive, into the store; its record keeps them.

        Args:
            entry: The workflow.
            plan: What it is.
            folder: Where its file is.

        Raises:
            FlowyardError: One is refused, cannot be fetched, or is broken.
        """
        await self._fetch_parts(entry, plan, folder)
        await self._unpack_parts(entry, plan, folder)

    def parts(self, record: Record) -> dict[str, Path]:
        """Where these models are, by URL."""
        found = {url: self._archives.open(digest) for url, digest in record.parts.items()}
        return {url: stored.folder / stored.filename for url, stored in found.items()}

    async def _fetch_parts(self, entry: Entry, plan: Plan, folder: Path) -> None:
        for url, key in outside_urls(plan, folder).items():
            if url not in entry.record.parts:
                with _naming(key):
                    async with self.stored(Request(url=url), entry) as (_, part):
                        entry.keep_part(url, part.digest)

    async def _unpack_parts(self, entry: Entry, plan: Plan, folder: Path) -> None:
        """Unpacks models that are archives in the archive; DJL's workflows name such files (DJL §3.3)."""
        for url, key in inside_urls(plan, folder).items():
            with _naming(key):
                source = Source(Places(folder, {}).find(url), url)
                if url not in entry.record.parts and await self._sources.is_packed(source):
                    async with self._retention.adding():
                        entry.keep_part(url, (await self._sources.add(source)).digest)


def _unseen(fetched_bytes: int, total_bytes: int | None) -> None:
    """Progress that nobody looks at: the caller waits."""


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Says in an error which model of a workflow it is about."""
    try:
        yield
    except UserError as error:
        raise type(error)(f'model "{key}": {error}') from None
