"""The management API: /models and /workflows."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from flowyard.platform.http.bodies import Upload, content_type, read_body
from flowyard.platform.http.native import views
from flowyard.platform.http.native.errors import to_json
from flowyard.platform.http.native.parameters import Nothing, Page, RegisterModel, RegisterWorkflow, Scale, read
from flowyard.platform.registry.deployment import Scaling
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.registry import Request as Registration
from flowyard.schemas.errors import InvalidRequestError

HttpRequest = Request[Any, Any, State]
P = TypeVar("P", bound=msgspec.Struct)

BY_NAME = ["/{name:str}", "/{name:str}/{version:str}"]
#: Bytes of a JSON body with parameters; it holds names and numbers.
MAX_PARAMETERS_BYTES = 1 << 20


def answer(body: object, status: int = 200) -> Response[bytes]:
    """A management answer."""
    return Response(to_json(body), status_code=status, media_type="application/json")


def query(request: HttpRequest, kind: type[P]) -> P:
    """Reads the query parameters; of a repeated one the first counts (DJL §1.1)."""
    return read(kind, {name: request.query_params.getall(name)[0] for name in request.query_params}, text=True)


def _operation(handler: HTTPRouteHandler, method: Method, path: Sequence[str | PathParameterDefinition]) -> str:
    """Operation ids of handlers that serve both kinds, with and without a version: `describeModel`, `scaleWorkflowVersion`."""
    kind = "Model" if path[0] == "models" else "Workflow"
    return f"{handler.fn.__name__}{kind}{'Version' if len(path) > 2 else ''}"


class Registered(Controller):
    """What models and workflows have in common: both are endpoints with versions (DJL §0)."""

    @get(BY_NAME, summary="Describe it", operation_id=_operation)
    async def describe(self, request: HttpRequest, registry: Registry, name: str, version: str | None = None) -> Response[bytes]:
        """Tells all about each version: models and their settings, worker groups, queues."""
        query(request, Nothing)
        return answer([views.describe(entry) for entry in registry.endpoints.versions(name, version)])

    @put(BY_NAME, summary="Scale it", operation_id=_operation)
    async def scale(self, request: HttpRequest, registry: Registry, name: str, version: str | None = None) -> Response[bytes]:
        """Changes the number of workers of one version, or of all."""
        asked = query(request, Scale)
        device = registry.device(asked.device) if asked.device else None
        scaling = Scaling(asked.min_worker, asked.max_worker, device)
        count = await registry.scale(name, version, scaling, wait=asked.synchronous)
        if not asked.synchronous:
            return answer(views.Status("Worker updated"), 202)
        low, high = (-1 if number is None else number for number in (asked.min_worker, asked.max_worker))
        line = f'Workflow "{name}" worker scaled. New Worker configuration min workers:{low} max workers:{high}'
        return answer(views.Status("\n".join([line] * count)))

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
        async with _registration(request, registry, RegisterModel) as (parameters, registration):
            asked = msgspec.structs.replace(registration, name=parameters.model_name, version=parameters.model_version)
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
        """Registers the workflow archive at `url`, or the one in the body, and starts the workers of its models."""
        async with _registration(request, registry, RegisterWorkflow) as (_, registration):
            entry = await registry.register(msgspec.structs.replace(registration, kind="workflow"))
        return _registered("Workflow", entry.record.name, scheduled=not registration.wait)

    @get(summary="List workflows", operation_id="listWorkflows")
    async def list_workflows(self, request: HttpRequest, registry: Registry) -> Response[bytes]:
        """Lists workflows and single models with their versions, by name."""
        entries, token = _page(registry, query(request, Page))
        items = [
            views.WorkflowItem(workflow_name=entry.record.name, version=entry.record.version or None, status=entry.status)
            for entry in entries
        ]
        return answer(views.WorkflowList(workflows=items, next_page_token=token))


def _page(registry: Registry, page: Page) -> tuple[list[Any], str | None]:
    """The entries of a page of names, and the token of the next page when there is one (DJL §1.5)."""
    names = registry.endpoints.names()
    end = page.next_page_token + page.limit
    chosen = names[page.next_page_token : end]
    entries = [entry for name in chosen for entry in registry.endpoints.versions(name)]
    return entries, str(end) if end < len(names) else None


def _registered(kind: str, name: str, *, scheduled: bool) -> Response[bytes]:
    if scheduled:
        return answer(views.Status(f'{kind} "{name}" registration scheduled.'), 202)
    return answer(views.Status(f'{kind} "{name}" registered.'))


@contextlib.asynccontextmanager
async def _registration(
    request: HttpRequest, registry: Registry, kind: type[RegisterModel] | type[RegisterWorkflow]
) -> AsyncIterator[tuple[Any, Registration]]:
    """Reads what is to be registered: parameters from the query or a JSON body, or the archive itself as the body."""
    media_type, _ = content_type(request.headers.get("content-type", ""))
    if media_type == "application/json":
        body = await read_body(request.receive, MAX_PARAMETERS_BYTES)
        yield _by_url(read(kind, _json_object(body), text=False))
        return
    parameters = query(request, kind)
    if parameters.url:
        yield _by_url(parameters)
        return
    with registry.temporary_file() as path:
        upload = await _receive_upload(request, registry, path)
        merged = {name: request.query_params.getall(name)[0] for name in request.query_params} | upload.fields
        parameters = read(kind, merged, text=True)
        if not upload.length:
            raise InvalidRequestError("Parameter url is required, or the archive itself as the body of the request.")
        yield (
            parameters,
            Registration(
                upload=path,
                filename=upload.filename,
                spec=parameters.spec(),
                wait=parameters.synchronous,
                sha256=parameters.sha256 or "",
            ),
        )


def _by_url(parameters: Any) -> tuple[Any, Registration]:
    if not parameters.url:
        raise InvalidRequestError("Parameter url is required.")
    spec, wait = parameters.spec(), parameters.synchronous
    return parameters, Registration(url=parameters.url, spec=spec, wait=wait, sha256=parameters.sha256 or "")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidRequestError(f"The body is not a JSON object of parameters: {error}") from None


async def _receive_upload(request: HttpRequest, registry: Registry, path: Path) -> Upload:
    upload = Upload(path, registry.settings.max_archive_size_bytes)
    await upload.receive(request.receive, request.headers.get("content-type", ""))
    return upload
