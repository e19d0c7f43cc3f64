"""What the server tells about itself: `/metrics`, and DJL's `/server/metrics` and `/server/logging` (DJL §1.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from litestar import Request, Response, get, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from flowyard.platform.http.native import views
from flowyard.platform.http.native.errors import to_json
from flowyard.platform.http.negotiation import best_of
from flowyard.platform.registry.registry import Registry
from flowyard.platform.telemetry.exposition import CONTENT_TYPES, Exposition
from flowyard.platform.telemetry.logs import LEVELS, Logs
from flowyard.platform.telemetry.snapshot import Snapshot, take
from flowyard.platform.telemetry.traffic import Traffic
from flowyard.platform.workers import log_level
from flowyard.schemas.errors import InvalidRequestError

HttpRequest = Request[Any, Any, State]
#: The parameter that Prometheus' own clients have for it.
NAMES = "name[]"
LEVEL = "level"


def _operation(handler: HTTPRouteHandler, method: Method, path: Sequence[str | PathParameterDefinition]) -> str:
    """Every method does the same, but an operation of the document has one method."""
    return "setLogLevel" if method == "PUT" else f"setLogLevelBy{method.capitalize()}"


@get("/metrics", summary="Metrics", operation_id="metrics", tags=["Telemetry"])
async def metrics(request: HttpRequest, registry: Registry, traffic: Traffic, exposition: Exposition) -> Response[bytes]:
    """Tells all metrics as Prometheus reads them, or as OpenMetrics to those who accept it; `name[]` chooses some."""
    return await _told(request, take(registry, traffic), exposition.ours)


@get("/server/metrics", summary="DJL Serving's metrics", operation_id="djlMetrics", tags=["Telemetry"])
async def djl_metrics(request: HttpRequest, registry: Registry, traffic: Traffic, exposition: Exposition) -> Response[bytes]:
    """Tells the metrics that DJL Serving has, under its names; `name[]` chooses some."""
    return await _told(request, take(registry, traffic), exposition.djls)


@route(
    "/server/logging",
    http_method=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"],
    status_code=200,
    summary="Set the log level",
    operation_id=_operation,
    tags=["Telemetry"],
)
async def set_log_level(request: HttpRequest, logs: Logs) -> Response[bytes]:
    """Sets the level below which server and workers log nothing, until the server ends; `info` when none is named."""
    _check_names(request, LEVEL)
    level = request.query_params.getall(LEVEL, [""])[0] or "info"
    if level.lower() not in LEVELS:
        raise InvalidRequestError(f"Parameter level: {level[:100]!r} is not allowed; allowed is {' or '.join(LEVELS)}.")
    logs.set_level(level.lower())
    log_level.WORKERS.set(logs.level)
    return Response(to_json(views.Status("OK")), media_type="application/json")


async def _told(
    request: HttpRequest, snapshot: Snapshot, tell: Callable[[Snapshot, str, frozenset[str]], bytes]
) -> Response[bytes]:
    """Makes text of the numbers, in a thread: a server with a thousand models has a hundred thousand lines."""
    _check_names(request, NAMES)
    names = frozenset(name for name in request.query_params.getall(NAMES, []) if name)
    media_type = best_of(tuple(CONTENT_TYPES), request.headers.get("accept", ""))
    text = await asyncio.to_thread(tell, snapshot, media_type, names)
    return Response(text, media_type=CONTENT_TYPES[media_type])


def _check_names(request: HttpRequest, known: str) -> None:
    for name in request.query_params:
        if name != known:
            raise InvalidRequestError(f"Unknown parameter: {name}. Known are {known}.")
