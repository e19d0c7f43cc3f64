"""The adapters of a model: /models/{model}/adapters, and /adapters of the one model that was loaded at the start (DJL §1.11)."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method
from litestar.types.internal_types import PathParameterDefinition

from flowyard.platform.http.native import views
from flowyard.platform.http.native.errors import ErrorBody
from flowyard.platform.http.native.management import answer, query
from flowyard.platform.http.native.parameters import AdapterSet, Nothing, Page
from flowyard.platform.http.native.registrations import HttpRequest, document
from flowyard.platform.registry.adapters import Served, check_adapter, served, served_by
from flowyard.platform.registry.registry import Registry
from flowyard.schemas.adapters import Adapter
from flowyard.schemas.errors import AnsweredError, InvalidRequestError, OutOfMemoryError

NO_MODEL = "The adapter must be prefixed with a model unless there is only a single startup model used."
ALIAS = "x-amzn-sagemaker-adapter-alias"

ALL = ["/models/{name:str}/adapters", "/adapters"]
ONE = ["/models/{name:str}/adapters/{adapter:str}", "/adapters/{adapter:str}"]
UPDATE = [f"{path}/update" for path in ONE]


def _operation(handler: HTTPRouteHandler, method: Method, path: Sequence[str | PathParameterDefinition]) -> str:
    """Operation ids of handlers that are there with and without a model: `listAdaptersOfModel`, `listAdapters`."""
    verb, _, noun = handler.fn.__name__.partition("_")
    return f"{verb}{noun.title()}{'OfModel' if path[0] == 'models' else ''}"


class AdapterControl(Controller):
    """Lists, registers, changes and removes the adapters of a model."""

    tags = ("Adapters",)

    @get(ALL, summary="List the adapters", operation_id=_operation)
    async def list_adapters(self, request: HttpRequest, registry: Registry) -> Response[bytes]:
        """Lists the adapters of a model, in the order they were registered."""
        page = query(request, Page)
        adapters = list(_served(request, registry).adapters)
        end = page.next_page_token + page.limit
        shown = [views.AdapterView.of(adapter) for adapter in adapters[page.next_page_token : end]]
        return answer(views.AdapterList(adapters=shown, next_page_token=str(end) if end < len(adapters) else None))

    @post(ALL, status_code=200, summary="Register an adapter", operation_id=_operation)
    async def register_adapter(self, request: HttpRequest, registry: Registry) -> Response[bytes]:
        """Has the model's handler load an adapter; `name` and `src` are required, every other parameter is handed to it."""
        model = _served(request, registry)
        options = _options(request)
        for required in ("name", "src"):
            if not options.get(required):
                raise InvalidRequestError(f"The parameter {required} is required")
        adapter = Adapter(name=options["name"], src=options["src"], options=options, alias=_alias(request))
        check_adapter(adapter)
        return await _changed(registry, model, model.adapters.register(adapter))

    @get(ONE, summary="Describe an adapter", operation_id=_operation)
    async def describe_adapter(self, request: HttpRequest, registry: Registry, adapter: str) -> Response[bytes]:
        """Tells what is known of an adapter."""
        query(request, Nothing)
        return answer(views.AdapterView.of(_served(request, registry).adapters.find(adapter, _alias(request))))

    @post(UPDATE, status_code=200, summary="Change an adapter", operation_id=_operation)
    async def update_adapter(self, request: HttpRequest, registry: Registry, adapter: str) -> Response[bytes]:
        """Has the model's handler change an adapter; what is not said stays as it was."""
        model = _served(request, registry)
        options, alias = _options(request), _alias(request)

        def change(found: Adapter) -> Adapter:
            return _changed_by(found, options, alias)

        check_adapter(change(model.adapters.find(adapter, alias)))
        return await _changed(registry, model, model.adapters.update(adapter, change, alias))

    @delete(ONE, status_code=200, summary="Unregister an adapter", operation_id=_operation)
    async def unregister_adapter(self, request: HttpRequest, registry: Registry, adapter: str) -> Response[bytes]:
        """Has the model's handler drop an adapter."""
        query(request, Nothing)
        model = _served(request, registry)
        return await _changed(registry, model, model.adapters.unregister(adapter, _alias(request)))

    @put(
        "/models/{name:str}/{version:str}/adapters",
        summary="Set the adapters of one version",
        operation_id="setAdapters",
    )
    async def set_adapters(self, request: HttpRequest, registry: Registry, name: str, version: str) -> Response[bytes]:
        """Makes the adapters of a model of this version these and no others, or leaves them all as they are."""
        asked = await document(request, registry, AdapterSet)
        (entry,) = registry.endpoints.versions(name, version)
        seen: set[str] = set()
        for spec in asked.adapters:
            check_adapter(spec.adapter())
            if spec.name in seen:
                raise InvalidRequestError(f"The adapter {spec.name} is listed twice.")
            seen.add(spec.name)
        model = served_by(entry, asked.model)
        return await _changed(registry, model, model.adapters.replace(asked.adapters))


def _served(request: HttpRequest, registry: Registry) -> Served:
    # Not an argument of the handlers: where the path has none, that would be the query's `name`.
    name = request.path_params.get("name", registry.default_name)
    if name is None:
        raise InvalidRequestError(NO_MODEL)
    return served(registry.endpoints, name)


def _alias(request: HttpRequest) -> str:
    return str(request.headers.get(ALIAS, ""))


def _options(request: HttpRequest) -> dict[str, str]:
    """The parameters that are given once (DJL §1.11)."""
    return {name: values[0] for name, values in request.query_params.dict().items() if len(values) == 1}


def _changed_by(found: Adapter, options: dict[str, str], alias: str) -> Adapter:
    moved = options.get("src", found.src) != found.src
    return msgspec.structs.replace(
        found,
        src=options.get("src") or found.src,
        options=found.options | options,
        alias=alias or found.alias,
        within="" if moved else found.within,
    )


async def _changed(registry: Registry, model: Served, change: Coroutine[Any, Any, str]) -> Response[bytes]:
    """Carries out a change; what a handler answers that refuses it is told as DJL tells it."""
    try:
        return answer(views.Status(await registry.change_adapters(model, change)))
    except AnsweredError as error:
        code = error.answer.code if error.answer is not None else 424
        return answer(ErrorBody(code=code, type="BadRequestException", message=error.message), code)
    except OutOfMemoryError as error:
        # The exception's own text, without its class (DJL §2.8).
        return answer(ErrorBody(code=507, type="BadRequestException", message=error.message.partition(": ")[2]), 507)
