"""What the OpenAPI document says about the management API: the structs that its handlers read and answer with."""

from __future__ import annotations

from typing import Any

import msgspec

from flowyard.platform.archives.names import NAME_PATTERN, VERSION_PATTERN
from flowyard.platform.http.native.errors import ErrorBody
from flowyard.platform.http.native.parameters import (
    AdapterOptions,
    AdapterSet,
    Nothing,
    Page,
    RegisterModel,
    RegisterWorkflow,
    Rollback,
    Scale,
)
from flowyard.platform.http.native.registry_views import History, HistoryPage, RegistryState
from flowyard.platform.http.native.views import (
    NAME_HEADER,
    AdapterList,
    AdapterView,
    EndpointDocument,
    ModelList,
    Status,
    WorkflowInfo,
    WorkflowList,
)
from flowyard.platform.telemetry.traces import Trace

JSON = dict[str, Any]

REF = "#/components/schemas/{name}"
JSON_TYPE = "application/json"
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
FAILURES = {
    400: "A parameter, body, archive, model or workflow file that is wrong; the message names it and what is allowed.",
    403: "Not allowed; the message names the setting.",
    404: "No such name, version or file.",
    409: "It cannot be done with what is registered; the message says why.",
    413: "The body is too large.",
    424: "Code of the model raised while it was loaded.",
    500: "The model could not be initialised, or a defect of the server.",
    503: "It does not run, or its workers cannot be started.",
    504: "It was not loaded in time.",
    507: "Out of memory, or the disk is full: nothing was changed.",
}
LOADING_FAILURES = tuple(FAILURES)
ADAPTER_FAILURES = (400, 404, 409, 424, 500, 503, 504, 507)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation takes and answers.

    Attributes:
        query: Its parameters in the query.
        answer: Its answer.
        answers_list: Whether it answers with a list of these.
        later: Whether it may answer 202.
        failures: Statuses of its errors.
        body: The JSON document that it takes as its body.
        reads_body: Whether the parameters may come as JSON or form.
        uploads: Media types that the body may have instead, for what is registered itself.
        links: What can be done with the one it registers or lists: by operation id, where its name is found.
        headers: Headers of its answers, and what they say.
        example: A body in JSON.
    """

    query: type[msgspec.Struct] = Nothing
    answer: type[msgspec.Struct] = Status
    answers_list: bool = False
    later: bool = False
    failures: tuple[int, ...] = (400, 404)
    body: type[msgspec.Struct] | None = None
    reads_body: bool = False
    uploads: tuple[str, ...] = ()
    links: dict[str, str] = {}
    headers: dict[str, str] = {}
    example: JSON | None = None


_NAMES = {NAME_HEADER: "Name of what is registered."}
#: A workflow that needs nothing besides.
_EXAMPLE = {"name": "relay", "workflow": {"out": ["id", "in"]}}


def _links(kind: str, name: str) -> dict[str, str]:
    return dict.fromkeys((*(f"{call}{kind}" for call in ("describe", "scale", "unregister")), "predict"), name)


#: By the beginning of the operation's id.
OPERATIONS = {
    "listModels": Operation(query=Page, answer=ModelList, failures=(400,)),
    "listWorkflows": Operation(
        query=Page,
        answer=WorkflowList,
        failures=(400,),
        links=_links("Workflow", "$response.body#/workflows/0/workflowName"),
    ),
    "registerModel": Operation(
        query=RegisterModel,
        later=True,
        failures=LOADING_FAILURES,
        reads_body=True,
        uploads=("application/octet-stream",),
        links=_links("Model", f"$response.header.{NAME_HEADER}"),
        headers=_NAMES,
    ),
    "registerWorkflow": Operation(
        query=RegisterWorkflow,
        later=True,
        failures=LOADING_FAILURES,
        reads_body=True,
        uploads=("application/octet-stream", "application/yaml"),
        example=_EXAMPLE,
        links=_links("Workflow", f"$response.header.{NAME_HEADER}"),
        headers=_NAMES,
    ),
    "listAdapters": Operation(query=Page, answer=AdapterList),
    "describeAdapter": Operation(answer=AdapterView),
    "registerAdapter": Operation(query=AdapterOptions, failures=ADAPTER_FAILURES),
    "updateAdapter": Operation(query=AdapterOptions, failures=ADAPTER_FAILURES),
    "setAdapters": Operation(body=AdapterSet, failures=(*ADAPTER_FAILURES, 413)),
    "unregisterAdapter": Operation(failures=ADAPTER_FAILURES),
    "describe": Operation(answer=WorkflowInfo, answers_list=True),
    "readTrace": Operation(answer=Trace),
    "readDocument": Operation(answer=EndpointDocument, failures=(400, 404, 503)),
    "scale": Operation(query=Scale, later=True, failures=(400, 404, 409, 413, 503, 507), reads_body=True),
    "unregister": Operation(failures=(400, 404, 507)),
    "setDefault": Operation(failures=(400, 404, 409, 413, 507)),
    "clearDefault": Operation(failures=(400, 404, 507)),
    "rollback": Operation(query=Rollback, failures=(400, 404, 409, 413, 424, 500, 503, 504, 507), reads_body=True),
    "getState": Operation(answer=RegistryState, failures=(400,)),
    "getHistory": Operation(query=HistoryPage, answer=History, failures=(400,)),
}


def documented(derived: JSON) -> JSON:
    """What the document says about an operation.

    Args:
        derived: What Litestar derives from its handler.

    Returns:
        The same with its parameters, bodies and answers, where it is one of the management API.
    """
    name = derived.get("operationId", "")
    operation = next((operation for start, operation in OPERATIONS.items() if name.startswith(start)), None)
    if operation is None:
        return derived
    path = [_path_parameter(parameter["name"]) for parameter in derived.get("parameters", ()) if parameter["in"] == "path"]
    body = {"requestBody": _body(operation)} if operation.reads_body or operation.body else {}
    return derived | {"parameters": [*path, *_query_parameters(operation.query)], "responses": _responses(operation)} | body


def components() -> JSON:
    """The schemas that the operations refer to."""
    kinds = {kind for operation in OPERATIONS.values() for kind in (operation.query, operation.answer, operation.body) if kind}
    _, schemas = msgspec.json.schema_components(sorted(kinds | {ErrorBody}, key=lambda kind: kind.__name__), ref_template=REF)
    for operation in OPERATIONS.values():
        # In JSON, names that nobody knows are ignored.
        schemas[operation.query.__name__].pop("additionalProperties", None)
    return schemas


def _path_parameter(name: str) -> JSON:
    patterns = {"name": NAME_PATTERN, "version": VERSION_PATTERN}
    pattern = {"pattern": f"^{patterns[name]}$"} if name in patterns else {}
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"} | pattern}


def _query_parameters(kind: type[msgspec.Struct]) -> list[JSON]:
    _, schemas = msgspec.json.schema_components([kind], ref_template=REF)
    properties = schemas[kind.__name__]["properties"]
    return [_query_parameter(name, schema) for name, schema in properties.items()]


def _query_parameter(name: str, schema: JSON) -> JSON:
    """A query says nothing by leaving a parameter out, not by `null`."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    (told,) = options
    absent = {"enum": [value for value in told["enum"] if value is not None]} if "enum" in told else {}
    told = {key: value for key, value in (told | absent).items() if key != "default" or value not in ("", None)}
    return {"name": name, "in": "query", "required": False, "schema": told}


