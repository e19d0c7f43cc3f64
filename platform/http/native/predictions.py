"""Predictions: one raw ASGI handler, because nothing else on this path may cost time."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec
import structlog

from flowyard.platform.calls import Asked, Running
from flowyard.platform.execution import execute
from flowyard.platform.http.bodies import ClientGoneError, Receive, payload_of, read_body
from flowyard.platform.http.native.asynchronous import Later, wish_of
from flowyard.platform.http.native.errors import DEFAULT_CODES, NO_METHOD, StatusCodes, error_body, to_json
from flowyard.platform.http.native.messages import Answer, Headers, message_answer
from flowyard.platform.http.native.on_demand import OnDemand
from flowyard.platform.http.native.streaming import Reply, Stream, send_stream
from flowyard.platform.http.native.targets import target_of_path, target_of_request
from flowyard.platform.http.native.tracing import arrival_of, encode_trace, place_of_trace, with_trace
from flowyard.platform.http.negotiation import encode_small_array, encode_tensors
from flowyard.platform.http.request import RequestPayload, query_pairs
from flowyard.platform.registry.registry import Registry
from flowyard.platform.shadows import mirror
from flowyard.platform.telemetry.traces import Traces
from flowyard.platform.telemetry.traffic import Exchange, Traffic
from flowyard.platform.traced_execution import TracedExecution
from flowyard.platform.workers.jobs import DEFAULT_PRIORITY, MAX_PRIORITY
from flowyard.platform.workers.process import Outcome
from flowyard.schemas.errors import (
    AnsweredError,
    FlowyardError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    UnavailableError,
)
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Value, to_jsonable

log = structlog.stdlib.get_logger(__name__)

Send = Callable[[Any], Awaitable[None]]

#: A request that takes longer gets somebody who watches whether its client is still there.
WATCH_AFTER_S = 0.02
#: Nodes in `Server-Timing`: common clients and proxies refuse headers of more than 8 KiB.
MAX_TIMED_NODES = 50
#: What predictions take: all common ones (DJL §2.1) but TRACE, which is there to send a request back with its secrets.
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
MAX_TIMEOUT_S = 86_400.0
_TIMEOUT = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")
_NOT_A_TOKEN = re.compile(r"[^A-Za-z0-9_.-]")
_PRIORITY = re.compile(r"[0-9]")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}
#: New request ids are UUIDs that share a random part; the rest counts, from a random number on.
_ID_PREFIX = str(uuid.uuid4())[:-12]
_id_suffixes = itertools.count(random.getrandbits(40))
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")


class Predictions:
    """Answers everything that runs a model or workflow: `/predictions`, `/invocations`, `/models/{name}/invoke` (DJL §2.1).

    Args:
        registry: Where the endpoints are.
        traffic: Is told of every request.

    Attributes:
        traces: The timelines that are too long for a header.
    """

    def __init__(self, registry: Registry, traffic: Traffic) -> None:
        self._registry = registry
        self._traffic = traffic
        self.traces = Traces()
        self._held = registry.held
        self._limit_bytes = registry.settings.max_request_size
        self._codes = StatusCodes.of(registry.settings)
        self._id_header = registry.settings.request_id_header_key.lower()
        self._piece_limit_s = registry.settings.chunked_read_timeout
        self._on_demand = OnDemand(registry)
        self._watch = Watch()
        self._later = Later(registry.settings, functools.partial(error_answer, codes=self._codes), registry.held)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request, whatever happens, unless its client is gone."""
        exchange = Exchange()
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        request_id = request_id_of(headers, self._id_header)
        try:
            try:
                answer = await self._answer(exchange, scope, receive, send, headers, request_id)
            except ClientGoneError:
                return
            except FlowyardError as error:
                answer = error_answer(error, self._codes)
            except Exception:
                log.exception("prediction failed", request_id=request_id, path=scope["path"])
                answer = error_answer(InternalError("internal error; the log has the details"), self._codes)
            if answer is None:
                return
            status, _, body, _ = answer
            exchange.status = status
            exchange.bytes_out = len(body)
            await send({"type": "http.response.start", "status": status, "headers": response_headers(answer, request_id)})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._held.give_back(exchange.bytes_in)
            self._traffic.predicted(exchange, scope, request_id)

    async def _answer(
        self,
        exchange: Exchange,
        scope: Mapping[str, Any],
        receive: Receive,
        send: Send,
        headers: dict[str, str],
        request_id: str,
    ) -> Answer | None:
        """The answer, `None` when it has been sent in pieces."""
        arrived = arrival_of(headers)
        if scope["method"] not in METHODS:
            raise MethodNotAllowedError(NO_METHOD)
        if "handler" in headers:
            raise InvalidRequestError("The handler can't be overridden in a request")
        method = scope["method"]
        wish = wish_of(headers)
        if wish is not None and wish.token:
            return self._later.cancel(wish.token) if method == "DELETE" else self._later.fetch(wish.token, wish.max_items)
        query = query_pairs(scope["query_string"])
        endpoints = self._registry.endpoints
        name, version = target_of_path(scope["raw_path"])
        deployment = None if name is None else self._on_demand.find(name, version, headers, may_load=method != "OPTIONS")
        if deployment is not None:
            exchange.routed(deployment)
            if method == "OPTIONS":
                return 200, b"application/json", b"{}\n", []
        deadline = deadline_of(headers)
        priority = priority_of(headers)
        body = await read_body(receive, self._limit_bytes, self._held)
        exchange.bytes_in = len(body)
        if name is None:
            name, version = target_of_request(query, headers, bytes(body), self._registry.default_name)
        if deployment is None or deployment.closing:
            # One that was unregistered while the body came in may have left another version behind.
            deployment = await self._on_demand.load((name, version), headers, query, bytes(body))
            exchange.routed(deployment)
        shadows = endpoints.shadows.get(name, ()) if version is None else ()
        if deployment.takes_requests or shadows:
            payload: Payload = RequestPayload(headers, query, bytes(body), request_id)
        else:
            payload = payload_of(headers.get("content-type", ""), body)
        # What the payload has copied is not to be there twice while it waits.
        del body
        asked = Asked(payload, headers, dict(query), request_id, deadline, priority)
        reply = Reply(self._piece_limit_s)
        if arrived is None:
            execution = execute(deployment, asked, endpoints.route, reply.on_answer, reply.on_chunk)
        else:
            execution = TracedExecution(deployment, asked, endpoints.route, reply.on_answer, reply.on_chunk, arrived)
        token = self._later.reserve() if wish is not None else ""
        execution.start()
        if shadows:
            mirror(asked, shadows, endpoints.route, exchange.bytes_in)
        if token:
            tell = functools.partial(self._tell, execution, headers)
            return self._later.follow(token, execution, reply, headers.get("accept", ""), tell, exchange.bytes_in)
        return await self._wait(exchange, execution, reply, receive, send, headers, request_id)

    async def _wait(
        self,
        exchange: Exchange,
        execution: Running,
        reply: Reply,
        receive: Receive,
        send: Send,
        headers: dict[str, str],
        request_id: str,
    ) -> Answer | None:
        """Waits for the answer of a run that has been started; `None` when it has been sent in pieces."""
        first = reply.first
        result = first.result() if first.done() else await self._watch.wait(first, execution, receive)
        if not isinstance(result, Stream):
            return self._tell(execution, headers, result)
        own = [(b"x-request-id", request_id.encode("latin-1"))]
        trace_id, place = place_of_trace() if isinstance(execution, TracedExecution) else ("", b"")
        if trace_id:
            own.append((b"x-flowyard-trace", place))
        sending = send_stream(result, headers.get("accept", ""), own, exchange.sending(send))
        await self._send_stream(result, execution, receive, sending)
        if isinstance(execution, TracedExecution):
            self.traces.keep(trace_id, encode_trace(execution.trace(200)))
        return None

    def _tell(self, execution: Running, headers: dict[str, str], outcome: Outcome) -> Answer:
        """Tells the outcome of a run."""
        answer = answer_of(outcome, headers, server_timing(execution), self._codes)
        return with_trace(answer, execution, self.traces) if isinstance(execution, TracedExecution) else answer

    async def _send_stream(
        self, stream: Stream, execution: Running, receive: Receive, sending: Coroutine[Any, Any, None]
    ) -> None:
        """Sends a stream while its client is there; the run is taken back when it leaves."""
        listening = asyncio.ensure_future(listen_for_end(stream.gone, execution, receive))
        try:
            await sending
        finally:
            listening.cancel()
            execution.cancel()


