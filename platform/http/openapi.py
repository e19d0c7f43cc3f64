"""The OpenAPI document: what Litestar derives from the handlers, and the data plane, which has no typed handlers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
from litestar import MediaType, Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

from flowyard.platform.http.access import is_switched_off, need_of
from flowyard.platform.http.kserve import documented as kserve
from flowyard.platform.http.native import documented as management
from flowyard.platform.http.native.errors import ErrorBody, to_json
from flowyard.platform.telemetry.exposition import CONTENT_TYPES
from flowyard.platform.telemetry.logs import LEVELS
from flowyard.schemas.tensors import Signature, TensorSpec

JSON = dict[str, Any]
#: The server asks for it once it has a token.
_SCHEME = "token"
_SCHEMES = {_SCHEME: {"type": "http", "scheme": "bearer", "description": "One made by `flowyard tokens create`."}}
_KINDS = {"bool": "boolean", "string": "string"}


class Document(OpenAPIRenderPlugin):
    """Serves the document as JSON at `/schema`."""

    def __init__(self) -> None:
        super().__init__(path=["/", "/openapi.json"], media_type=MediaType.JSON)

    def render(self, request: Request[Any, Any, Any], openapi_schema: JSON) -> bytes:
        """The document's text."""
        return to_json(document(openapi_schema))


def document(derived: JSON) -> JSON:
    """The OpenAPI 3.1 document of the whole API.

    Args:
        derived: What Litestar derives from the handlers.

    Returns:
        The same with the data plane's paths, ready for JSON.
    """
    paths = {path: _documented(item) for path, item in derived["paths"].items()}
    schema = derived | {"paths": paths, "components": dict(derived.get("components", {}))}
    schema["components"]["schemas"] = schema["components"].get("schemas", {}) | management.components()
    schema["paths"]["/predictions/{name}"] = {"post": _prediction("predict", versioned=False), "delete": _cancellation()}
    schema["paths"]["/predictions/{name}/{version}"] = {"post": _prediction("predictVersion", versioned=True)}
    schema["paths"]["/models/{name}/invoke"] = {"post": _prediction("invokeModel", versioned=False)}
    for path, operation in (("/invocations", "invoke"), ("/v1/chat/completions", "completeChat")):
        schema["paths"][path] = {"post": _nameless(operation)}
    schema["paths"] |= kserve.paths()
    for path in ("/metrics", "/server/metrics"):
        schema["paths"][path] = {"get": schema["paths"][path]["get"] | _metrics()}
    path = "/server/logging"
    schema["paths"][path] = {method: operation | _log_level() for method, operation in schema["paths"][path].items()}
    schema["paths"] = {path: _guarded(path, item) for path, item in schema["paths"].items()}
    schema["components"]["securitySchemes"] = _SCHEMES
    return schema


def _guarded(path: str, item: JSON) -> JSON:
    """The operations of a path with what they answer to whom they are not for."""
    return {method: operation | _refusals(path, method.upper(), operation) for method, operation in item.items()}


def _refusals(path: str, method: str, operation: JSON) -> JSON:
    need = need_of(path, method)
    if need == "none":
        return {}
    refused = {"401": "There are tokens, and the request has none that is good."}
    if need != "any":
        refused["403"] = f"The token's scope is not {need}, or the server does not do this; the message says which."
    if is_switched_off(path, method):
        refused["405"] = "Registration and deletion are switched off."
    failure = kserve.failure if path.startswith("/v2") else _failure
    told = {status: failure(words) for status, words in refused.items()} | operation["responses"]
    return {"responses": told, "security": [{}, {_SCHEME: []}]}


def _documented(item: JSON) -> JSON:
    return {method: management.documented(operation) for method, operation in item.items()}


def _metrics() -> JSON:
    names = {
        "name": "name[]",
        "in": "query",
        "required": False,
        "description": "Only these metrics; can be given several times.",
        "schema": {"type": "array", "items": {"type": "string"}},
    }
    text: JSON = {media_type: {"schema": {"type": "string"}} for media_type in CONTENT_TYPES}
    told = {"200": {"description": "The metrics.", "content": text}, "400": _failure("An unknown parameter.")}
    return {"parameters": [names], "responses": told}


def _log_level() -> JSON:
    level = {
        "name": "level",
        "in": "query",
        "required": False,
        "description": "In any case; `info` when absent.",
        "schema": {"type": "string", "enum": sorted(LEVELS)},
    }
    done = {"type": "object", "properties": {"status": {"const": "OK"}}, "required": ["status"]}
    answers = {
        "200": {"description": "The level is set.", "content": {"application/json": {"schema": done}}},
        "400": _failure("An unknown level or parameter."),
    }
    return {"parameters": [level], "responses": answers}


def endpoint_document(name: str, version: str, signature: Signature) -> JSON:
    """The OpenAPI 3.1 document of one model or workflow.

    Args:
        name: Its name.
        version: Its version, empty for none.
        signature: What it takes and gives, as far as that is known.

    Returns:
        The document, ready for JSON. Sizes are told in words: a value one dimension short of its tensor counts as one row.
    """
    _, components = msgspec.json.schema_components([ErrorBody], ref_template="#/components/schemas/{name}")
    operation = _prediction("predict", versioned=False)
    operation["parameters"] = operation["parameters"][1:]
    if signature.inputs:
        operation["requestBody"] = {"content": _contents(_anything(), signature.inputs), "required": True}
    if signature.outputs:
        operation["responses"]["200"]["content"] = _contents(_results(), signature.outputs)
    operation["x-flowyard-signature"] = msgspec.to_builtins(signature)
    path = "/".join(["/predictions", *(quote(part, safe="") for part in (name, version) if part)])
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": version or "unversioned"},
        "paths": {path: _guarded(path, {"post": operation})},
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