def _body(operation: Operation) -> JSON:
    if operation.body is not None:
        return {"required": True, "content": {JSON_TYPE: {"schema": {"$ref": REF.format(name=operation.body.__name__)}}}}
    schema = {"$ref": REF.format(name=operation.query.__name__)}
    content: JSON = {media_type: {"schema": schema} for media_type in (JSON_TYPE, *FORM_TYPES)}
    content |= {media_type: {} for media_type in operation.uploads}
    if operation.example is not None:
        content[JSON_TYPE] = content[JSON_TYPE] | {"example": operation.example}
    return {"required": False, "content": content}


def _responses(operation: Operation) -> JSON:
    schema: JSON = {"$ref": REF.format(name=operation.answer.__name__)}
    if operation.answers_list:
        schema = {"type": "array", "items": schema}
    links = {call: {"operationId": call, "parameters": {"name": name}} for call, name in operation.links.items()}
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in operation.headers.items()}
    further = ({"links": links} if links else {}) | ({"headers": headers} if headers else {})
    told = {"200": _answer("Done.", schema) | further}
    if operation.later:
        told["202"] = _answer("Accepted; it goes on by itself.", schema) | further
    failure = {"$ref": REF.format(name=ErrorBody.__name__)}
    return told | {str(status): _answer(FAILURES[status], failure) for status in operation.failures}


def _answer(description: str, schema: JSON) -> JSON:
    return {"description": description, "content": {JSON_TYPE: {"schema": schema}}}