def answer_of(result: Outcome, headers: Mapping[str, str], timing: Headers, codes: StatusCodes = DEFAULT_CODES) -> Answer:
    """Tells the outcome of a run.

    Args:
        result: The outcome.
        headers: The request's headers.
        timing: Headers that go with it.
        codes: Statuses of errors.
    """
    if isinstance(result, AnsweredError) and result.answer is not None:
        return message_answer(result.answer, timing)
    if isinstance(result, FlowyardError):
        status, content_type, body, extra = error_answer(result, codes)
        return status, content_type, body, [*extra, *timing]
    accept, sent = headers.get("accept", ""), headers.get("content-type", "")
    small = result.small_array()
    told = None if small is None else encode_small_array(small, accept, sent)
    if told is not None:
        return 200, *told, timing
    message = result.message()
    if message is not None:
        return message_answer(message, timing)
    content_type, body = encode_answer(result.value(), accept, sent)
    return 200, content_type, body, timing


class Cancellable(Protocol):
    """A run that can be taken back."""

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""


class Watch:
    """Finds out which clients have gone away while they wait, and cancels their runs.

    One timer looks after all requests: only those that have been waiting since its last round get a task that listens to their
    connection, so that a fast request costs two dictionary operations.
    """

    def __init__(self) -> None:
        #: Those that wait since the last round, those that waited then, and those that have a task.
        self._fresh: dict[asyncio.Future[Any], tuple[Cancellable, Receive]] = {}
        self._seen: dict[asyncio.Future[Any], tuple[Cancellable, Receive]] = {}
        self._watchers: dict[asyncio.Future[Any], asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, outcome: asyncio.Future[Any], execution: Cancellable, receive: Receive) -> Any:
        """Waits for an answer.

        Raises:
            ClientGoneError: The client went away first.
        """
        self._fresh[outcome] = (execution, receive)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._look)
        try:
            return await outcome
        except asyncio.CancelledError:
            execution.cancel()
            raise
        finally:
            if self._fresh.pop(outcome, None) is None and self._seen.pop(outcome, None) is None:
                self._watchers.pop(outcome).cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for outcome, (execution, receive) in self._seen.items():
            self._watchers[outcome] = loop.create_task(listen_for_end(outcome, execution, receive))
        self._seen, self._fresh = self._fresh, {}
        self._timer = loop.call_later(WATCH_AFTER_S, self._look) if self._seen else None


