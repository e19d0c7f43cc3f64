"""Builds the Litestar application."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import structlog
from litestar import Litestar, Request, Response, asgi, route
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import Receive, Scope, Send

from flowyard.platform.access.keyring import Keyring
from flowyard.platform.error_rates import ErrorRates
from flowyard.platform.http import openapi
from flowyard.platform.http.access import CALLED, SWITCHED_OFF, Access, Refusal
from flowyard.platform.http.bodies import ClientGoneError
from flowyard.platform.http.kserve.api import KServe
from flowyard.platform.http.mms.api import Mms
from flowyard.platform.http.native.adapters import AdapterControl
from flowyard.platform.http.native.direct import DirectPredictions
from flowyard.platform.http.native.errors import NO_METHOD, NO_ROUTE, error_body, to_json
from flowyard.platform.http.native.health import ping, ping_below, ping_by_any_method
from flowyard.platform.http.native.management import Models, Workflows, describe_endpoint, trace
from flowyard.platform.http.native.methods import Methods
from flowyard.platform.http.native.predictions import Predictions, request_id_of
from flowyard.platform.http.native.registry import audit, state
from flowyard.platform.http.native.targets import is_prediction
from flowyard.platform.http.native.telemetry import djl_metrics, metrics, set_log_level
from flowyard.platform.http.torchserve.api import EMPTY, TorchServe
from flowyard.platform.registry.history import CALLER
from flowyard.platform.registry.registry import Registry
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.dialect_logs import DialectLogs
from flowyard.platform.telemetry.exposition import Exposition
from flowyard.platform.telemetry.logs import Logs
from flowyard.platform.telemetry.traces import Traces
from flowyard.platform.telemetry.traffic import Exchange, Traffic
from flowyard.schemas.errors import (
    FlowyardError,
    InternalError,
    InvalidRequestError,
    MemoryFullError,
    MethodNotAllowedError,
    NotFoundError,
    storage_error,
)

log = structlog.stdlib.get_logger(__name__)
HttpRequest = Request[Any, Any, State]

#: No answer of the management API is to be kept, as DJL says (§1.1).
NOT_CACHED = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)


class _Application(Litestar):
    """Litestar without its plugins for Pydantic and attrs, which are none of ours and whose import takes 0.1 s of every start."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def build_app(registry: Registry, traffic: Traffic, logs: Logs, keyring: Keyring) -> FrontDoor:
    """The application of the native API.

    Args:
        registry: What is registered. Its life is its owner's: the application neither opens nor closes it.
        traffic: Is told of every request.
        logs: The log of the process.
        keyring: The tokens.

    Returns:
        The ASGI application.
    """
    predictions = Predictions(registry, traffic)
    rates = _error_rates(registry.settings)
    exposition = Exposition()

    @asgi(["/predictions"], is_mount=True, copy_scope=False)
    async def predict(scope: Scope, receive: Receive, send: Send) -> None:
        await predictions(scope, receive, send)

    app = _Application(
        [
            Models,
            Workflows,
            AdapterControl,
            ping,
            ping_by_any_method,
            ping_below,
            metrics,
            djl_metrics,
            set_log_level,
            describe_endpoint,
            trace,
            state,
            audit,
            describe_api,
            nothing_here,
            predict,
        ],
        dependencies={
            "registry": Provide(lambda: registry, sync_to_thread=False),
            "error_rates": Provide(lambda: rates, sync_to_thread=False),
            "traffic": Provide(lambda: traffic, sync_to_thread=False),
            "logs": Provide(lambda: logs, sync_to_thread=False),
            "exposition": Provide(lambda: exposition, sync_to_thread=False),
            "traces": Provide(lambda: predictions.traces, sync_to_thread=False),
        },
        exception_handlers={Exception: _on_error},
        openapi_config=OpenAPIConfig(
            title="flowyard", version=version("flowyard"), path="/schema", render_plugins=[openapi.Document()]
        ),
        logging_config=None,
    )
    access = Access(registry.settings, keyring)
    direct = DirectPredictions(registry, traffic, access, rates)
    id_header = registry.settings.request_id_header_key
    return FrontDoor(app, predictions, direct, KServe(registry, traffic), traffic, rates, access, id_header)


def build_dialects(
    registry: Registry, traces: Traces, log_files: DialectLogs | None = None, kept: Mapping[str, str] = EMPTY
) -> dict[str, TorchServe | Mms]:
    """The other servers' APIs that the settings ask for, by name.

    Args:
        registry: What is registered, whatever API it was registered through.
        traces: Keeps the timelines of runs that are too long for a header.
        log_files: The log files of the first of them, `None` for none.
        kept: Keys of a TorchServe's configuration that do nothing here.

    Raises:
        InvalidRequestError: The file of TorchServe's tokens cannot be written, or that of its metrics cannot be read.
    """
    wanted = list(dict.fromkeys(name.lower() for name in registry.settings.dialects))
    files = {name: log_files if name == wanted[0] else None for name in wanted}
    return {
        name: TorchServe(registry, traces, files[name], kept) if name == "torchserve" else Mms(registry, traces, files[name])
        for name in wanted
    }