def _contents(contents: JSON, tensors: tuple[TensorSpec, ...]) -> JSON:
    by_name = {
        "type": "object",
        "properties": {tensor.name: _tensor(tensor) for tensor in tensors},
        "required": [tensor.name for tensor in tensors],
    }
    schema = {"anyOf": [_tensor(tensors[0]), by_name]} if len(tensors) == 1 else by_name
    return contents | {"application/json": {"schema": schema}}


def _tensor(tensor: TensorSpec) -> JSON:
    """Nested lists of numbers, or of one dimension less; just something where the dtype or shape is not known."""
    words: JSON = {"description": str(tensor)}
    if tensor.shape is None:
        return words
    kind = "integer" if tensor.dtype.startswith(("int", "uint")) else _KINDS.get(tensor.dtype, "number")
    nested: list[JSON] = [{"type": kind} if tensor.dtype else {}]
    for _ in tensor.shape:
        nested.append({"type": "array", "items": nested[-1]})
    return words | ({"anyOf": [nested[-1], nested[-2]]} if len(nested) > 1 else nested[0])


def _anything() -> JSON:
    return {"application/json": {"schema": {}}, "application/octet-stream": {}, "multipart/form-data": {}}


def _prediction(operation: str, *, versioned: bool) -> JSON:
    parameters = [_path_parameter("name")] + ([_path_parameter("version")] if versioned else [])
    timeout = {
        "name": "X-Request-Timeout",
        "in": "header",
        "required": False,
        "description": "`300ms`, `2s`, `1m` or a number of seconds; then the answer is 504.",
        "schema": {"type": "string", "pattern": r"^(?!0+(\.0+)?(ms|s|m)?$)\d+(\.\d+)?(ms|s|m)?$"},
    }
    trace = {
        "name": "X-Flowyard-Trace",
        "in": "header",
        "required": False,
        "description": "1 asks for the timeline of the run, as JSON in the header of that name of the answer.",
        "schema": {"enum": ["0", "1"]},
    }
    failures = {
        "400": "The input does not fit, or the request cannot be read.",
        "404": "No such model or workflow.",
        "406": "The result cannot be told in a type that Accept allows.",
        "413": "The body is too large.",
        "424": "A handler or function of the workflow raised.",
        "500": "A defect of the server.",
        "503": "Queue full, workers gone, not ready or shut down.",
        "504": "The deadline has passed.",
        "507": "Out of memory.",
    }
    return {
        "tags": ["Predictions"],
        "summary": "Run a model or workflow",
        "operationId": operation,
        "parameters": [*parameters, timeout, trace, *_asynchronous()],
        "requestBody": {"content": _anything(), "required": False},
        "responses": {
            "200": {
                "description": "The result; of an asynchronous request nothing, or what has come so far.",
                "content": _results(),
            },
            "202": {"description": "Nothing has come of the asynchronous request yet."},
            "204": {"description": "The handler had nothing to answer."},
            "default": {"description": "A handler's answer with a status of its own.", "content": {"*/*": {}}},
        }
        | {status: _failure(text) for status, text in failures.items()},
    }


def _nameless(operation: str) -> JSON:
    """A prediction whose path names no model: a parameter or header does, or the only one loaded at the start is meant."""
    told = _prediction(operation, versioned=False)
    names = {"model_name": "Model or workflow.", "model_version": "Its version."}
    in_query = [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in names.items()
    ]
    return told | {"parameters": [*in_query, *told["parameters"][1:]]}


def _cancellation() -> JSON:
    token = _header("x-starting-token", "Token of the asynchronous request.", {"type": "string"}) | {"required": True}
    status: JSON = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    return {
        "tags": ["Predictions"],
        "summary": "Take an asynchronous request back, or forget its result",
        "operationId": "cancelPrediction",
        "parameters": [_path_parameter("name"), token],
        "responses": {
            "200": {"description": "It is gone.", "content": {"application/json": {"schema": status}}},
            "400": _failure("There is no such request, or not any more."),
            "404": _failure("No such model or workflow."),
        },
    }


def _asynchronous() -> list[JSON]:
    """Headers of asynchronous requests."""
    return [
        _header("x-synchronous", "`false`: answer at once, with `x-next-token`.", {"type": "string", "enum": ["true", "false"]}),
        _header("x-starting-token", "Fetches what has come of an asynchronous request.", {"type": "string"}),
        _header("x-max-items", "Most items that are fetched.", {"type": "integer", "minimum": 1, "maximum": 1_000_000_000}),
    ]


def _header(name: str, description: str, schema: JSON) -> JSON:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _path_parameter(name: str) -> JSON:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _results() -> JSON:
    """What a result may be; a handler says itself of which type its answer is."""
    return {"application/json": {"schema": {}}, "text/plain": {}, "application/octet-stream": {}, "*/*": {}}


def _failure(text: str) -> JSON:
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}
