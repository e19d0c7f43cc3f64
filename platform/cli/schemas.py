"""JSON Schemas of everything that people write for flowyard or read from it, made of the structs that the code uses.

`python -m flowyard.platform.cli.schemas FOLDER` writes them all; `make schemas` does so where they are committed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import msgspec

from flowyard.platform import inspection
from flowyard.platform.cli import offline
from flowyard.platform.desired.documents import NameDocument
from flowyard.platform.http.native import errors, parameters, registry_views, views
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry import traces
from flowyard.schemas.errors import InvalidRequestError
from flowyard.workflows.json_schema import DRAFT, described, torchserve_schema, workflow_schema

Json: TypeAlias = dict[str, Any]
SchemaName: TypeAlias = Literal["workflow", "torchserve-workflow", "apply", "settings", "api"]

#: Where the bodies of the API are declared.
_API_MODULES: tuple[ModuleType, ...] = (parameters, views, registry_views, errors, traces, offline, inspection)


def schema_text(name: SchemaName) -> str:
    """One schema.

    Args:
        name: Of what.

    Returns:
        JSON text.
    """
    schemas = {
        "workflow": workflow_schema,
        "torchserve-workflow": torchserve_schema,
        "apply": _apply_schema,
        "settings": _settings_schema,
        "api": _api_schema,
    }
    return msgspec.json.format(msgspec.json.encode(schemas[name](), order="deterministic"), indent=2).decode() + "\n"


NAMES: tuple[SchemaName, ...] = ("workflow", "torchserve-workflow", "apply", "settings", "api")


def write_schemas(folder: Path) -> list[Path]:
    """Writes all schemas.

    Args:
        folder: Where to.

    Returns:
        The files, `NAME.schema.json`.

    Raises:
        InvalidRequestError: They cannot be written.
    """
    files = [folder / f"{name}.schema.json" for name in NAMES]
    try:
        for name, file in zip(NAMES, files, strict=True):
            file.write_text(schema_text(name))
    except OSError as error:
        raise InvalidRequestError(f"{folder}: {error.strerror or error}") from None
    return files


def _apply_schema() -> Json:
    """One document of `flowyard apply`. Whether versions that are named in it are listed in it only apply can tell."""
    _, components = msgspec.json.schema_components([NameDocument], ref_template="#/definitions/{name}")
    told = {name: described(component) for name, component in components.items()}
    told["VersionDocument"] |= {
        "oneOf": [_filled("url"), _filled("file")],
        "not": {"required": ["workers"], "anyOf": [{"required": ["min_worker"]}, {"required": ["max_worker"]}]},
    }
    schema: Json = {"$schema": DRAFT} | told.pop("NameDocument") | {"title": "flowyard apply document", "definitions": told}
    converted: Json = _with_draft7_tuples(schema)
    return converted


def _with_draft7_tuples(schema: Any) -> Any:
    """Draft 7 says `items` of what is `prefixItems` since."""
    if isinstance(schema, list):
        return [_with_draft7_tuples(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _with_draft7_tuples(value) for key, value in schema.items()}
    if "prefixItems" in kept:
        kept |= {"items": kept.pop("prefixItems"), "additionalItems": False}
    return kept


def _filled(key: str) -> Json:
    return {"required": [key], "properties": {key: {"minLength": 1}}}


def _settings_schema() -> Json:
    _, components = msgspec.json.schema_components([Settings], ref_template="#/definitions/{name}")
    settings = described(components.pop("Settings"))
    settings["properties"] = {key: _as_in_file(one) for key, one in settings["properties"].items()}
    rest = {name: described(component) for name, component in components.items()}
    return (
        {"$schema": DRAFT}
        | settings
        | {"title": "flowyard settings", "additionalProperties": False}
        | ({"definitions": rest} if rest else {})
    )


def _as_in_file(setting: Json) -> Json:
    """A list may be one text too; a setting without a value stays as it was."""
    kinds = {"array": ["array", "string", "null"]}.get(setting.get("type", ""))
    if kinds is not None:
        return setting | {"type": kinds}
    return setting | {"type": [setting["type"], "null"]} if isinstance(setting.get("type"), str) else setting


def _api_schema() -> Json:
    structs = [kind for module in _API_MODULES for kind in _structs(module)]
    _, components = msgspec.json.schema_components(structs, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flowyard API",
        "description": "Parameters and bodies of the native API by name; GET /schema says where each is used.",
        "$defs": {name: described(component) for name, component in components.items()},
    }


def _structs(module: ModuleType) -> list[type[msgspec.Struct]]:
    """The structs that a module declares for others."""
    return [
        kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__ and name[0] != "_"
    ]


if __name__ == "__main__":
    for written in write_schemas(Path(sys.argv[1])):
        print(written)
