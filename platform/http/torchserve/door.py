"""One address of TorchServe or MMS: tells what is asked for, checks tokens, and tells errors as these servers do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import msgspec
import structlog

from flowyard.platform.held import Held
from flowyard.platform.http.bodies import ClientGoneError, Receive
from flowyard.platform.http.native.predictions import request_id_of
from flowyard.platform.http.torchserve.answers import CLOSE, KEEP, Answer, Headers, head, json_answer
from flowyard.platform.http.torchserve.errors import NO_METHOD, NO_ROUTE
from flowyard.platform.http.torchserve.inference import Inference
from flowyard.platform.http.torchserve.openapi import Json, Part
from flowyard.platform.http.torchserve.requests import HttpRequest, read_head, with_body
from flowyard.platform.http.torchserve.routes import Call
from flowyard.platform.http.torchserve.tokens import KeyKind, Tokens
from flowyard.platform.registry.history import CALLER
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.dialect_logs import DialectLogs
from flowyard.platform.telemetry.traffic import Exchange, Traffic
from flowyard.schemas.errors import FlowyardError, InternalError, MethodNotAllowedError, NotFoundError

log = structlog.stdlib.get_logger(__name__)

Parts: TypeAlias = frozenset[Part]


class Manages(Protocol):
    """Answers a management API."""

    async def answer(self, request: HttpRequest, /) -> Answer | None:
        """Answers a request, `None` where nothing is at its path."""


class Api(Protocol):
    """One of the dialects."""

    @property
    def settings(self) -> Settings:
        """The settings."""

    @property
    def held(self) -> Held:
        """Counts what requests hold."""

    @property
    def log_files(self) -> DialectLogs | None:
        """The log files, `None` where it has none."""

    @property
    def inference(self) -> Inference:
        """Its inference API."""

    @property
    def management(self) -> Manages:
        """Its management API."""

    @property
    def tokens(self) -> Tokens | None:
        """Its tokens, `None` where nobody has to show one."""

    def document(self, part: Part, /) -> Json:
        """The OpenAPI document of a part."""

    def metrics(self, request: HttpRequest, /) -> Answer | None:
        """Answers a request of the metrics API, `None` where nothing is at its path."""

    def tell(self, error: FlowyardError, /) -> Answer:
        """Tells an error."""

    def answered(self, status: int, /) -> None:
        """Is told of every answer."""


def cross_origin_headers(settings: Settings) -> Headers:
    """The headers that go with every answer, as they are configured; there is no more to it in these servers."""
    if settings.cors_allowed_origin is None:
        return []
    told = {
        b"access-control-allow-origin": settings.cors_allowed_origin,
        b"access-control-allow-methods": settings.cors_allowed_methods,
        b"access-control-allow-headers": settings.cors_allowed_headers,
    }
    return [(name, value.encode("latin-1")) for name, value in told.items() if value]


class Door:
    """Serves some of the APIs of a dialect at one address.

    Args:
        api: The dialect.
        parts: Which of its APIs are here.
        traffic: Is told of every request.
    """

    def __init__(self, api: Api, parts: Parts, traffic: Traffic) -> None:
        self._api = api
        self._parts = parts
        self._traffic = traffic
        self._cross_origin = cross_origin_headers(api.settings)
        self._kept = [*self._cross_origin, KEEP]
        self._limit_bytes = api.settings.max_request_size
        self._document = json_answer(api.document(next(iter(parts)) if len(parts) == 1 else "all"))
        kinds: tuple[KeyKind, ...] = ("inference", "management")
        self._keys = tuple(kind for kind in kinds if kind in parts)

    async def __call__(self, scope: Any, receive: Receive, send: Callable[[Any], Any]) -> None:
        """Answers one request, whatever happens, unless its client is gone."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        exchange = Exchange()
        request_id = request_id_of({})
        # For the history of the registry; a socket file has no address.
        client = scope.get("client")
        CALLER.set(client[0] if client and client[0] else "local")
        try:
            try:
                answer = await self._answer(exchange, scope, request_id, receive, send)
            except ClientGoneError:
                return
            except FlowyardError as error:
                answer = self._api.tell(error)
            except Exception:
                log.exception("request failed", request_id=request_id, path=scope["path"])
                answer = self._api.tell(InternalError("internal error; the log has the details"))
            if answer is None:
                return
            if exchange.trace is not None:
                answer = msgspec.structs.replace(answer, headers=[*answer.headers, exchange.trace(answer.status)])
            exchange.status = answer.status
            exchange.bytes_out = len(answer.body)
            await send(head(answer, request_id, self._common(scope)))
            await send({"type": "http.response.body", "body": answer.body})
        finally:
            self._api.held.give_back(exchange.bytes_in)
            self._api.answered(exchange.status)
            self._traffic.ended(exchange, scope, request_id)
            if self._api.log_files is not None:
                _log(self._api.log_files, exchange, scope)

    async def _answer(self, exchange: Exchange, scope: Any, request_id: str, receive: Receive, send: Any) -> Answer | None:
        request = read_head(scope, request_id)
        described = self._described(request)
        if described is not None:
            return described
        renewed = self._checked_token(request)
        if renewed is not None:
            return renewed
        if "inference" in self._parts:
            call = self._api.inference.call_of(request.segments)
            if call is not None:
                exchange.prediction = True
                return await self._predict(call, request, exchange, receive, send, self._common(scope))
        if request.method not in ("GET", "HEAD"):
            request = await with_body(request, receive, self._limit_bytes, self._api.held)
            exchange.bytes_in = len(request.body)
        answer = await self._other(request)
        if answer is None:
            raise NotFoundError(NO_ROUTE)
        return answer

    def _described(self, request: HttpRequest) -> Answer | None:
        """The document of the API, for whoever asks."""
        if request.segments == ("api-description",):
            return self._document
        if request.segments:
            return None
        if request.method != "OPTIONS":
            raise MethodNotAllowedError(NO_METHOD)
        return self._document

    def _checked_token(self, request: HttpRequest) -> Answer | None:
        """Refuses who has no token, and renews one for who asks; browsers send none when they ask what they may send."""
        tokens = self._api.tokens
        if tokens is None or not self._keys:
            return None
        authorization = request.headers.get("authorization", "")
        if "management" in self._parts and request.segments[:1] == ("token",):
            tokens.renew(authorization, next((value for name, value in request.query if name == "type"), None))
            return Answer(200, b"\n", b"application/json")
        is_preflight = request.method == "OPTIONS" and "access-control-request-method" in request.headers
        if not (is_preflight and self._cross_origin):
            tokens.check(authorization, self._keys)
        return None

    def _common(self, scope: Any) -> Headers:
        """Headers of every answer to a client: whether it may go on using the connection is told, too."""
        return self._kept if scope["http_version"] == "1.1" and CLOSE not in scope["headers"] else self._cross_origin

    async def _predict(
        self, call: Call, request: HttpRequest, exchange: Exchange, receive: Receive, send: Any, common: Headers
    ) -> Answer | None:
        inference = self._api.inference
        if request.method == "OPTIONS":
            return inference.described(call, request)
        if call.name is not None:
            inference.find(call, request)
        request = await with_body(request, receive, self._limit_bytes, self._api.held)
        exchange.bytes_in = len(request.body)
        asked = inference.prediction(call, request)
        return await inference.predict(asked, request, exchange, receive, send, common)

    async def _other(self, request: HttpRequest) -> Answer | None:
        if "metrics" in self._parts and (answer := self._api.metrics(request)) is not None:
            return answer
        if "inference" in self._parts and (answer := await self._api.inference.answer(request)) is not None:
            return answer
        return await self._api.management.answer(request) if "management" in self._parts else None


def _log(files: DialectLogs, exchange: Exchange, scope: Any) -> None:
    """A line of the access log, with the request's target as it was sent."""
    target = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
    query = scope["query_string"].decode("latin-1")
    elapsed_s = time.monotonic() - exchange.started
    shown = f"{target}?{query}" if query else target
    files.access(scope["client"], scope["method"], shown, f"HTTP/{scope['http_version']}", exchange.status, elapsed_s)