def _error_rates(settings: Settings) -> ErrorRates:
    limits = {"wlm": settings.error_rate_wlm, "server": settings.error_rate_server, "any": settings.error_rate_any}
    return ErrorRates(limits, (settings.wlm_error_http_code, settings.throttle_error_http_code), time.monotonic)


@route("/", http_method=["OPTIONS"], include_in_schema=False)
async def describe_api(request: HttpRequest) -> Response[bytes]:
    """The OpenAPI document, where TorchServe has it."""
    return Response(to_json(openapi.document(request.app.openapi_schema.to_schema())), media_type="application/json")


@route("/", http_method=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def nothing_here() -> None:
    """Nothing is at the root: that is a 404, although the path is known (DJL §1.2)."""
    raise NotFoundError(NO_ROUTE)


class FrontDoor:
    """Where requests come in: predictions go straight to their handler, everything else through the Litestar application.

    The handler is a route of the application too; the way there, through its middleware and router, takes about 10 µs a request,
    a fifth of what the server spends on a small prediction. Answers of the application get their `x-request-id` here (DJL §1.1);
    predictions do it themselves. Who may not do what a request asks for is told so before anything else happens.

    Args:
        app: The application.
        predictions: The handler of predictions.
        direct: The direct way of those predictions that can take it; they do not come by here.
        kserve: The handler of everything under `/v2`.
        traffic: Is told of every request.
        rates: Gets the statuses of predictions where their failures are limited.
        access: Decides whether a request may go on.
        request_id_header: Header that the id of a request is read from.
    """

    def __init__(
        self,
        app: Litestar,
        predictions: Predictions,
        direct: DirectPredictions,
        kserve: KServe,
        traffic: Traffic,
        rates: ErrorRates,
        access: Access,
        request_id_header: str,
    ) -> None:
        self.app = app
        self.predictions = predictions
        self.direct = direct
        self.kserve = kserve
        self.traffic = traffic
        self._rates = rates
        self._access = access
        self._keyring = access.keyring
        self._id_header = request_id_header.lower()
        self._methods = Methods(app)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._keyring.is_required and (refusal := self._access.refusal(scope)) is not None:
            await self._refuse(refusal, scope, send)
            return
        path = scope["path"]
        if is_prediction(path):
            await self.predictions(scope, receive, self._counted(send) if self._rates else send)
            return
        if path.startswith("/v2/") or path == "/v2":
            await self.kserve(scope, receive, send)
            return
        if (refusal := self._access.change_refusal(scope)) is not None:
            await self._refuse(refusal, scope, send)
            return
        CALLER.set(_caller(scope))
        exchange = Exchange()
        given = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        request_id = request_id_of(given, self._id_header)
        header = (b"x-request-id", request_id.encode("latin-1"))

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = dict(NOT_CACHED) | dict(message["headers"])
                if message["status"] == 405 or b"allow" in own:
                    own[b"allow"] = self._methods.of(path).encode()
                message["headers"] = list(({header[0]: header[1]} | own).items())
            await send(message)

        try:
            await self.app(scope, exchange.receiving(receive), exchange.sending(send_with_id))
        finally:
            self.traffic.managed(exchange, scope, request_id)

    async def _refuse(self, refusal: Refusal, scope: Any, send: Any) -> None:
        """Answers a request that may not go on; it is counted and logged as any other."""
        exchange, path = Exchange(), scope["path"]
        exchange.prediction = is_prediction(path)
        if isinstance(refusal.error, MethodNotAllowedError):
            left = [method for method in self._methods.of(path).split(", ") if method not in SWITCHED_OFF]
            refusal = Refusal(refusal.error, ((b"allow", ", ".join(left).encode()),))
        request_id = await self._access.answer(refusal, scope, exchange.sending(send))
        self.traffic.ended(exchange, scope, request_id)

    def _counted(self, send: Any) -> Any:
        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._rates.answered(message["status"])
            await send(message)

        return counting


def _caller(scope: Any) -> str:
    """Who asks, for the history: the token's name, else the address it comes from; a socket file has none."""
    if (name := scope.get(CALLED)) is not None:
        return f"token {name}"
    client = scope.get("client")
    return client[0] if client and client[0] else "local"


def _on_error(request: HttpRequest, error: Exception) -> Response[bytes]:
    """Tells an error of the management API; what is no `FlowyardError` and not the router's is a defect of ours."""
    told = _translate(error)
    if isinstance(told, InternalError):
        log.error("request failed", path=request.scope["path"], exc_info=error)
    body = error_body(told)
    later = {"retry-after": "1"} if isinstance(told, MemoryFullError) else None
    return Response(to_json(body), status_code=body.code, headers=later, media_type="application/json")


def _translate(error: Exception) -> FlowyardError:
    match error:
        case FlowyardError():
            return error
        case NotFoundException():
            return NotFoundError(NO_ROUTE)
        case MethodNotAllowedException():
            return MethodNotAllowedError(NO_METHOD)
        case HTTPException() if error.status_code < 500:
            return InvalidRequestError(error.detail)
        case OSError() if (full := storage_error(error)) is not None:
            return full
        case ClientGoneError():
            return InvalidRequestError("the client went away")
        case _:
            return InternalError("internal error; the log has the details")
