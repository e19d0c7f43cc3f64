"""The OpenAPI 3.0.1 documents of TorchServe and MMS: what `OPTIONS` answers (TorchServe reference §1.2).

Generators of clients name their functions by the operation ids; paths and ids are those of the originals, the texts are ours.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

Json: TypeAlias = dict[str, Any]
Part: TypeAlias = Literal["inference", "management", "metrics", "all"]

_ERROR: Json = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}},
}
_STATUS: Json = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
_OBJECT: Json = {"type": "object"}
_REFUSALS = {
    "400": "The request cannot be read, or asks for something that cannot be.",
    "403": "The default version cannot go while others are there.",
    "404": "No such model, version or resource.",
    "405": "The method is not allowed here.",
    "408": "It was not done in time.",
    "409": "That name and version are taken.",
    "413": "The request is too large.",
    "500": "The server or a worker failed.",
    "503": "No worker can answer now.",
    "507": "A worker had not enough memory.",
}


def _json(schema: Json, text: str) -> Json:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _refused(*codes: str) -> Json:
    return {code: _json(_ERROR, _REFUSALS[code]) if code != "413" else {"description": _REFUSALS[code]} for code in codes}


def _query(name: str, kind: str, text: str, default: Any = None, *, required: bool = False) -> Json:
    schema: Json = {"type": kind} | ({"default": default} if default is not None else {})
    return {"in": "query", "name": name, "required": required, "description": text, "schema": schema}


def _path(name: str, text: str) -> Json:
    return {"in": "path", "name": name, "required": True, "description": text, "schema": {"type": "string"}}


_MODEL = _path("model_name", "Name of the model.")
_VERSION = _path("model_version", "Version of the model.")
_ANY_BODY: Json = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
_ANY_ANSWER: Json = {
    "description": "What the model answers.",
    "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
}


def _operation(identity: str, text: str, parameters: list[Json], responses: Json, **more: Any) -> Json:
    return {"description": text, "operationId": identity, "parameters": parameters, "responses": responses, **more}


def _described(identity: str) -> Json:
    schema = {"type": "object", "required": ["openapi", "info", "paths"], "properties": dict.fromkeys(("info", "paths"), _OBJECT)}
    return _operation(identity, "This document.", [], {"200": _json(schema, "An OpenAPI 3.0.1 document.")})


def _predict(identity: str, parameters: list[Json]) -> Json:
    responses = {"200": _ANY_ANSWER, **_refused("400", "404", "413", "500", "503", "507")}
    return _operation(identity, "Runs a model.", parameters, responses, requestBody=_ANY_BODY)


def _ping() -> Json:
    responses = {"200": _json(_STATUS, "Health."), "500": _json(_STATUS, "A model has lost its workers.")}
    return _operation("ping", "Health of the server.", [], responses)


def _metrics() -> Json:
    names = {
        "in": "query",
        "name": "name[]",
        "required": False,
        "description": "Names of the metrics that are wanted.",
        "schema": {"type": "array", "items": {"type": "string"}},
    }
    responses = {
        "200": {
            "description": "Metrics.",
            "content": {"text/plain; version=0.0.4; charset=utf-8": {"schema": {"type": "string"}}},
        }
    }
    return _operation("metrics", "Metrics in Prometheus' text format.", [names], responses)


_REGISTER_TEXTS = (
    ("model_name", "string", "Name to register under; that of the manifest when absent."),
    ("handler", "string", "Handler to use instead of the manifest's."),
    ("runtime", "string", "Runtime to use instead of the manifest's."),
)
_LIST: Json = {
    "type": "object",
    "required": ["models"],
    "properties": {
        "nextPageToken": {"type": "string"},
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["modelName", "modelUrl"],
                "properties": {"modelName": {"type": "string"}, "modelUrl": {"type": "string"}},
            },
        },
    },
}


def _list_models() -> Json:
    parameters = [
        _query("limit", "integer", "Most models on a page.", 100),
        _query("next_page_token", "string", "Where the page starts: `nextPageToken` of the one before."),
        _query("model_name_pattern", "string", "Only models whose name this regular expression matches."),
    ]
    return _operation("listModels", "Lists models.", parameters, {"200": _json(_LIST, "A page of models.")})


def _register_model(partial: str, more: list[Json]) -> Json:
    parameters = [
        _query("url", "string", "Archive in the model store, or its URL.", required=True),
        *(_query(name, kind, text) for name, kind, text in _REGISTER_TEXTS),
        _query("batch_size", "integer", "Most requests that are computed together.", 1),
        _query("max_batch_delay", "integer", "Longest wait for company, in milliseconds.", 100),
        _query("response_timeout", "integer", "Seconds a worker may compute before it is ended.", 120),
        _query("initial_workers", "integer", "Workers to start.", 0),
        _query("synchronous", "boolean", "Whether to wait for the workers.", default=True),
        *more,
    ]
    responses = {
        "200": _json(_STATUS, "Registered."),
        "202": _json(_STATUS, "Registered; workers are being started."),
        partial: _json(_STATUS, "Registered; not all workers are there yet."),
        **_refused("400", "404", "405", "409", "413", "500", "507"),
    }
    return _operation("registerModel", "Registers a model.", parameters, responses)


def _by_name(prefix: str, parameters: list[Json], partial: str, answer: Json) -> Json:
    scale = [
        *parameters,
        _query("min_worker", "integer", "Least number of workers.", 1),
        _query("max_worker", "integer", "Most workers; the least number when absent."),
        _query("number_gpu", "integer", "Workers that get a GPU each."),
        _query("synchronous", "boolean", "Whether to wait for the workers.", default=False),
        _query("timeout", "integer", "Seconds that surplus workers get to finish; -1 for as long as it takes.", -1),
    ]
    customized = [_query("customized", "boolean", "Whether to ask the model what it says of itself.", default=False)]
    told = {"200": _json(answer, "The model."), **_refused("404", "503")}
    scaled = {
        "200": _json(_STATUS, "Scaled."),
        "202": _json(_STATUS, "Being scaled."),
        partial: _json(_STATUS, "Not all workers are there yet."),
        **_refused("400", "404", "500", "503", "507"),
    }
    removed = {"200": _json(_STATUS, "Unregistered."), **_refused("403", "404", "405", "408", "500")}
    ending = [
        _query("timeout", "integer", "Seconds that running requests get to finish; -1 for as long as the settings say.", -1)
    ]
    return {
        "get": _operation(f"{prefix}describeModel", "Describes a model.", parameters + customized, told),
        "put": _operation(f"{prefix}setAutoScale", "Changes the number of workers.", scale, scaled),
        "delete": _operation(f"{prefix}unregisterModel", "Unregisters a model.", parameters + ending, removed),
    }


def _torchserve_models() -> Json:
    answer: Json = {"type": "array", "items": _OBJECT}
    default = {"200": _json(_STATUS, "Done."), **_refused("403", "404", "405", "500")}
    return {
        "/models/{model_name}": _by_name("", [_MODEL], "206", answer),
        "/models/{model_name}/{model_version}": _by_name("version_", [_MODEL, _VERSION], "206", answer),
        "/models/{model_name}/{model_version}/set-default": {
            "put": _operation("setDefault", "Makes a version the default one.", [_MODEL, _VERSION], default)
        },
    }


def _torchserve_inference() -> Json:
    return {
        "/": {"options": _described("apiDescription")},
        "/ping": {"get": _ping()},
        "/v1/models/{model_name}:predict": {"post": _predict("predictions", [_MODEL])},
        "/v2/models/{model_name}/infer": {"post": _predict("predictions", [_MODEL])},
        "/predictions/{model_name}": {"post": _predict("predictions", [_MODEL])},
        "/predictions/{model_name}/{model_version}": {"post": _predict("version_predictions", [_MODEL, _VERSION])},
        "/api-description": {"get": _described("api-description")},
        "/metrics": {"get": _metrics()},
    }


def _torchserve_management() -> Json:
    more = [
        _query("startup_timeout", "integer", "Seconds a worker may take to load the model.", 120),
        _query("s3_sse_kms", "boolean", "Whether the archive is one of S3 with SSE-KMS.", default=False),
    ]
    return {
        "/": {"options": _described("apiDescription")},
        "/models": {"get": _list_models(), "post": _register_model("206", more)},
        **_torchserve_models(),
        "/api-description": {"get": _described("api-description")},
        "/metrics": {"get": _metrics()},
    }


def torchserve_document(part: Part, version: str) -> Json:
    """The document of one of TorchServe's APIs, or of all on one port."""
    paths = {
        "inference": _torchserve_inference(),
        "management": _torchserve_management(),
        "metrics": {"/metrics": {"get": _metrics()}},
        "all": _torchserve_inference() | _torchserve_management(),
    }[part]
    return _document("TorchServe APIs", "Serves models of PyTorch.", version, paths)


