"""Fetching from object stores (`s3:`, `gs:`, `az:`) through obstore, with the credentials of the server's environment."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError, InvalidPathError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from flowyard.platform.archives.fetch import FetchLimits, Report
from flowyard.platform.archives.members import member_parts
from flowyard.platform.archives.remote import RemoteUrl, parse_url
from flowyard.schemas.errors import (
    FlowyardError,
    InvalidArchiveError,
    InvalidRequestError,
    ModelNotFoundError,
    TooLargeError,
    UnavailableError,
)

#: Bytes that are collected before they are written.
WRITE_BYTES = 2**20
#: Time that a signed URL is good for: it is asked for at once.
SIGNED_S = 600
_STORES: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
#: Where a list fails, obstore tells what was answered only in words.
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
#: Variables that allow http: endpoints; obstore reads them only where no options are given.
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}


async def fetch_objects(url: RemoteUrl, shown: str, into: Path, report: Report, limits: FetchLimits) -> None:
    """Fetches one object into a file, or all objects below a URL that ends in `/` into a folder.

    Args:
        url: `SCHEME://BUCKET/KEY`.
        shown: What messages call it.
        into: Where it goes; nothing is there yet.
        report: Is told the progress.
        limits: How long it may take, and how much it may bring.

    Raises:
        InvalidArchiveError: A name leads out of the folder.
        InvalidRequestError: The store does not let the server in.
        ModelNotFoundError: There is no such bucket or object.
        TooLargeError: There is more than the settings allow.
        UnavailableError: The store failed as often as it may be tried.
    """
    key = url.path.lstrip("/")
    try:
        store = _store(url, limits)
        if key and not key.endswith("/"):
            await _Transfer(store, limits, report, shown).file(key, into)
        else:
            await _Transfer(store, limits, report, shown).folder(key, into)
    except (BaseError, FileNotFoundError, PermissionError, TimeoutError) as error:
        raise _told(error, shown) from None


def _told(error: BaseError | OSError, shown: str) -> FlowyardError:
    """What a failure means; what the store says itself may tell of endpoints and keys."""
    found = _STATUS.search(str(error))
    status = found[1] if found else ""
    if isinstance(error, NotFoundError | FileNotFoundError) or status == "404":
        return ModelNotFoundError(f"Invalid model url: {shown}")
    if isinstance(error, InvalidPathError):
        return InvalidArchiveError(f"url {shown!r}: the store has a name there that no file can have")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError) or status in ("401", "403"):
        return InvalidRequestError(f"url {shown!r}: the store does not let the server in; credentials come from its environment")
    return UnavailableError(f"url {shown!r} could not be fetched ({type(error).__name__})")


async def signed_url(url: RemoteUrl) -> RemoteUrl:
    """A URL of S3 as its owner may ask for it: signed with the credentials of the server's environment.

    S3 gives out what is encrypted with a key of KMS to nobody else (TorchServe reference §1.2, `s3_sse_kms`).

    Args:
        url: An `http:` or `https:` URL; its host need not be one of Amazon's.
    """
    # With this style the host is taken as it is, and the bucket is nothing but a name.
    store = S3Store(
        "bucket",
        endpoint=url.origin,
        virtual_hosted_style_request=True,
        client_options={"allow_http": url.scheme == "http"},
    )
    signed = await obstore.sign_async(store, "GET", url.path.lstrip("/"), timedelta(seconds=SIGNED_S))
    return parse_url(signed, signed=True)


def _store(url: RemoteUrl, limits: FetchLimits) -> Any:
    return _STORES[url.scheme](
        url.host,
        client_options={
            "connect_timeout": timedelta(seconds=limits.connect_s),
            "timeout": timedelta(seconds=limits.total_s),
            "allow_http": os.environ.get(_ALLOW_HTTP[url.scheme], "").lower() in ("1", "true"),
        },
        retry_config={"max_retries": limits.attempts - 1, "retry_timeout": timedelta(seconds=limits.total_s)},
    )


class _Transfer:
    """Objects of one URL, on their way to disk."""

    def __init__(self, store: Any, limits: FetchLimits, report: Report, shown: str) -> None:
        self._store = store
        self._limits = limits
        self._report = report
        self._shown = shown
        self._fetched = 0
        self._total = 0

    async def file(self, key: str, into: Path) -> None:
        """Fetches one object."""
        result = await self._in_time(obstore.get_async(self._store, key))
        self._expect(result.meta["size"])
        await self._save(result, into)

    async def folder(self, prefix: str, into: Path) -> None:
        """Fetches all objects below a prefix."""
        found = [item async for item in self._listed(prefix)]
        if not found:
            raise ModelNotFoundError(f"Invalid model url: {self._shown}; nothing is below it")
        for _, size in found:
            self._expect(size)
        for key, _ in found:
            path = _place(into, key.removeprefix(prefix))
            await self._save(await self._in_time(obstore.get_async(self._store, key)), path)

    async def _listed(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        count = 0
        pages = obstore.list(self._store, prefix.rstrip("/") or None)
        async for page in pages:
            for item in page:
                # Stores of folders list these too, as empty objects.
                if item["path"].endswith("/") or not item["path"].startswith(prefix):
                    continue
                count += 1
                if count > self._limits.max_files:
                    limit = self._limits.max_files
                    raise TooLargeError(f"url {self._shown!r}: more than {limit} files (setting max_archive_files)")
                yield item["path"], item["size"]

    async def _save(self, result: Any, into: Path) -> None:
        pieces = result.stream(min_chunk_size=WRITE_BYTES)
        with into.open("xb") as file:
            while (piece := await self._in_time(anext(pieces, None))) is not None:
                self._fetched += len(piece)
                self._check_size(self._fetched)
                await asyncio.to_thread(file.write, piece)
                self._report(self._fetched, self._total)

    async def _in_time(self, waiting: Any) -> Any:
        async with asyncio.timeout(self._limits.read_s):
            return await waiting

    def _expect(self, size: int) -> None:
        self._total += size
        self._check_size(self._total)
        self._report(0, self._total)

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            limit = self._limits.max_bytes
            raise TooLargeError(f"url {self._shown!r}: more than {limit} bytes (setting max_archive_size_bytes)")


def _place(into: Path, name: str) -> Path:
    path = into.joinpath(*member_parts(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
