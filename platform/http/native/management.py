"""The management API: /models and /workflows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from flowyard.platform.http import openapi
from flowyard.platform.http.native import views
from flowyard.platform.http.native.errors import to_json
from flowyard.platform.http.native.parameters import MAX_LIMIT, Nothing, Page, Rollback, Scale, read
from flowyard.platform.http.native.registrations import (
    HttpRequest,
    change,
    model_registration,
    query_values,
    workflow_registration,
)
from flowyard.platform.registry.entries import shown
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.scaling import Scaling
from flowyard.platform.registry.traffic import parse_weights
from flowyard.platform.telemetry.traces import Traces
from flowyard.schemas.errors import InvalidRequestError, ModelNotFoundError

P = TypeVar("P", bound=msgspec.Struct)

BY_NAME = ["/{name:str}", "/{name:str}/{version:str}"]
ROLLBACK = "/{name:str}/rollback"
SET_DEFAULT = "/{name:str}/{version:str}/set-default"


def answer(body: object, status: int = 200) -> Response[bytes]:
    """A management answer."""
    return Response(to_json(body), status_code=status, media_type="application/json")


def query(request: HttpRequest, kind: type[P]) -> P:
    """Reads the query parameters."""
    return read(kind, query_values(request), text=True)


def _operation(handler: HTTPRouteHandler, method: Method, path: Sequence[str | PathParameterDefinition]) -> str:
    """Operation ids of handlers that serve both kinds, with and without a version: `describeModel`, `scaleWorkflowVersion`."""
    kind = "Model" if path[0] == "models" else "Workflow"
    first, *others = handler.fn.__name__.split("_")
    return f"{first}{''.join(word.title() for word in others)}{kind}{'Version' if len(path) > 2 else ''}"


def _openapi_operation(handler: HTTPRouteHandler, method: Method, path: Sequence[str | PathParameterDefinition]) -> str:
    return f"readDocument{'Version' if len(path) > 2 else ''}"


class Registered(Controller):
    """What models and workflows have in common: both are endpoints with versions (DJL §0)."""

    @get(BY_NAME, summary="Describe it", operation_id=_operation)
    async def describe(self, request: HttpRequest, registry: Registry, name: str, version: str | None = None) -> Response[bytes]:
        """Tells all about each version: models and their settings, worker groups, queues."""
        query(request, Nothing)
        endpoints = registry.endpoints
        try:
            entries = endpoints.versions(name, version)
        except ModelNotFoundError:
            label = name if version is None else f"{name}/{version}"
            raise ModelNotFoundError(f"Workflow not found: {label}") from None
        return answer([views.describe(endpoints, entry) for entry in entries])

    @put(BY_NAME, summary="Scale it, or say what requests it gets", operation_id=_operation)
    async def scale(self, request: HttpRequest, registry: Registry, name: str, version: str | None = None) -> Response[bytes]:
        """Changes the number of workers of one version, or of all; the weights of all versions; or makes one a shadow."""
        asked = await change(request, registry, Scale)
        if asked.weights:
            return await _weigh(registry, name, version, asked)
        if asked.shadow is not None:
            return await _shadow(registry, name, version, asked)
        device = registry.device(asked.device) if asked.device else None
        scaling = Scaling(asked.min_worker, asked.max_worker, device, asked.model or None)
        count = await registry.scale(name, version, scaling, wait=asked.synchronous)
        if not asked.synchronous:
            return answer(views.Status("Worker updated"), 202)
        low, high = (-1 if number is None else number for number in (asked.min_worker, asked.max_worker))
        line = f'Workflow "{name}" worker scaled. New Worker configuration min workers:{low} max workers:{high}'
        return answer(views.Status("\n".join([line] * max(1, count))))

    @put(SET_DEFAULT, summary="Make it the default version", operation_id=_operation)
    async def set_default(self, request: HttpRequest, registry: Registry, name: str, version: str) -> Response[bytes]:
        """Lets this version answer the requests that name none, unless there are weights."""
        await change(request, registry, Nothing)
        await registry.set_default(name, version)
        return answer(views.Status(f'Default version successfully updated for workflow "{name}" to "{version}"'))

    @delete(SET_DEFAULT, status_code=200, summary="Make it an ordinary version", operation_id=_operation)
    async def clear_default(self, request: HttpRequest, registry: Registry, name: str, version: str) -> Response[bytes]:
        """Takes the choice of this version back: the versions take turns again."""
        query(request, Nothing)
        await registry.clear_default(name, version)
        return answer(views.Status(f'Workflow "{name}" has no default version'))

    @post(ROLLBACK, status_code=200, summary="Go back to an earlier version", operation_id=_operation)
    async def rollback(self, request: HttpRequest, registry: Registry, name: str) -> Response[bytes]:
        """Lets the version answer that was registered before the present one, or the one that is named."""
        asked = await change(request, registry, Rollback)
        record = await registry.rollback(name, asked.version or None)
        return answer(
            views.Status(f'Workflow "{name}" rolled back to {shown(name, record.version)}, registered {record.created}')
        )

    @delete(BY_NAME, status_code=200, summary="Unregister it", operation_id=_operation)
    async def unregister(
        self, request: HttpRequest, registry: Registry, name: str, version: str | None = None
    ) -> Response[bytes]:
        """Removes one version, or all. Requests that were accepted are finished first."""
        query(request, Nothing)
        await registry.unregister(name, version)
        return answer(views.Status(f'Workflow "{name}" unregistered'))


class Models(Registered):
    """Single models; each is a workflow of one node."""

    path = "/models"
    tags = ("Models",)

    @post(summary="Register a model", operation_id="registerModel")
    async def register(self, request: HttpRequest, registry: Registry) -> Response[bytes]:
        """Registers the model at `url`, or the one in the body, and starts its workers."""
        async with model_registration(request, registry) as asked:
            entry = await registry.register(asked)
        return _registered("Model", entry.record.name, scheduled=not asked.wait)

    @get(summary="List models", operation_id="listModels")
    async def list_models(self, request: HttpRequest, registry: Registry) -> Response[bytes]:
        """Lists the models of all workflows, by name."""
        entries, token = _page(registry, query(request, Page))
        return answer(views.ModelList(models=views.model_items(entries), next_page_token=token))


class Workflows(Registered):
    """Workflows: DAGs of models and functions."""

    path = "/workflows"
    tags = ("Workflows",)

    @post(summary="Register a workflow", operation_id="registerWorkflow")
    async def register(self, request: HttpRequest, registry: Registry) -> Response[bytes]:
        """Registers the workflow at `url`, of a `template` or in the body, and starts the workers of its models."""
        async with workflow_registration(request, registry) as asked:
            entry = await registry.register(asked)
        return _registered("Workflow", entry.record.name, scheduled=not asked.wait)

    @get(summary="List workflows", operation_id="listWorkflows")
    async def list_workflows(self, request: HttpRequest, registry: Registry) -> Response[bytes]:
        """Lists workflows and single models with their versions, by name."""
        entries, token = _page(registry, query(request, Page))
        return answer(views.WorkflowList(workflows=views.workflow_items(entries), next_page_token=token))


async def _weigh(registry: Registry, name: str, version: str | None, asked: Scale) -> Response[bytes]:
    asked.check_alone("weights")
    if version is not None:
        raise InvalidRequestError(f"Parameter weights is for all versions of a name: leave {version} out of the path.")
    await registry.set_weights(name, parse_weights(asked.weights))
    return answer(views.Status(f'Workflow "{name}" weights: {asked.weights}'))


async def _shadow(registry: Registry, name: str, version: str | None, asked: Scale) -> Response[bytes]:
    asked.check_alone("shadow")
    if version is None:
        raise InvalidRequestError(f"Parameter shadow is for one version of a name: {name}/VERSION.")
    await registry.set_shadow(name, version, on=bool(asked.shadow))
    state = "is a shadow" if asked.shadow else "is no shadow"
    return answer(views.Status(f'Workflow "{shown(name, version)}" {state}'))


@get(["/openapi/{name:str}", "/openapi/{name:str}/{version:str}"], summary="OpenAPI of one", operation_id=_openapi_operation)
async def describe_endpoint(request: HttpRequest, registry: Registry, name: str, version: str | None = None) -> Response[bytes]:
    """The OpenAPI document of one model or workflow: what it takes and gives, as far as its models say it."""
    query(request, Nothing)
    deployment = registry.endpoints.route(name, version)
    return answer(openapi.endpoint_document(deployment.name, deployment.version, deployment.signature))


@get("/traces/{trace_id:str}", summary="Timeline of a run", operation_id="readTrace", tags=["Predictions"])
async def trace(request: HttpRequest, traces: Traces, trace_id: str) -> Response[bytes]:
    """Tells what a request with `X-Flowyard-Trace: 1` did when, where that is too long for a header."""
    query(request, Nothing)
    return Response(traces.get(trace_id), media_type="application/json")


def _page(registry: Registry, page: Page) -> tuple[list[Any], str | None]:
    """The entries of a page of names, and the token of the next page when there is one (DJL §1.5)."""
    names = registry.endpoints.names()
    end = page.next_page_token + min(page.limit, MAX_LIMIT)
    chosen = names[page.next_page_token : end]
    entries = [entry for name in chosen for entry in registry.endpoints.versions(name)]
    return entries, str(end) if end < len(names) else None


def _registered(kind: str, name: str, *, scheduled: bool) -> Response[bytes]:
    done = "registration scheduled" if scheduled else "registered"
    told = answer(views.Status(f'{kind} "{name}" {done}.'), 202 if scheduled else 200)
    told.headers[views.NAME_HEADER] = name
    return told