async def listen_for_end(outcome: asyncio.Future[Any], execution: Cancellable, receive: Receive) -> None:
    """Waits until a client is gone, takes its run back, and fails what its request waits for with a `ClientGoneError`."""
    while (await receive())["type"] != "http.disconnect":
        pass
    execution.cancel()
    if not outcome.done():
        outcome.set_exception(ClientGoneError())


def request_id_of(headers: Mapping[str, str], name: str = "x-request-id") -> str:
    """The caller's id, from the header of that name, where it is printable; else a new one (DJL §1.1)."""
    given = headers.get(name, "")
    if given and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_ID_PREFIX}{next(_id_suffixes):012x}"


def priority_of(headers: Mapping[str, str]) -> int:
    """The `x-priority` of a request: 0 to 9, lower first; 3 without the header (DJL §2.5).

    Raises:
        InvalidRequestError: It is no such number.
    """
    text = headers.get("x-priority")
    if text is None:
        return DEFAULT_PRIORITY
    if not _PRIORITY.fullmatch(text.strip()):
        raise InvalidRequestError(
            f"Header x-priority: {text[:50]!r}; allowed is a whole number from 0 to {MAX_PRIORITY}, lower is sooner."
        )
    return int(text)


def deadline_of(headers: Mapping[str, str]) -> float | None:
    """When the caller wants the answer: `X-Request-Timeout` as `300ms`, `2s`, `1m` or a number of seconds.

    Returns:
        Monotonic seconds, `None` without the header.

    Raises:
        InvalidRequestError: It is none of these, or out of range.
    """
    text = headers.get("x-request-timeout")
    if text is None:
        return None
    found = _TIMEOUT.fullmatch(text.strip())
    timeout_s = float(found[1]) * _UNITS_S[found[2]] if found else math.nan
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise InvalidRequestError(
            f"Header X-Request-Timeout: {text[:50]!r}; allowed are a duration like 300ms or 2s, or seconds, up to 24 hours."
        )
    return time.monotonic() + timeout_s


def encode_answer(value: Value, accept: str, sent: str) -> tuple[bytes, bytes]:
    """Tells a result: bytes as they are, arrays as the caller wants them, a string as text, everything else as JSON.

    Args:
        value: The result.
        accept: The Accept header; empty when there is none.
        sent: The Content-Type of the request.

    Returns:
        Content type and body.

    Raises:
        NotAcceptableError: Accept allows only tensor types that cannot hold the result.
        InternalError: The result cannot be told in JSON.
    """
    if isinstance(value, bytes):
        return b"application/octet-stream", value
    tensors = encode_tensors(value, accept, sent)
    if tensors is not None:
        return tensors
    if isinstance(value, str):
        return b"text/plain; charset=utf-8", value.encode()
    try:
        return b"application/json", msgspec.json.encode(value, enc_hook=to_jsonable)
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise InternalError(f"the result cannot be told in JSON: {error}") from error


def error_answer(error: FlowyardError, codes: StatusCodes = DEFAULT_CODES) -> Answer:
    """Status, content type, body and further headers that tell an error."""
    body = error_body(error, codes)
    extra = [(b"retry-after", b"1")] if isinstance(error, UnavailableError) else []
    if isinstance(error, MethodNotAllowedError):
        extra.append((b"allow", ", ".join(sorted(METHODS)).encode()))
    return body.code, b"application/json", to_json(body), extra


def response_headers(answer: Answer, request_id: str) -> Headers:
    """The headers that an answer goes out with."""
    _, content_type, body, extra = answer
    headers = [(b"content-length", b"%d" % len(body)), (b"x-request-id", request_id.encode("latin-1")), *extra]
    if content_type:
        headers.append((b"content-type", content_type))
    return headers


def server_timing(execution: Running) -> Headers:
    """The `Server-Timing` header: milliseconds per node that was called, the first ones of a large workflow."""
    entries = [
        b"%b;dur=%.2f" % (_token(name), (ended - started) * 1000)
        for name, started, ended in execution.times()[:MAX_TIMED_NODES]
        if ended and started
    ]
    return [(b"server-timing", b", ".join(entries))] if entries else []


@functools.lru_cache(maxsize=4096)
def _token(name: str) -> bytes:
    return _NOT_A_TOKEN.sub("_", name).encode("ascii")