def torchserve_model(name: str) -> Json:
    """The document of the ways to run one model."""
    paths = {
        f"/prediction/{name}": {"post": _predict(name, [])},
        "/v1/models/{model_name}:predict": {"post": _predict(name, [_MODEL])},
        "/v2/models/{model_name}/infer": {"post": _predict(name, [_MODEL])},
    }
    return _document(f"RESTful API for: {name}", f"Runs the model {name}.", "1.0.0", paths)


def torchserve_model_management(name: str) -> Json:
    """The document of what can be done with one model."""
    return _document(f"RESTful Management API for: {name}", f"Manages the model {name}.", "1.0.0", _torchserve_models())


def mms_document(part: Part, version: str) -> Json:
    """The document of one of MMS's APIs, or of both on one port."""
    inference: Json = {
        "/": {"options": _described("apiDescription")},
        "/{model_name}/predict": {"post": _predict("predict", [_MODEL])},
        "/ping": {"get": _ping()},
        "/predictions/{model_name}": {
            "post": _predict("predictions", [_MODEL]),
            "options": _operation(
                "predictionsApi", "How to run it.", [_MODEL], {"200": _json(_OBJECT, "A document."), **_refused("404")}
            ),
        },
        "/api-description": {"get": _described("apiDescription")},
        "/invocations": {"post": _predict("invocations", [])},
        "/models/{model_name}/invoke": {"post": _predict("invocations", [_MODEL])},
    }
    preload = [_query("preload_model", "boolean", "Whether to load the model before workers are started.", default=False)]
    management: Json = {
        "/": {"options": _described("apiDescription")},
        "/models": {"get": _list_models(), "post": _register_model("210", preload)},
        "/models/{model_name}": _by_name("", [_MODEL], "210", _OBJECT),
    }
    paths = {"inference": inference, "management": management, "all": inference | management, "metrics": {}}[part]
    return _document("Model Server APIs", "Serves models.", version, paths)


def mms_model(name: str) -> Json:
    """The document of the ways to run one model."""
    return _document(
        f"RESTful API for: {name}", f"Runs the model {name}.", "1.0.0", {f"/prediction/{name}": {"post": _predict(name, [])}}
    )


def _document(title: str, text: str, version: str, paths: Json) -> Json:
    return {"openapi": "3.0.1", "info": {"title": title, "description": text, "version": version}, "paths": paths}
