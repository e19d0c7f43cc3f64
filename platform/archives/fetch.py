"""Fetching what a remote URL leads to: checked first, within limits, and nothing left after a failure.

The libraries that do it are imported on first use. Most servers never fetch anything, and none should start later for it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
import structlog

from flowyard.platform.archives.allowed import AllowedUrls
from flowyard.platform.archives.hosts import Address, parse_address
from flowyard.platform.archives.remote import WEB_PORTS, RemoteUrl, parse_url
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import DeadlineError, FlowyardError, InvalidRequestError

#: Fetches that run at the same time; more of them wait.
FETCHES_AT_ONCE = 8
#: Which package a scheme needs, and the extra that installs it.
_EXTRAS = {"s3": ("obstore", "cloud"), "gs": ("obstore", "cloud"), "az": ("obstore", "cloud"), "hf": ("huggingface_hub", "hf")}

#: Option of a registration: its URL is one of S3, and is asked for with the credentials of the server's environment.
SIGNED = "s3_sse_kms"
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")

log = structlog.stdlib.get_logger(__name__)

#: Is told the bytes that are there, and how many there will be where that is known.
Report: TypeAlias = Callable[[int, int | None], None]
#: Finds the addresses of a host, for a port.
Resolve: TypeAlias = Callable[[str, int], Awaitable[list[Address]]]


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a fetch may take and how much it may bring.

    Attributes:
        connect_s: Longest wait for a name to be resolved, and for a connection.
        read_s: Longest wait for the next piece of an answer.
        total_s: Longest time for all of it, tries and redirects included.
        attempts: Most tries, where a failure may pass.
        max_bytes: Most bytes.
        max_files: Most files, where the URL leads to a folder.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    total_s: float = 3600.0
    attempts: int = 3
    max_bytes: int = 2 * 2**30
    max_files: int = 100_000

    @classmethod
    def of(cls, settings: Settings) -> FetchLimits:
        """Takes the limits from the settings.

        Args:
            settings: The settings of the server.

        Returns:
            The limits.
        """
        return cls(
            connect_s=settings.fetch_connect_timeout_s,
            read_s=settings.fetch_read_timeout_s,
            total_s=settings.fetch_total_timeout_s,
            attempts=settings.fetch_attempts,
            max_bytes=settings.max_archive_size_bytes,
            max_files=settings.max_archive_files,
        )


async def resolve_host(host: str, port: int) -> list[Address]:
    """Asks the system's resolver.

    Args:
        host: A name.
        port: The port to connect to.

    Returns:
        Its addresses, the best first.

    Raises:
        OSError: It has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [parse_address(str(info[4][0]).partition("%")[0]) for info in found]
    return [address for address in addresses if address is not None]


class Fetcher:
    """Fetches remote URLs as the settings allow."""

    def __init__(self, settings: Settings, resolve: Resolve = resolve_host) -> None:
        """Reads the settings.

        Args:
            settings: The settings of the server.
            resolve: How the addresses of a host are found.

        Raises:
            InvalidRequestError: An entry of `allowed_urls` cannot be read.
        """
        self._allowed = AllowedUrls(settings.allowed_urls, settings.allowed_url_regexes)
        self._limits = FetchLimits.of(settings)
        self._resolve = resolve
        self._slots = asyncio.Semaphore(FETCHES_AT_ONCE)

    def check(self, url: str) -> RemoteUrl:
        """Checks a URL without touching the network.

        Args:
            url: The URL; `is_remote` holds.

        Returns:
            Its parts.

        Raises:
            InvalidRequestError: It is not well formed, has a credential in it, or needs a package that is not installed.
            ForbiddenError: The settings do not allow it.
        """
        parsed = parse_url(url, signed=self._allowed.takes_signed)
        self._allowed.check(parsed, f"url {url!r}")
        package, extra = _EXTRAS.get(parsed.scheme, ("", ""))
        if package and importlib.util.find_spec(package) is None:
            raise InvalidRequestError(
                f"url {url!r}: {parsed.scheme}: needs the package {package}: pip install 'flowyard[{extra}]' on the server"
            )
        return parsed

    def allows(self, url: str) -> bool:
        """Whether the settings allow a URL, as far as its text says; it may still lead nowhere, or be none."""
        if self._allowed.matches_regex(url):
            return True
        try:
            self.check(url)
        except FlowyardError:
            return False
        return True

    async def fetch(self, url: str, into: Path, report: Report, *, signed: bool = False) -> None:
        """Fetches a file, or a folder from where there are such.

        Args:
            url: The URL.
            into: Where it goes; nothing is there yet. Whatever is there after a failure is the caller's to remove.
            report: Is told the progress.
            signed: Whether an `http:` or `https:` URL is one of S3 that lets nobody in without credentials.

        Raises:
            InvalidRequestError: As `check`; or the server refuses, or redirects to where it must not.
            ForbiddenError: As `check`; or the host has an address that it may not have.
            ModelNotFoundError: There is no such host, or nothing there.
            TooLargeError: It is larger than the settings allow.
            UnavailableError: It failed as often as it may be tried, each time in a way that may pass.
            DeadlineError: It took longer than the settings allow.
        """
        parsed = self.check(url)
        async with self._slots:
            limit = asyncio.timeout(self._limits.total_s)
            try:
                async with limit:
                    await self._transfer(await _signed(parsed, url) if signed else parsed, url, into, report)
            except TimeoutError:
                if not limit.expired():
                    raise
                message = f"url {url!r} was not fetched within {self._limits.total_s:g} s (setting fetch_total_timeout_s)"
                raise DeadlineError(message) from None

    async def _transfer(self, parsed: RemoteUrl, url: str, into: Path, report: Report) -> None:
        module = "web" if parsed.scheme in WEB_PORTS else "hub" if parsed.scheme == "hf" else "objects"
        # In a thread: requests that are served meanwhile should not wait for a large package.
        await asyncio.to_thread(importlib.import_module, f"flowyard.platform.archives.{module}")
        if parsed.scheme in WEB_PORTS:
            from flowyard.platform.archives.web import Web  # noqa: PLC0415 (first use)

            await Web(self._limits, self._resolve, self._allowed).download(parsed, url, into, report)
        elif parsed.scheme == "hf":
            from flowyard.platform.archives.hub import fetch_repository  # noqa: PLC0415 (an extra)

            await fetch_repository(parsed, url, into, report, self._limits, self._resolve)
        else:
            from flowyard.platform.archives.objects import fetch_objects  # noqa: PLC0415 (an extra)

            await fetch_objects(parsed, url, into, report, self._limits)


async def _signed(parsed: RemoteUrl, url: str) -> RemoteUrl:
    """The URL with the signature of the server, where there is something to sign it with."""
    if parsed.scheme not in WEB_PORTS:
        return parsed
    missing = [name for name in _CREDENTIALS if not os.environ.get(name)]
    if missing:
        log.warning("fetched without credentials", url=url, reason=f"s3_sse_kms needs {', '.join(missing)} in the environment")
        return parsed
    if importlib.util.find_spec("obstore") is None:
        raise InvalidRequestError(
            f"url {url!r}: s3_sse_kms needs the package obstore: pip install 'flowyard[cloud]' on the server"
        )
    await asyncio.to_thread(importlib.import_module, "flowyard.platform.archives.objects")
    from flowyard.platform.archives.objects import signed_url  # noqa: PLC0415 (an extra)

    return await signed_url(parsed)
