"""Where archives come from: a path, a URL or an upload, on its way into the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from flowyard.platform.archives.fetch import Fetcher, Report
from flowyard.platform.archives.locate import Roots, resolve_url
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.recognise import ARCHIVES, recognise
from flowyard.platform.archives.remote import is_remote
from flowyard.platform.archives.store import ArchiveStore, StoredArchive
from flowyard.platform.registry.layout import WORKFLOW_FILES
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import FlowyardError, InvalidRequestError, UserError


class Source(msgspec.Struct, frozen=True):
    """An archive, model file or folder that can be read.

    Attributes:
        path: Where it is.
        filename: What its owner calls it.
    """

    path: Path
    filename: str


class Sources:
    """Gets what URLs lead to, as far as the settings allow, and puts it into the store."""

    def __init__(self, settings: Settings, archives: ArchiveStore) -> None:
        """Reads the settings.

        Args:
            settings: The settings of the server.
            archives: The store.

        Raises:
            InvalidRequestError: An entry of `allowed_urls` cannot be read.
        """
        self._archives = archives
        self._roots = Roots.of(settings)
        self._limits = Limits.of(settings)
        self._fetcher = Fetcher(settings)

    def check(self, url: str, *, operator: bool = False) -> None:
        """Checks a URL, before anything of it is read.

        Args:
            url: A path or URL.
            operator: Whether the operator gave it, who may name any path.

        Raises:
            UserError: It is not well formed, not allowed, or a path where nothing is.
        """
        if is_remote(url):
            self._fetcher.check(url)
        else:
            resolve_url(url, self._roots, operator)

    def has_file(self, url: str) -> bool:
        """Whether a caller's path leads to something."""
        try:
            resolve_url(url, self._roots)
        except UserError:
            return False
        return True

    def allows(self, url: str) -> bool:
        """Whether the settings allow a remote URL, as far as its text says."""
        return self._fetcher.allows(url)

    @contextlib.asynccontextmanager
    async def at_hand(self, url: str, report: Report, *, operator: bool = False, signed: bool = False) -> AsyncIterator[Source]:
        """Finds, or fetches, what a URL leads to.

        Args:
            url: A path or URL.
            report: Is told the progress of a fetch.
            operator: Whether the operator gave it, who may name any path.
            signed: Whether it is one of S3 that lets nobody in without credentials.

        Yields:
            The file or folder; what was fetched is removed in the end.

        Raises:
            FlowyardError: The URL is refused, leads nowhere, or cannot be fetched.
        """
        if not is_remote(url):
            path = resolve_url(url, self._roots, operator)
            yield Source(path, path.name)
            return
        with self._archives.temporary_path() as path:
            try:
                await self._fetcher.fetch(url, path, report, signed=signed)
            except FlowyardError as error:
                error.fetching = True
                raise
            yield Source(path, self._fetcher.check(url).filename or "model")

    async def is_packed(self, source: Source) -> bool:
        """Tells an archive from a model file or folder.

        Args:
            source: What is looked at; it need not be there.

        Returns:
            Whether it has to be unpacked.

        Raises:
            InvalidArchiveError: It is a broken archive.
        """
        if not source.path.is_file():
            return False
        return await asyncio.to_thread(recognise, source.path, self._limits) in ARCHIVES

    async def add(self, source: Source, sha256: str = "") -> StoredArchive:
        """Puts an archive, model file or folder into the store.

        Args:
            source: What to add.
            sha256: What its digest has to be, in hex; empty for any.

        Returns:
            What is stored.

        Raises:
            InvalidArchiveError: It is broken or refused, or its digest is another.
            InvalidRequestError: A folder has no digest.
            TooLargeError: It is over a limit of the settings.
        """
        path = source.path
        # A workflow file names its models relative to itself: it is registered with the folder around it.
        folder = path if path.is_dir() else path.parent if path.name in WORKFLOW_FILES else None
        if folder is None:
            return await asyncio.to_thread(self._archives.add_file, path, source.filename, self._limits, sha256)
        if sha256:
            raise InvalidRequestError("Parameter sha256: the url leads to a folder, and only a file has a digest.")
        return await asyncio.to_thread(self._archives.add_directory, folder, self._limits)
