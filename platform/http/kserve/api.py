"""The protocol's calls: one raw ASGI handler for everything under `/v2`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version as installed_version
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

import msgspec
import structlog

from flowyard.platform.calls import Asked
from flowyard.platform.execution import execute
from flowyard.platform.http.bodies import ClientGoneError, Receive, read_body
from flowyard.platform.http.kserve.bodies import HEADER_LENGTH, outputs_of, read_request, write_answer
from flowyard.platform.http.kserve.tensors import Tensor, told, write_json
from flowyard.platform.http.native.errors import NO_METHOD, NO_ROUTE, error_body
from flowyard.platform.http.native.predictions import Watch, deadline_of, priority_of, request_id_of
from flowyard.platform.http.request import request_properties
from flowyard.platform.memo import remembered
from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.registry import Registry
from flowyard.platform.shadows import mirror
from flowyard.platform.telemetry.traffic import Exchange, Traffic
from flowyard.platform.workers.process import Outcome
from flowyard.schemas.codecs import ndlist
from flowyard.schemas.codecs.content import value_of_message
from flowyard.schemas.codecs.registry import BY_TYPE
from flowyard.schemas.errors import (
    AnsweredError,
    FlowyardError,
    InternalError,
    MethodNotAllowedError,
    ModelNotFoundError,
    NotFoundError,
)
from flowyard.schemas.messages import BODY, DATA, REQUEST_ID, Handlers, Message
from flowyard.schemas.payload import Payload
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Value

log = structlog.stdlib.get_logger(__name__)

Send: TypeAlias = Callable[[Any], Awaitable[None]]

#: The status of what is not ready (DJL §1.12).
NOT_READY = 424
PLATFORMS = {"PyTorch": "pytorch_torchscript", "OnnxRuntime": "onnx_onnxv1"}
EXTENSIONS = ("binary_tensor_data",)


class Route(NamedTuple):
    """What a path means.

    Attributes:
        call: The method of `KServe` that answers it.
        name: The model, empty where the server is meant.
        version: Its version, `None` for none.
    """

    call: str
    name: str = ""
    version: str | None = None


class Reply(NamedTuple):
    """An answer: status, body, further headers."""

    status: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()


class TensorsPayload(Payload):
    """Input tensors: a value for models, an NDList for DJL's handlers (DJL §1.12), for TorchServe's the request in JSON."""

    __slots__ = ("_headers", "_request_id", "_tensors")

    def __init__(self, value: Value, tensors: Sequence[Tensor], headers: Mapping[str, str], request_id: str) -> None:
        super().__init__()
        self._value = value
        self._has_value = True
        self._tensors = tensors
        self._headers = headers
        self._request_id = request_id

    def for_handler(self, handlers: Handlers) -> Message:
        """One content, the tensors; no content type, as the request's is not theirs.

        Args:
            handlers: Whose kind the handler is of.

        Raises:
            NotAcceptableError: A tensor that an NDList cannot hold.
        """
        headers = {name: value for name, value in self._headers.items() if name not in ("content-type", HEADER_LENGTH)}
        if handlers != "djl":
            body = msgspec.json.encode({"inputs": [write_json(tensor) for tensor in self._tensors]})
            properties = (*headers.items(), (REQUEST_ID, self._request_id))
            return Message(properties=properties, contents=((BODY, body),), types=("application/json",))
        encoded = ndlist.encode({tensor.name: tensor.array for tensor in self._tensors})
        return Message(properties=request_properties(headers, self._request_id), contents=((DATA, encoded),))


class KServe:
    """Answers everything under `/v2`.

    Args:
        registry: Where the endpoints are.
        traffic: Is told of every request.
    """

    def __init__(self, registry: Registry, traffic: Traffic) -> None:
        self._registry = registry
        self._id_header = registry.settings.request_id_header_key.lower()
        self._traffic = traffic
        self._watch = Watch()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request, unless its client is gone."""
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        request_id = request_id_of(headers, self._id_header)
        exchange = Exchange()
        try:
            reply = await self._reply(exchange, scope, receive, headers, request_id)
            exchange.status = reply.status
            exchange.bytes_out = len(reply.body)
            start = [
                *reply.headers,
                (b"content-length", str(len(reply.body)).encode()),
                (b"x-request-id", request_id.encode("latin-1")),
            ]
            await send({"type": "http.response.start", "status": reply.status, "headers": start})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})
        except ClientGoneError:
            return
        finally:
            self._registry.held.give_back(exchange.bytes_in)
            self._traffic.ended(exchange, scope, request_id)

    async def _reply(
        self, exchange: Exchange, scope: Mapping[str, Any], receive: Receive, headers: dict[str, str], request_id: str
    ) -> Reply:
        try:
            return await self._answer(exchange, scope, receive, headers, request_id)
        except ClientGoneError:
            raise
        except FlowyardError as error:
            return _failure(error)
        except Exception:
            log.exception("inference failed", request_id=request_id, path=scope["path"])
            return _failure(InternalError("internal error; the log has the details"))

    async def _answer(
        self, exchange: Exchange, scope: Mapping[str, Any], receive: Receive, headers: dict[str, str], request_id: str
    ) -> Reply:
        route = route_of(scope["raw_path"])
        methods = ("POST",) if route.call == "infer" else ("GET", "HEAD")
        if scope["method"] not in methods:
            return _failure(MethodNotAllowedError(NO_METHOD), (b"allow", ", ".join(methods).encode()))
        match route.call:
            case "infer":
                return await self._infer(exchange, route, receive, headers, request_id)
            case "live":
                return Reply(200, b"\n", [(b"content-type", b"text/plain")])
            case "server":
                return _json({"name": "flowyard", "version": installed_version("flowyard"), "extensions": EXTENSIONS})
            case "ready":
                return self._ready(list(self._registry.endpoints))
        entries = self._entries(route)
        return self._ready(entries) if route.call == "model_ready" else _json(metadata(route.name, entries))

    def _entries(self, route: Route) -> list[Entry]:
        try:
            return self._registry.endpoints.versions(route.name, route.version)
        except ModelNotFoundError:
            raise ModelNotFoundError(f"Model not found: {route.name}") from None

    def _ready(self, entries: Sequence[Entry]) -> Reply:
        status = 200 if all(entry.status == "READY" for entry in entries) else NOT_READY
        return Reply(status, b"\n", [(b"content-type", b"text/plain")])

    async def _infer(self, exchange: Exchange, route: Route, receive: Receive, headers: dict[str, str], request_id: str) -> Reply:
        exchange.prediction = True
        self._entries(route)
        deadline, priority = deadline_of(headers), priority_of(headers)
        body = await read_body(receive, self._registry.settings.max_request_size, self._registry.held)
        exchange.bytes_in = len(body)
        deployment = self._registry.endpoints.route(route.name, route.version, headers)
        exchange.routed(deployment)
        request, tensors = read_request(headers, body)
        payload = TensorsPayload(_value(deployment, tensors), tensors, headers, request_id)
        asked = Asked(payload, headers, {}, request_id, deadline, priority)
        shadows = () if route.version else self._shadows(route.name)
        result = await self._run(deployment, asked, receive, shadows, exchange.bytes_in)
        if isinstance(result, FlowyardError):
            return _failure(result)
        message = result.message()
        if message is not None and message.is_failure:
            return _told_failure(message)
        names = [spec.name for spec in signature_of(deployment).outputs]
        outputs = outputs_of(_result(result), names, [output.name for output in request.outputs])
        version = {"model_version": deployment.version} if deployment.version else {}
        head = {"model_name": route.name} | version | ({"id": request.id} if request.id is not None else {})
        answer, length = write_answer(head, outputs, request)
        if length is None:
            return Reply(200, answer, [(b"content-type", b"application/json")])
        sizes = [(b"content-type", b"application/octet-stream"), (HEADER_LENGTH.encode(), str(length).encode())]
        return Reply(200, answer, sizes)

    def _shadows(self, name: str) -> Sequence[Entry]:
        return self._registry.endpoints.shadows.get(name, ())

    async def _run(
        self, deployment: Deployment, asked: Asked, receive: Receive, shadows: Sequence[Entry], body_bytes: int
    ) -> Outcome:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def on_answer(result: Outcome) -> None:
            if not outcome.done():
                outcome.set_result(result)

        execution = execute(deployment, asked, self._registry.endpoints.route, on_answer)
        execution.start()
        mirror(asked, shadows, self._registry.endpoints.route, body_bytes)
        result: Outcome = outcome.result() if outcome.done() else await self._watch.wait(outcome, execution, receive)
        return result


