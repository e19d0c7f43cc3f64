"""JSON Schemas of workflow files, for editors: what can be said about a file without knowing its names.

They are made of the same structs and tables that the check reads files by. Draft 7, which every editor knows.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import DTYPES
from flowyard.workflows import model_section, torchserve
from flowyard.workflows.definition import LIMIT_NODES, LIMIT_RETRIES, MaxEntries

Json: TypeAlias = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
_REF = "#/definitions/"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
_REGISTERED = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(:[A-Za-z0-9][A-Za-z0-9_.-]{0,127})?$"
_CALLABLE = r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[\w-]+(/[\w-]+)*\.py):[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
_TEXT: Json = {"type": ["string", "number"]}


def _ref(name: str) -> Json:
    return {"$ref": _REF + name}


def _object(properties: Json, *required: str, **more: Any) -> Json:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False, **more}


def workflow_schema() -> Json:
    """The schema of a workflow file, in the native spelling and DJL's.

    Returns:
        The schema, ready for JSON.
    """
    return {
        "$schema": DRAFT,
        "title": "flowyard workflow",
        "description": "A graph of models and functions. docs/workflows.md describes it by example.",
        **_object(
            {
                "name": _TEXT | {"pattern": _NAME, "description": "Name of the workflow."},
                "version": _TEXT | {"pattern": _NAME, "description": "Its version, as text."},
                "timeout": _ref("duration") | {"description": "For a whole run."},
                "on_error": {"enum": ["fail", "pass"], "description": "`pass` hands a failed model's output on, as DJL does."},
                "models": _section(_ref("model"), "Models by the name that nodes call them by."),
                "functions": _section(_ref("function"), "Python functions of this archive by the name that nodes call them by."),
                "workflow": _ref("nodes"),
                "configs": _ref("configs"),
                "baseUri": {"description": "Of DJL; has no effect."},
            },
            "workflow",
        ),
        "definitions": {
            **_values(),
            **_models(),
            **_expressions(),
            **_nodes(),
        },
    }


def _section(entry: Json, description: str) -> Json:
    return {
        "type": ["object", "null"],
        "maxProperties": LIMIT_NODES,
        "propertyNames": {"minLength": 1, "maxLength": 128, "pattern": "^[^/]*$"},
        "additionalProperties": entry,
        "description": description,
    }


def _values() -> Json:
    amount: Json = {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400}
    written: Json = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|h)\s*$"}
    return {
        "duration": {"anyOf": [amount, written], "description": "Seconds, or a number with ms, s, m or h."},
        "registered": _TEXT | {"pattern": _REGISTERED, "description": "name[:version] of what is registered on the server."},
        "function": {"type": "string", "pattern": _CALLABLE, "description": "module:callable of this archive."},
        "texts": {"type": ["object", "null"], "additionalProperties": {"type": ["string", "number", "boolean"]}},
    }


def _models() -> Json:
    _, components = msgspec.json.schema_components([ModelSpec], ref_template=_REF + "{name}")
    declared = described(components["ModelSpec"])["properties"]
    of_file: Json = {
        "url": _TEXT,
        "model": _ref("registered"),
        "engine": _TEXT,
        "device": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]},
        "max_batch_delay": {"anyOf": [declared["max_batch_delay"], _ref("duration")]},
        "max_idle_time": {"anyOf": [declared["max_idle_time"], _ref("duration")]},
        "timeout": _ref("duration"),
        "inputs": {"type": "array", "items": _ref("tensor")},
        "outputs": {"type": "array", "items": _ref("tensor")},
        "options": _ref("texts"),
        "arguments": _ref("texts"),
    }
    settings = {
        key: ({"description": of_field["description"]} if "description" in of_field else {}) | of_file.get(key, of_field)
        for key, of_field in declared.items()
    }
    # In DJL's spelling, a number that is not positive means: use the default.
    camel = {theirs: {"description": f"DJL's name of `{ours}`."} for theirs, ours in model_section.CAMEL.items()}
    ignored = {key: {"description": "Of DJL; has no effect."} for key in sorted(model_section.IGNORED)}
    long_form = _object(settings | camel | ignored, anyOf=[{"required": [key]} for key in ("url", "modelUrl", "model")])
    shape: Json = {"type": ["array", "null"], "items": {"type": ["integer", "null"], "minimum": -1}}
    dtypes: Json = {"enum": sorted(DTYPES)}
    return {
        "model": {
            "anyOf": [
                {"type": "string", "minLength": 1, "description": "A URL, or a path inside the archive."},
                _object({"workflow": _ref("registered")}, "workflow"),
                long_form,
            ]
        },
        "tensor": _object({"name": _TEXT, "dtype": dtypes, "shape": shape}, "name"),
    }


def _call_of(name: str, *args: Json) -> Json:
    """The form of a call of a built-in that takes exactly these arguments."""
    items = [{"const": name}, *args]
    return {"items": items, "minItems": len(items), "maxItems": len(items)}


def _expressions() -> Json:
    value = _object({"value": {}}, "value", description="A literal of any kind.")
    several = {"type": "array", "minItems": 1, "items": _ref("callee")}
    literal_text = _object({"value": {"type": "string"}}, "value")
    branches: Json = {"type": "object", "minProperties": 1, "additionalProperties": _ref("expression")}
    expression = _ref("expression")
    special = {
        "switch": _call_of("switch", expression, branches),
        "map": _call_of("map", _ref("callee"), expression),
        "functionsApply": _call_of("functionsApply", several, expression),
        "pick": _call_of("pick", expression, literal_text),
        "adapter": _call_of("adapter", _TEXT, expression),
        "id": _call_of("id", expression),
        "unbatch": _call_of("unbatch", expression),
    }
    any_call: Json = {"items": [_ref("callee")], "additionalItems": expression}
    choices = [{"if": {"items": [{"const": name}]}, "then": form} for name, form in special.items()]
    other: Json = {"if": {"not": {"items": [{"enum": list(special)}]}}, "then": any_call}
    return {
        "callee": {
            "anyOf": [{"type": "string", "minLength": 1}, _object({"workflow": _ref("registered")}, "workflow")],
            "description": "A model, a function, a built-in, or {workflow: name[:version]}.",
        },
        "call": {
            "type": "array",
            "minItems": 1,
            "allOf": [*choices, other],
            "description": "[callee, argument, ...]",
        },
        "expression": {
            "anyOf": [
                {"type": "string", "minLength": 1, "description": "A node, `in`, or a path into one."},
                {"type": ["number", "boolean", "null"]},
                value,
                _ref("call"),
            ]
        },
    }


def _nodes() -> Json:
    _, components = msgspec.json.schema_components([MaxEntries], ref_template=_REF + "{name}")
    max_entries = msgspec.json.schema(MaxEntries)
    assert not components
    policy = _object({"ttl": _ref("duration"), "max_entries": max_entries})
    long_form = _object(
        {
            "call": _ref("expression") | {"description": "What the node computes."},
            "when": {"type": "string", "minLength": 1, "description": "JMESPath over nodes and `in`."},
            "else": _ref("expression") | {"description": "What it yields when the condition does not hold."},
            "timeout": _ref("duration") | {"description": "After which an attempt has failed."},
            "retries": {"type": "integer", "minimum": 0, "maximum": LIMIT_RETRIES},
            "fallback": _ref("expression") | {"description": "What it yields when `call` has finally failed."},
            "cache": {"anyOf": [{"type": "boolean"}, _ref("duration"), policy], "description": "Keeps results by content."},
        },
        "call",
    )
    adapter = _object({"model": _TEXT, "src": _TEXT, "options": _ref("texts")}, "model", "src")
    return {
        "node": {"anyOf": [_ref("expression"), long_form]},
        "nodes": {
            "type": "object",
            "required": ["out"],
            "maxProperties": LIMIT_NODES,
            "propertyNames": {"minLength": 1, "maxLength": 128, "not": {"const": "in"}},
            "additionalProperties": _ref("node"),
            "description": "Nodes by name; `in` is the request, `out` the answer.",
        },
        "configs": {
            "type": ["object", "null"],
            "properties": {"adapters": {"type": ["object", "null"], "additionalProperties": adapter}},
            "description": "Of DJL; only `adapters` has an effect.",
        },
    }


def torchserve_schema() -> Json:
    """The schema of the spec of a TorchServe `.war`.

    Returns:
        The schema, ready for JSON.
    """
    settings = {key: msgspec.json.schema(kind) for key, kind in torchserve.SETTINGS.items()}
    model = _object({"url": _TEXT, **settings}, "url")
    children: Json = {"type": ["array", "null"], "items": {"type": "string", "minLength": 1}}
    return {
        "$schema": DRAFT,
        "title": "TorchServe workflow spec",
        **_object(
            {
                "name": _TEXT,
                "version": _TEXT,
                "models": {"type": ["object", "null"], "properties": settings, "additionalProperties": model},
                "dag": {"type": "object", "minProperties": 1, "maxProperties": LIMIT_NODES, "additionalProperties": children},
            },
            "models",
            "dag",
        ),
    }


def described(schema: Json) -> Json:
    """Moves what a struct's text says of its attributes to the properties, where editors show it.

    Args:
        schema: The schema of one struct, as msgspec makes it.

    Returns:
        The same with a description per property.
    """
    text, _, attributes = schema.get("description", "").partition("Attributes:")
    told = dict(_attributes(attributes))
    properties = {
        key: ({"description": told[key]} if key in told else {}) | of_key for key, of_key in schema.get("properties", {}).items()
    }
    summary = " ".join(text.split())
    return schema | ({"description": summary} if summary else {}) | ({"properties": properties} if properties else {})


def _attributes(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        key, colon, rest = line.strip().partition(":")
        if colon and key.isidentifier():
            found.append((key, rest.strip()))
        elif found and line.strip():
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found
