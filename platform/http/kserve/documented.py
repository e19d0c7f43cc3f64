"""What the OpenAPI document says about the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from flowyard.platform.http.kserve.tensors import DTYPES, MAX_AXES, STRINGS

JSON = dict[str, Any]

_TEXT: JSON = {"type": "string"}
_SHAPE: JSON = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MAX_AXES}
_FAILURES = {
    "400": "The request or one of its tensors cannot be read, does not fit the model, or a handler refused it.",
    "404": "No such model.",
    "406": "The result cannot be told as tensors.",
    "413": "The body is too large.",
    "424": "Code of the model raised.",
    "500": "A defect of the server, or of the model's handler.",
    "503": "Queue full, workers gone, not ready or shut down.",
    "504": "The deadline has passed.",
    "507": "Out of memory.",
}


def paths() -> JSON:
    """The paths under `/v2`, with the standard's spelling of versions; DJL's `version` is understood as well."""
    found: JSON = {
        "/v2": {"get": _operation("serverMetadata", "Metadata of the server", {"200": _told("The server.", _server())})},
        "/v2/health/live": {"get": _operation("serverLive", "Whether the server runs", {"200": _empty("It does.")})},
        "/v2/health/ready": {"get": _operation("serverReady", "Whether all models are ready", _readiness("All are."))},
    }
    for prefix, suffix in (("/v2/models/{name}", ""), ("/v2/models/{name}/versions/{version}", "Version")):
        gone = {"404": failure(_FAILURES["404"])}
        metadata = {"200": _told("The model.", _model())} | gone
        ready = _readiness("It is.") | gone
        found[prefix] = {"get": _operation(f"modelMetadata{suffix}", "Metadata of a model", metadata, prefix)}
        found[f"{prefix}/ready"] = {"get": _operation(f"modelReady{suffix}", "Whether a model is ready", ready, prefix)}
        found[f"{prefix}/infer"] = {"post": _inference(f"infer{suffix}", prefix)}
    return found


def _inference(operation_id: str, prefix: str) -> JSON:
    answers = {"200": _told("The outputs.", _answer(), "application/octet-stream")}
    answers |= {status: failure(text) for status, text in _FAILURES.items()}
    body = {"application/json": {"schema": _request()}}
    return _operation(operation_id, "Run a model", answers, prefix) | {"requestBody": {"content": body, "required": True}}


def _operation(operation_id: str, summary: str, answers: JSON, prefix: str = "") -> JSON:
    names = [name for name in ("name", "version") if f"{{{name}}}" in prefix]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names]
    return {
        "tags": ["Open Inference Protocol"],
        "summary": summary,
        "operationId": operation_id,
        "parameters": parameters,
        "responses": answers,
    }


def _told(description: str, schema: JSON, *other_types: str) -> JSON:
    content: JSON = {"application/json": {"schema": schema}} | {media_type: {} for media_type in other_types}
    return {"description": description, "content": content}


def failure(description: str) -> JSON:
    """An error, as it is told under `/v2`."""
    return _told(description, _object({"error": _TEXT}, "error"))


def _empty(description: str) -> JSON:
    return {"description": f"{description} The body is a line break.", "content": {"text/plain": {"schema": _TEXT}}}


def _readiness(description: str) -> JSON:
    return {"200": _empty(description), "424": _empty("Not yet, or it has failed.")}


def _object(properties: JSON, *required: str) -> JSON:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(items: JSON, **more: int) -> JSON:
    return {"type": "array", "items": items, **more}


def _server() -> JSON:
    return _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}, "name", "version", "extensions")


def _model() -> JSON:
    shape = _list({"type": "integer", "minimum": -1})
    tensor = _object({"name": _TEXT, "datatype": _TEXT, "shape": shape}, "name", "datatype", "shape")
    properties = {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(tensor), "outputs": _list(tensor)}
    return _object(properties, *properties)


def _tensor() -> JSON:
    datatype: JSON = {"type": "string", "enum": [*DTYPES, STRINGS]}
    data = {"type": "array", "description": "Elements in row-major order, flat or nested; absent where they follow in binary."}
    properties = {"name": _TEXT, "datatype": datatype, "shape": _SHAPE, "data": data, "parameters": {"type": "object"}}
    return _object(properties, "name", "datatype", "shape")


def _request() -> JSON:
    wanted = _object({"name": _TEXT, "parameters": {"type": "object"}}, "name")
    properties = {
        "id": _TEXT,
        "inputs": _list(_tensor(), minItems=1),
        "outputs": _list(wanted),
        "parameters": {"type": "object"},
    }
    return _object(properties, "inputs")


def _answer() -> JSON:
    properties = {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "outputs": _list(_tensor())}
    return _object(properties, "model_name", "outputs")
