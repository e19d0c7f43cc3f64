"""Whose adapters are meant, and which ones a model begins with (DJL §1.11)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from flowyard.platform.registry.deployment import FUNCTIONS, Deployment
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry, shown
from flowyard.platform.registry.records import Record
from flowyard.platform.workers.adapters import Adapters
from flowyard.platform.workers.pool import ModelPool
from flowyard.schemas.adapters import Adapter
from flowyard.schemas.errors import (
    AdapterConflictError,
    AdapterNotFoundError,
    InvalidModelError,
    InvalidRequestError,
    NotReadyError,
    Problem,
)
from flowyard.workflows.definition import Definition
from flowyard.workflows.plan import Plan

#: Folder of a model with adapters that it begins with, one entry each.
FOLDER = "adapters"
NO_URLS = "URL adapters are not currently supported"
MAX_NAME = 200
_SCHEME = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*:")
_NAME = re.compile(r"[^/\x00-\x1f\x7f]+")


class Served(msgspec.Struct, frozen=True):
    """A model that may have adapters.

    Attributes:
        entry: The endpoint that it belongs to.
        key: Its local name there.
        adapters: Its adapters.
    """

    entry: Entry
    key: str
    adapters: Adapters


def served(endpoints: Endpoints, model: str) -> Served:
    """The model that is meant by a name: a single model, or one inside a workflow; of several the first (DJL §1.11).

    Raises:
        AdapterNotFoundError: There is none.
        InvalidRequestError: It is not set up for adapters.
    """
    found = next(_models(endpoints, model), None)
    if found is None:
        raise AdapterNotFoundError(f"The model {model} was not found")
    entry, pool = found
    if not takes_adapters(pool):
        raise InvalidRequestError("LoRA is not enabled.")
    return Served(entry, model, pool.adapters)


def served_by(entry: Entry, model: str) -> Served:
    """A model of one version that may have adapters.

    Args:
        entry: The version.
        model: The local name of the model; empty for the only one that may have adapters.

    Raises:
        NotReadyError: The version does not run.
        AdapterNotFoundError: It has no such model.
        InvalidRequestError: The model is not set up for adapters, or there are several.
    """
    label = shown(entry.record.name, entry.record.version)
    if entry.deployment is None:
        raise NotReadyError(f"Model is not ready: {label}")
    pools = {key: pool for key, pool in entry.deployment.pools.items() if key != FUNCTIONS}
    if model and model not in pools:
        raise AdapterNotFoundError(f"The model {model} was not found in {label}; it has {', '.join(pools)}.")
    found = {key: pool for key, pool in pools.items() if takes_adapters(pool) and model in ("", key)}
    if not found:
        raise InvalidRequestError("LoRA is not enabled.")
    if len(found) > 1:
        raise InvalidRequestError(f"{label} has several models with adapters; name one as model: {', '.join(found)}.")
    ((key, pool),) = found.items()
    return Served(entry, key, pool.adapters)


def _models(endpoints: Endpoints, model: str) -> Iterator[tuple[Entry, ModelPool]]:
    entries = sorted(endpoints, key=lambda entry: entry.record.name != model)
    for entry in entries:
        pool = entry.deployment.pools.get(model) if entry.deployment is not None and model != FUNCTIONS else None
        if pool is not None:
            yield entry, pool


def takes_adapters(pool: ModelPool) -> bool:
    """Whether a model's file says `option.enable_lora=true`."""
    return is_handler(pool) and pool.spec.properties.get("enable_lora", "").strip().lower() == "true"


def is_handler(pool: ModelPool) -> bool:
    """Whether a model is Python code written for DJL, which alone can have adapters."""
    return pool.spec.handlers == "djl" and pool.spec.engine == "Python"


def check_adapter(adapter: Adapter) -> None:
    """Sees to it that an adapter can be registered under this name and from there.

    Raises:
        InvalidRequestError: The name is none that a path could have, or `preload` or `pin` is neither true nor false.
        AdapterConflictError: `src` is a URL (DJL answers 409).
    """
    if len(adapter.name) > MAX_NAME or not _NAME.fullmatch(adapter.name):
        raise InvalidRequestError(
            f"Parameter name: {adapter.name[:50]!r} is not allowed; allowed are 1 to {MAX_NAME} characters, without /."
        )
    for option in ("preload", "pin"):
        said = adapter.options.get(option, "true")
        if said.strip().lower() not in ("true", "false"):
            raise InvalidRequestError(f"Parameter {option}: {said[:50]!r} is not allowed; allowed is true or false.")
    if _SCHEME.match(adapter.src):
        raise AdapterConflictError(NO_URLS)


def begin(deployment: Deployment, record: Record, folder: Path) -> None:
    """Gives the models of a deployment, before it starts, the adapters that they have from the beginning.

    These are what the record says; where it says nothing, those in the model's own folder and those of the workflow file.

    Args:
        deployment: What is to be started.
        record: Its registration.
        folder: Its unpacked archive.

    Raises:
        InvalidModelError: The workflow file names an adapter for a model that cannot have one.
    """
    for name, adapter in deployment.plan.adapters.items():
        if not is_handler(deployment.pools[adapter.model]):
            raise InvalidModelError(f'adapter "{name}": Adapters are only currently supported for Python models')
    for key, pool in deployment.pools.items():
        if is_handler(pool):
            known = record.adapters.get(key)
            first = known if known is not None else _first(key, pool, deployment.plan, record, folder)
            pool.adapters.begin_with(first, folder)


def _first(key: str, pool: ModelPool, plan: Plan, record: Record, folder: Path) -> list[Adapter]:
    """The adapters of a model's own folder, and those of the workflow file, which go before others of their name."""
    found = {adapter.name: adapter for adapter in _in_folder(pool, record, folder)}
    for name, adapter in plan.adapters.items():
        if adapter.model == key:
            within = adapter.src if (folder / adapter.src).exists() else ""
            found[name] = Adapter(name=name, src=adapter.src, options=adapter.options, alias=name, within=within)
    return list(found.values())


def _in_folder(pool: ModelPool, record: Record, folder: Path) -> Iterator[Adapter]:
    """The adapters of a model's own folder. Their `src` begins with the URL that was registered, where that is a path."""
    here = Path(pool.spec.root, FOLDER)
    if not takes_adapters(pool) or not here.is_dir():
        return
    url = record.url.removeprefix("file://").rstrip("/")
    shown = f"{url}/{FOLDER}" if record.kind == "model" and url.startswith("/") else FOLDER
    for path in sorted(here.iterdir()):
        if not path.name.startswith("."):
            within = path.relative_to(folder) if path.is_relative_to(folder) else path
            yield Adapter(name=path.name, src=f"{shown}/{path.name}", within=str(within))


def adapter_problems(definition: Definition, shown: str) -> list[Problem]:
    """What is wrong with the adapters of a workflow file that can be told without looking at its models.

    Args:
        definition: What could be read of the file.
        shown: What the file is called.
    """
    problems = []
    for name, adapter in definition.adapters.items():
        model = definition.models.get(adapter.model)
        if model is not None and model.model:
            told, fix = "its model is registered on its own", "register the adapter there, or name the url of a model"
        elif _SCHEME.match(adapter.src):
            told, fix = NO_URLS, "name a path"
        else:
            continue
        place = definition.adapter_places[name]
        message = f'adapter "{name}": {told}'
        problems.append(Problem(message=message, file=shown, line=place.line, column=place.column, name=name, fix=fix))
    return problems