@remembered(1024)
def route_of(raw_path: bytes) -> Route:
    """What a path means; `versions` is the standard's word, `version` DJL's.

    Raises:
        NotFoundError: Nothing.
    """
    path = raw_path.decode("latin-1").split("?")[0].rstrip("/")
    match [unquote(segment) for segment in path.split("/")[2:]]:
        case []:
            return Route("server")
        case ["health", ("live" | "ready") as which]:
            return Route(which)
        case ["models", name, *rest] if name:
            version = None
            if len(rest) >= 2 and rest[0] in ("version", "versions"):
                version, rest = rest[1], rest[2:]
            match rest:
                case []:
                    return Route("model", name, version)
                case ["ready"]:
                    return Route("model_ready", name, version)
                case ["infer"]:
                    return Route("infer", name, version)
    raise NotFoundError(NO_ROUTE)


def metadata(name: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """A model's metadata: its versions, its platform, its inputs and outputs where they are known."""
    deployment = next((entry.deployment for entry in entries if entry.deployment is not None), None)
    signature = signature_of(deployment) if deployment is not None else Signature()
    return {
        "name": name,
        "versions": [entry.record.version for entry in entries if entry.record.version],
        "platform": _platform(deployment),
        "inputs": [told(spec) for spec in signature.inputs],
        "outputs": [told(spec) for spec in signature.outputs],
    }


def _platform(deployment: Deployment | None) -> str:
    if deployment is None:
        return ""
    if deployment.single is None:
        return "workflow"
    engine = deployment.single.spec.engine
    return PLATFORMS.get(engine, engine)


def signature_of(deployment: Deployment) -> Signature:
    """Inputs and outputs of what is one model; of a workflow nothing is known here."""
    known = deployment.single.signature if deployment.single is not None else None
    return known or Signature()


def _value(deployment: Deployment, tensors: Sequence[Tensor]) -> Value:
    """What the model is called with: a mapping by name where it has names or there are several, else the one array."""
    if len(tensors) == 1 and not signature_of(deployment).inputs:
        return tensors[0].array
    return {tensor.name: tensor.array for tensor in tensors}


def _result(result: Payload) -> Value:
    """The result as a value; a handler that says nothing about its answer's type means an NDList, as DJL takes it."""
    message = result.message()
    if message is not None and not message.get("content-type"):
        decoded = BY_TYPE[ndlist.MEDIA_TYPE].decode(message.data)
        return list(decoded.values()) if isinstance(decoded, dict) else decoded
    return value_of_message(message) if message is not None else result.value()


def _json(body: object) -> Reply:
    return Reply(200, msgspec.json.encode(body), [(b"content-type", b"application/json")])


def _failure(error: FlowyardError, *more: tuple[bytes, bytes]) -> Reply:
    if isinstance(error, AnsweredError) and error.answer is not None:
        return _told_failure(error.answer)
    body = error_body(error)
    headers = [(b"content-type", b"application/json"), *more]
    if body.code == 503:
        headers.append((b"retry-after", b"1"))
    return Reply(body.code, msgspec.json.encode({"error": body.message}), headers)


def _told_failure(message: Message) -> Reply:
    """What a handler says about its failure: its own text, and 400 or 500 as in DJL."""
    text = message.data.decode("utf-8", "replace") or message.reason
    body = msgspec.json.encode({"error": text})
    return Reply(500 if message.code >= 500 else 400, body, [(b"content-type", b"application/json")])
