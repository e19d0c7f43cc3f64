"""Between calls and httpx2: options, requests, and what its errors mean."""

from __future__ import annotations

import os
import ssl
from typing import Any, TypeAlias

import httpx2

from flowyard.platform.client.address import Address, address_of, authorization
from flowyard.platform.client.calls import Call, Reply
from flowyard.platform.client.errors import (
    ClientError,
    InterruptedAnswerError,
    InvalidArgumentError,
    NoAnswerError,
    TimedOutError,
    TlsError,
    UnexpectedAnswerError,
    UnreachableError,
)
from flowyard.platform.client.uploads import Upload

CONNECT_TIMEOUT_S = 5.0
#: Longest silence: as long as a server waits for a model to start, and a little more.
TIMEOUT_S = 300.0
#: How often a connection is tried that could not be made; nothing has been sent by then.
CONNECT_RETRIES = 1
#: Methods whose call is made again when a kept connection turns out to be closed. A POST may have been executed: never that.
REPEATABLE = frozenset({"GET"})
#: Errors of a connection that ended before an answer began.
CLOSED = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)
#: All that httpx2 raises.
FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError)
Failure: TypeAlias = httpx2.HTTPError | httpx2.InvalidURL | httpx2.StreamError


class Caller:
    """What both clients know of their server, and do in the same way.

    Args:
        url: See `Client`.
        timeout_s: See `Client`.

    Attributes:
        address: The server.
        timeout_s: Longest silence of calls that say none.
    """

    def __init__(self, url: str | None, timeout_s: float) -> None:
        self.address = address_of(url)
        self.timeout_s = timeout_s

    def _options(self, token: str | None) -> dict[str, Any]:
        """What httpx2's clients are made with."""
        timeout = timeout_of(self.timeout_s)
        return {"base_url": self.address.base_url, "headers": authorization(token), "timeout": timeout, "trust_env": False}

    def _request_options(self, call: Call[Any]) -> dict[str, Any]:
        """What httpx2's requests are made with, but for the body."""
        return {
            "method": call.method,
            "url": call.path,
            "params": call.query or None,
            "headers": request_headers(call),
            "timeout": timeout_of(self._silence_s(call)),
        }

    def _told(self, error: Failure, call: Call[Any]) -> ClientError:
        """What went wrong with a call before its answer began."""
        return told(error, self.address, self._silence_s(call))

    def _broken_off(self, error: Failure, call: Call[Any]) -> ClientError:
        """What went wrong with a call whose answer had begun."""
        return broken_off(error, self.address, self._silence_s(call))

    def _reply(self, response: httpx2.Response, body: bytes) -> Reply:
        return Reply(response.status_code, response.headers, body, str(self.address))

    def _silence_s(self, call: Call[Any]) -> float:
        return call.timeout_s if call.timeout_s is not None else self.timeout_s


def is_repeated(error: Failure, call: Call[Any], attempt: int) -> bool:
    """Whether a call is made again that has failed before its answer began.

    Args:
        error: How.
        call: The call.
        attempt: Which one it was, from 0.
    """
    return not attempt and call.method in REPEATABLE and isinstance(error, CLOSED)


def transport_options(address: Address, verify: ssl.SSLContext | bool) -> dict[str, Any]:
    """What httpx2's transports are made with, sync and async. Reading the system's certificates takes a while: only for HTTPS."""
    secure = address.base_url.startswith("https:")
    return {"uds": address.socket or None, "retries": CONNECT_RETRIES, "verify": verify if secure else False}


def timeout_of(timeout_s: float) -> httpx2.Timeout:
    """Longest silences of one call."""
    return httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))


def request_headers(call: Call[Any]) -> list[tuple[str, str]]:
    """A call's headers, with what its body brings along."""
    body = call.body
    if not isinstance(body, Upload):
        return list(call.headers)
    own = [("content-type", body.content_type), *([("content-length", str(body.length))] if body.length is not None else [])]
    named = {name for name, _ in call.headers}
    return [*call.headers, *((name, value) for name, value in own if name not in named)]


def told(error: Failure, address: Address, timeout_s: float) -> ClientError:
    """What went wrong, before an answer began.

    Args:
        error: What httpx2 says.
        address: The server.
        timeout_s: The silence that was allowed.

    Returns:
        The error to raise.
    """
    match error:
        case httpx2.ConnectTimeout():
            return UnreachableError(
                f"no connection to {address}: {CONNECT_RETRIES + 1} tries of {min(CONNECT_TIMEOUT_S, timeout_s):g} s"
            )
        case httpx2.ConnectError() | httpx2.ProxyError():
            tls = _tls_error(error)
            if tls is not None:
                return TlsError(f"no secure connection to {address}: {tls.reason or tls}{_tls_fix(tls)}")
            return UnreachableError(f"no connection to {address}: {_reason(error)}")
        case httpx2.TimeoutException():
            return TimedOutError(f"no answer from {address} within {timeout_s:g} s")
        case httpx2.RemoteProtocolError() if "disconnected" not in str(error):
            return UnexpectedAnswerError(f"{address} does not speak HTTP: {error}")
        case httpx2.RemoteProtocolError() | httpx2.NetworkError():
            return InterruptedAnswerError(f"{address} closed the connection before it answered")
        case httpx2.DecodingError():
            return UnexpectedAnswerError(f"an answer from {address} that cannot be decoded: {error}")
        case httpx2.LocalProtocolError() | httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            return InvalidArgumentError(f"a request that HTTP does not allow: {error}")
        case _:
            return NoAnswerError(f"no answer from {address}: {_reason(error)}")


def broken_off(error: Failure, address: Address, timeout_s: float) -> ClientError:
    """What went wrong, when an answer had begun."""
    match error:
        case httpx2.TimeoutException():
            return TimedOutError(f"{address} fell silent in the middle of its answer for {timeout_s:g} s")
        case httpx2.SSEError() | httpx2.DecodingError():
            return UnexpectedAnswerError(f"an answer from {address} that cannot be read: {error}")
        case _:
            return InterruptedAnswerError(f"the answer of {address} broke off: it failed there, or the connection did")


def _reason(error: Exception) -> str:
    """The innermost message: what the system said."""
    found: BaseException = error
    while (deeper := found.__cause__ or found.__context__) is not None:
        found = deeper
    if isinstance(found, OSError) and found.strerror:
        # asyncio has words of its own for what the system says; the number is the same.
        return os.strerror(found.errno) if found.errno and found.errno > 0 else found.strerror
    return str(found) or str(error) or type(error).__name__


def _tls_error(error: Exception) -> ssl.SSLError | None:
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ssl.SSLError):
            return found
        found = found.__cause__ or found.__context__
    return None


def _tls_fix(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f" ({error.verify_message})" if error.verify_message else ""
    return " (does it speak HTTPS at all?)" if error.reason == "WRONG_VERSION_NUMBER" else ""
