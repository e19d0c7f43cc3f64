"""One call of a gRPC client: who may make it, what came with it, how it ends, and who is told of it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
import grpc.aio
import msgspec
import structlog
from google.protobuf.message import DecodeError

from flowyard.platform.http.native.predictions import request_id_of
from flowyard.platform.http.torchserve.api import TorchServe
from flowyard.platform.http.torchserve.tokens import KeyKind
from flowyard.platform.registry.history import CALLER
from flowyard.platform.rpc.messages import POOL, Message, message_class
from flowyard.platform.rpc.statuses import Failure, failure_of, prediction_failure_of
from flowyard.platform.telemetry.traffic import Exchange, Traffic
from flowyard.schemas.errors import DeadlineError, FlowyardError, InternalError, InvalidRequestError, ShutDownError

log = structlog.stdlib.get_logger(__name__)

#: A deadline that is further away is none.
FOREVER_S = 10 * 365 * 86_400.0
#: Time that a call gets until its request is there, and more for every mebibyte that a request may have.
REQUEST_S, REQUEST_S_PER_MIB = 30.0, 1.0
_MIB = 1 << 20
#: By whether there may be several answers. All of them read their requests themselves: gRPC would wait for the request of a call
#: that has one as long as the client likes, in one of the places that there are for calls.
_KINDS = {False: grpc.stream_unary_rpc_method_handler, True: grpc.stream_stream_rpc_method_handler}


class Call:
    """One call.

    Args:
        path: Service and method.
        context: gRPC's.

    Attributes:
        headers: Its metadata, those that are text; of a repeated one the last value.
        request_id: The id that the server gives it.
        deadline: When the caller wants the answer, monotonic seconds; `None` for whenever.
        exchange: What metrics and log see of it.
        held_bytes: What its request, or the present one of several, takes.
        code: Its status, gRPC's number.
        scope: What it is called there.
    """

    __slots__ = ("_context", "code", "deadline", "exchange", "headers", "held_bytes", "request_id", "scope")

    def __init__(self, path: str, context: Any) -> None:
        self._context = context
        self.headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self.request_id = request_id_of({})
        left_s = context.time_remaining()
        self.deadline = time.monotonic() + left_s if left_s is not None and left_s < FOREVER_S else None
        self.exchange = Exchange()
        self.held_bytes = 0
        self.code = number_of(grpc.StatusCode.CANCELLED)
        self.scope: dict[str, Any] = {"method": "gRPC", "path": path, "client": client_of(context.peer())}

    async def send(self, reply: Message) -> None:
        """Sends one of several answers, as fast as the client takes them."""
        encoded = reply.SerializeToString()
        self.exchange.bytes_out += len(encoded)
        await self._context.write(encoded)


#: Answers a call: with a message, or with none where all have been sent. A call of many requests gets them one by one.
Act: TypeAlias = Callable[[Any, Call], Awaitable[Message | None]]


#: Takes the request of a call, or what its requests come by.
Read: TypeAlias = Callable[[Any, Call], Awaitable[Any]]


def request_limit_s(most_bytes: int) -> float:
    """Time that a call gets until its request is there: the larger it may be, the longer.

    Args:
        most_bytes: How long it may be.
    """
    return REQUEST_S + REQUEST_S_PER_MIB * most_bytes / _MIB


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service.

    Attributes:
        name: Its full name.
        key: Whose token a caller must have.
        acts: What answers its methods, by name; one that is missing is unimplemented.
        predicts: The methods that run a model.
        finishes: Whether a call that has begun goes on when its caller leaves.
    """

    name: str
    key: KeyKind
    acts: Mapping[str, Act]
    predicts: frozenset[str] = frozenset()
    finishes: bool = False


