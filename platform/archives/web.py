"""Downloads over HTTP, to the addresses that were checked and to no others.

It stands on httpcore2, the transport of httpx2: what httpx2 adds (redirects, cookies, decoding, proxies of the environment) is
what must not happen here unasked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import httpcore2
import stamina
import stamina.instrumentation
import structlog

from flowyard.platform.archives.fetch import FetchLimits, Report, Resolve
from flowyard.platform.archives.hosts import Address, parse_address
from flowyard.platform.archives.remote import RemoteUrl, parse_redirect
from flowyard.schemas.errors import FlowyardError, InvalidRequestError, ModelNotFoundError, TooLargeError, UnavailableError

MAX_REDIRECTS = 5
#: Addresses of one host that are tried, one after the other.
MAX_ADDRESSES = 3
#: Bytes that are collected before they are written.
WRITE_BYTES = 2**20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_GONE = frozenset({404, 410})
_NAME_ERRORS_THAT_PASS = frozenset({socket.EAI_AGAIN})

log = structlog.stdlib.get_logger(__name__)
# Its own hooks count in a registry of the whole process, and load the package for that.
stamina.instrumentation.set_on_retry_hooks(())


class Policy(Protocol):
    """Says where a download may go."""

    def check(self, url: RemoteUrl, shown: str) -> None:
        """Refuses a URL with a `ForbiddenError`."""

    def check_address(self, url: RemoteUrl, address: Address) -> None:
        """Refuses an address of its host with a `ForbiddenError`."""


class _TransientError(Exception):
    """A failure that may pass; with the status that was answered, 0 for none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Web:
    """Downloads files.

    Args:
        limits: How long it may take, and how much it may bring.
        resolve: How the addresses of a host are found.
        policy: Where it may go; asked again for every redirect.
    """

    def __init__(self, limits: FetchLimits, resolve: Resolve, policy: Policy) -> None:
        self._limits = limits
        self._resolve = resolve
        self._policy = policy

    async def download(
        self, url: RemoteUrl, shown: str, into: Path, report: Report, headers: Mapping[str, str] | None = None
    ) -> None:
        """Downloads a file. A try that fails on the way starts from the beginning.

        Args:
            url: What to get.
            shown: What messages call it.
            into: The file to write; what it holds is replaced.
            report: Is told the progress.
            headers: Sent to the host of `url`, and to no other that it redirects to.

        Raises:
            InvalidRequestError: The server refuses, its certificate does not hold, or it redirects to where it must not.
            ForbiddenError: The policy refuses.
            ModelNotFoundError: There is no such host, or nothing there.
            TooLargeError: It is larger than allowed.
            UnavailableError: It failed as often as it may be tried.
        """
        tries = stamina.retry_context(on=_TransientError, attempts=self._limits.attempts, timeout=None, wait_max=5)
        try:
            async for attempt in tries:
                if attempt.num > 1:
                    log.warning("fetching once more", url=shown, attempt=attempt.num)
                with attempt:
                    await self._try(url, shown, into, report, headers or {})
        except _TransientError as error:
            message = f"url {shown!r} could not be fetched, {self._limits.attempts} tries: {error}"
            raise _answered(UnavailableError(message), error.status) from None

    async def _try(self, url: RemoteUrl, shown: str, into: Path, report: Report, headers: Mapping[str, str]) -> None:
        at = url
        for _ in range(MAX_REDIRECTS + 1):
            sent = headers if at.origin == url.origin else {}
            async with self._answer(at, shown, sent) as response:
                if response.status not in _REDIRECTS:
                    _check_status(response.status, shown)
                    await self._save(response, shown, into, report)
                    return
                location = _header(response, b"location")
            target = parse_redirect(at, location)
            self._policy.check(target, f"url {shown!r} is redirected to {target.origin}")
            at = target
        raise InvalidRequestError(f"url {shown!r} is redirected more than {MAX_REDIRECTS} times")

    @contextlib.asynccontextmanager
    async def _answer(self, url: RemoteUrl, shown: str, headers: Mapping[str, str]) -> AsyncIterator[httpcore2.Response]:
        addresses = await self._addresses(url, shown)
        limits = self._limits
        timeouts = {"connect": limits.connect_s, "read": limits.read_s, "write": limits.read_s, "pool": limits.connect_s}
        sent: list[tuple[bytes | str, bytes | str]] = [
            ("Host", url.authority),
            ("User-Agent", f"flowyard/{version('flowyard')}"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
            *headers.items(),
        ]
        target = httpcore2.URL(
            scheme=url.scheme.encode(), host=url.host.encode(), port=url.port, target=url.target.encode("ascii")
        )
        # In a thread: it reads every certificate of the system.
        tls = await asyncio.to_thread(httpcore2.default_ssl_context) if url.scheme == "https" else None
        with _mapped(url, shown):
            async with (
                httpcore2.AsyncConnectionPool(tls, max_connections=1, network_backend=_Pinned(addresses)) as pool,
                pool.stream("GET", target, headers=sent, extensions={"timeout": timeouts}) as response,
            ):
                yield response

    async def _addresses(self, url: RemoteUrl, shown: str) -> list[Address]:
        """Resolves a host once. If one of its addresses is refused, it is refused: who answers so is not to be trusted."""
        literal = parse_address(url.host)
        found = [literal] if literal is not None else await self._resolved(url, shown)
        for address in found:
            self._policy.check_address(url, address)
        if not found:
            raise ModelNotFoundError(f"Invalid model url: {shown}; {url.host} has no address")
        return found[:MAX_ADDRESSES]

    async def _resolved(self, url: RemoteUrl, shown: str) -> list[Address]:
        try:
            async with asyncio.timeout(self._limits.connect_s):
                return await self._resolve(url.host, url.port)
        except TimeoutError:
            raise _TransientError(f"{url.host} was not resolved within {self._limits.connect_s:g} s") from None
        except socket.gaierror as error:
            if error.errno in _NAME_ERRORS_THAT_PASS:
                raise _TransientError(f"{url.host} cannot be resolved just now") from None
            raise ModelNotFoundError(f"Invalid model url: {shown}; there is no host {url.host}") from None

    async def _save(self, response: httpcore2.Response, shown: str, into: Path, report: Report) -> None:
        length = _header(response, b"content-length")
        total = int(length) if length.isdigit() else None
        self._check_size(total or 0, shown)
        report(0, total)
        fetched = 0
        with into.open("wb") as file:
            async for piece in _pieces(response):
                fetched += len(piece)
                self._check_size(fetched, shown)
                await _write(file, piece)
                report(fetched, total)

    def _check_size(self, size: int, shown: str) -> None:
        if size > self._limits.max_bytes:
            raise TooLargeError(
                f"url {shown!r}: the archive has more than {self._limits.max_bytes} bytes (setting max_archive_size_bytes)"
            )


async def _pieces(response: httpcore2.Response) -> AsyncIterator[bytes]:
    """The body, in pieces that are worth a hand-over to the thread that writes them."""
    collected = bytearray()
    async for chunk in response.aiter_stream():
        collected += chunk
        if len(collected) >= WRITE_BYTES:
            yield bytes(collected)
            collected.clear()
    yield bytes(collected)


async def _write(file: BinaryIO, piece: bytes) -> None:
    await asyncio.to_thread(file.write, piece)


def _header(response: httpcore2.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _check_status(status: int, shown: str) -> None:
    if status == 200:
        return
    if status in _GONE:
        raise _answered(ModelNotFoundError(f"Invalid model url: {shown}; the server answers {status}"), status)
    if status in _TRANSIENT:
        raise _TransientError(f"the server answers {status}", status)
    raise _answered(InvalidRequestError(f"url {shown!r} cannot be fetched: the server answers {status}"), status)


def _answered(error: FlowyardError, status: int) -> FlowyardError:
    error.remote_status = status
    return error


@contextlib.contextmanager
def _mapped(url: RemoteUrl, shown: str) -> Iterator[None]:
    """Sorts what goes wrong on a connection into what may pass and what will not. Nothing of the answer is repeated."""
    try:
        yield
    except (FlowyardError, _TransientError):
        raise
    except httpcore2.TimeoutException as error:
        raise _TransientError(f"{url.origin} does not answer in time ({type(error).__name__})") from None
    except httpcore2.NetworkError as error:
        if _is_about_certificate(error):
            raise InvalidRequestError(f"url {shown!r}: the certificate of {url.origin} does not hold") from None
        raise _TransientError(f"the connection to {url.origin} failed ({type(error).__name__})") from None
    except httpcore2.ProtocolError:
        raise _TransientError(f"the answer of {url.origin} is broken or incomplete") from None


def _is_about_certificate(error: BaseException | None) -> bool:
    """Looks through the layers that have passed the error on."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


class _Pinned(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that have been checked, whatever the host is called: name and certificate stay those of the URL."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connects to the first address that accepts."""
        del host
        *others, last = self._addresses
        for address in others:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
        return await self._network.connect_tcp(str(last), port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await self._network.sleep(seconds)
