"""`/ping`: whether the server can answer (DJL §2.6)."""

from __future__ import annotations

from litestar import Response, get, route
from litestar.openapi import ResponseSpec

from flowyard.platform.error_rates import ErrorRates
from flowyard.platform.http.native import views
from flowyard.platform.http.native.management import answer
from flowyard.platform.registry.registry import Registry

_HEALTH = dict[str, views.Health]
_ANSWERS = {
    200: ResponseSpec(_HEALTH, generate_examples=False, description="The health of every model."),
    207: ResponseSpec(_HEALTH, generate_examples=False, description="Something is being loaded (setting allow_multi_status)."),
    500: ResponseSpec(_HEALTH, generate_examples=False, description="Something could not be loaded."),
    503: ResponseSpec(_HEALTH, generate_examples=False, description="Too many errors of late (settings error_rate_*)."),
}


@get("/ping", summary="Health", operation_id="ping", tags=["Health"], responses=_ANSWERS)
async def ping(registry: Registry, error_rates: ErrorRates) -> Response[bytes]:
    """Tells the health of every model.

    503 when there were too many errors of late, 500 when a model has failed, 207 while one is being loaded, where the settings
    say so, else 200.
    """
    return _health(registry, error_rates)


@route("/ping", http_method=["POST", "PUT", "DELETE", "PATCH", "HEAD"], include_in_schema=False)
async def ping_by_any_method(registry: Registry, error_rates: ErrorRates) -> Response[bytes]:
    """DJL Serving does not mind the method."""
    return _health(registry, error_rates)


@route("/ping/{rest:path}", http_method=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"], include_in_schema=False)
async def ping_below(registry: Registry, error_rates: ErrorRates, rest: str) -> Response[bytes]:
    """Nor what follows."""
    del rest
    return _health(registry, error_rates)


def _health(registry: Registry, error_rates: ErrorRates) -> Response[bytes]:
    found = views.health(registry.endpoints)
    states = {health.status for health in found.values()}
    if error_rates.exceeded():
        status = 503
    elif "FAILED" in states:
        status = 500
    else:
        status = 207 if "PENDING" in states and registry.settings.allow_multi_status else 200
    return answer(found, status)