class Desk:
    """Takes the calls of one address.

    Args:
        api: Knows the tokens, and counts answers.
        traffic: Is told of every call.
        request_limit_s: Time that a call gets until its request, or the first one, is there.
    """

    def __init__(self, api: TorchServe, traffic: Traffic, request_limit_s: float) -> None:
        self._api = api
        self._traffic = traffic
        self._limit_s = request_limit_s
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unfinished: set[asyncio.Future[Any]] = set()

    def handlers(self, service: Service) -> Any:
        """What gRPC calls for a service."""
        found = {}
        for method in POOL.FindServiceByName(service.name).methods:
            if method.name not in service.acts:
                continue
            request_class = message_class(method.input_type.full_name)
            read = self._all if method.client_streaming else self._only
            answer = functools.partial(self._answer, service, method.name, functools.partial(read, request_class))
            found[method.name] = _KINDS[method.server_streaming](answer)
        return grpc.method_handlers_generic_handler(service.name, found)

    def stop(self) -> None:
        """The server stops: calls of many requests get no more of them."""
        if not self._stopping.done():
            self._stopping.set_result(None)

    async def finish(self, limit_s: float) -> None:
        """Waits for what goes on although its caller may have left."""
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=limit_s)

    async def _answer(self, service: Service, method: str, read: Read, requests: Any, context: Any) -> bytes | None:
        """Answers one call, whatever happens, unless its caller is gone."""
        call = Call(f"/{service.name}/{method}", context)
        exchange = call.exchange
        exchange.prediction = method in service.predicts
        client = call.scope["client"]
        CALLER.set(client[0] if client else "local")
        try:
            if self._api.tokens is not None:
                self._api.tokens.check(call.headers.get("authorization", ""), (service.key,))
            given = await read(requests, call)
            answering = service.acts[method](given, call)
            reply = await (self._finished(answering) if service.finishes else answering)
            exchange.status, call.code = 200, number_of(grpc.StatusCode.OK)
            if reply is None:
                return None
            encoded: bytes = reply.SerializeToString()
            exchange.bytes_out = len(encoded)
            return encoded
        except FlowyardError as error:
            tell = prediction_failure_of if exchange.prediction else failure_of
            await self._fail(tell(error), call, context)
        except Exception:
            log.exception("call failed", request_id=call.request_id, path=call.scope["path"])
            await self._fail(failure_of(InternalError("internal error; the log has the details")), call, context)
        finally:
            self._api.held.give_back(call.held_bytes)
            self._api.answered(exchange.status)
            self._traffic.ended(exchange, call.scope, call.request_id)
            self._log(call, f"{service.name}/{method}")
        return None

    def _log(self, call: Call, method: str) -> None:
        """A line of the access log, as TorchServe has it for gRPC."""
        files = self._api.log_files
        if files is not None:
            elapsed_s = time.monotonic() - call.exchange.started
            files.access(call.scope["client"], "gRPC", method, "HTTP/2.0", call.code, elapsed_s)

    @staticmethod
    async def _fail(failure: Failure, call: Call, context: Any) -> None:
        call.exchange.status, call.code = failure.status, number_of(failure.code)
        await context.abort(failure.code, failure.details)

    async def _only(self, request_class: Any, requests: Any, call: Call) -> Message:
        """The request of a call that has one.

        Raises:
            DeadlineError: It does not come.
        """
        try:
            async with asyncio.timeout(self._limit_s):
                request = await anext(requests, None)
        except TimeoutError:
            raise self._late() from None
        if request is None:
            raise InvalidRequestError("The call has no request.")
        return self._decoded(request_class, request, call)

    async def _all(self, request_class: Any, requests: Any, call: Call) -> AsyncIterator[Message]:
        """The requests of a call that has many."""
        return self._requests(request_class, requests, call)

    def _late(self) -> DeadlineError:
        return DeadlineError(f"The request has not come within {self._limit_s:g} s.")

    async def _requests(self, request_class: Any, requests: Any, call: Call) -> AsyncIterator[Message]:
        """They come one by one; the first one in time, and none any more once the server stops."""
        limit_s: float | None = self._limit_s
        while True:
            reading = asyncio.ensure_future(anext(requests, None))
            try:
                await asyncio.wait([reading, self._stopping], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    raise ShutDownError("the server is stopping") if self._stopping.done() else self._late()
                request = reading.result()
                limit_s = None
            finally:
                reading.cancel()
            if request is None:
                return
            yield self._decoded(request_class, request, call)

    def _decoded(self, request_class: Any, request: bytes, call: Call) -> Message:
        held = self._api.held
        held.give_back(call.held_bytes)
        call.held_bytes = 0
        held.take(len(request))
        call.held_bytes = len(request)
        call.exchange.bytes_in += len(request)
        try:
            message: Message = request_class.FromString(request)
        except DecodeError:
            raise InvalidRequestError(f"The request is no {request_class.DESCRIPTOR.full_name}.") from None
        return message

    async def _finished(self, answering: Awaitable[Message | None]) -> Message | None:
        """Goes on to the end even if nobody waits for it any more: a change is not left half made."""
        task = asyncio.ensure_future(answering)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_left)
            raise


def _left(task: asyncio.Future[Any]) -> None:
    """A call has ended whose caller had left before."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a call failed after its caller had left", reason=str(error))


def number_of(code: grpc.StatusCode) -> int:
    """The number of a status."""
    number: int = code.value[0]
    return number


def client_of(peer: str) -> tuple[str, int] | None:
    """The client's address, of what gRPC says of it: `ipv4:127.0.0.1:9000`, `ipv6:%5B::1%5D:9000`."""
    family, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    return (host.strip("[]"), int(port)) if family in ("ipv4", "ipv6") and port.isdecimal() else None
