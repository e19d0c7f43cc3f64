"""What is loaded when the server starts: what the operator lists, or everything in the model store (DJL §4.2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from flowyard.engines import discovery
from flowyard.engines.torchserve.folder import DEFAULT_HANDLER
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.names import LoadItem, is_archive_name, parse_load_item
from flowyard.platform.archives.recognise import Kind, recognise
from flowyard.platform.devices import cpu_count
from flowyard.platform.registry.precedence import (
    INITIAL_WORKERS,
    LEAST_WORKERS,
    MOST_WORKERS,
    RESPONSE_TIMEOUT,
    STARTUP_TIMEOUT,
    fill,
)
from flowyard.platform.settings import Settings
from flowyard.platform.torchserve_snapshots import ModelDefaults, model_defaults
from flowyard.schemas.errors import FlowyardError, InvalidRequestError, ModelNotFoundError
from flowyard.schemas.models import ModelSpec

log = structlog.stdlib.get_logger(__name__)


def spec_at_start(item: LoadItem, settings: Settings, gpus: int) -> ModelSpec:
    """How a model is served that the operator has loaded at the start.

    Where other servers' APIs are served, it gets as many workers as there: those of the settings, else one for each GPU, or for
    each core where there is none (TorchServe reference §5.1).

    Args:
        item: What is loaded.
        settings: The settings.
        gpus: How many GPUs there are.
    """
    options: dict[str, str | None] = {}
    if settings.dialects:
        options = {
            INITIAL_WORKERS: str(settings.default_workers_per_model or gpus or cpu_count()),
            "service_envelope": settings.service_envelope,
            "decode_input_request": None if settings.decode_input_request else "false",
            DEFAULT_HANDLER: settings.default_service_handler,
        }
    told = {key: value for key, value in options.items() if value}
    return ModelSpec(engine=item.engine, device=item.devices, options=told)


class AtStart:
    """What the settings say of models that are loaded at the start.

    Args:
        settings: The settings.
        gpus: How many GPUs there are.

    Raises:
        InvalidRequestError: The setting `models` cannot be read.
    """

    def __init__(self, settings: Settings, gpus: int) -> None:
        self._settings = settings
        self._gpus = gpus
        self._said = model_defaults(settings.models)

    def spec(self, item: LoadItem) -> ModelSpec:
        """How an item is served, as `spec_at_start`."""
        return spec_at_start(item, self._settings, self._gpus)

    def said(self, name: str, version: str) -> ModelDefaults | None:
        """What the setting `models` says of a version."""
        return self._said.get((name, version))


def with_defaults(spec: ModelSpec, said: ModelDefaults) -> ModelSpec:
    """The same as the setting `models` has it for this version."""
    options = {
        "handler": said.handler,
        "runtime": said.runtime_type,
        RESPONSE_TIMEOUT: None if said.response_timeout is None else str(said.response_timeout),
        STARTUP_TIMEOUT: None if said.startup_timeout is None else str(said.startup_timeout),
        LEAST_WORKERS: None if said.min_workers is None else str(said.min_workers),
        MOST_WORKERS: None if said.max_workers is None else str(said.max_workers),
    }
    given = ModelSpec(
        batch_size=said.batch_size,
        max_batch_delay=said.max_batch_delay,
        options=spec.options | {key: value for key, value in options.items() if value},
    )
    return fill(msgspec.structs.replace(spec, options=given.options), given)


def items_at_start(settings: Settings) -> list[LoadItem]:
    """Lists what is to be loaded: `load`, then `load_models`.

    Args:
        settings: The settings.

    Returns:
        The items in order, each once. Relative paths of `load_models` that are in the model store lead there.

    Raises:
        InvalidRequestError: An item that cannot be read, or `ALL` without a model store that can be.
    """
    store = Path(settings.model_store).absolute() if settings.model_store else None
    items = [parse_load_item(text) for text in settings.load]
    for text in settings.load_models:
        match text.upper():
            case "ALL":
                items += _everything(store, Limits.of(settings))
            case "NONE":
                pass
            case _:
                items.append(_in_store(parse_load_item(text), store))
    return list(dict.fromkeys(items))


def _in_store(item: LoadItem, store: Path | None) -> LoadItem:
    inside = store / item.url if store is not None and not item.url.startswith(("/", ".")) else None
    return msgspec.structs.replace(item, url=str(inside)) if inside is not None and inside.exists() else item


def _everything(store: Path | None, limits: Limits) -> Iterator[LoadItem]:
    """Every folder, archive and model file of a store. What is none is passed over with a warning."""
    if store is None:
        raise InvalidRequestError("load_models: ALL is everything in the model store, and there is none (setting model_store)")
    for entry, reason in entries_of(store, limits):
        if reason:
            log.warning("not loaded from the model store", entry=entry.name, reason=reason)
        else:
            yield LoadItem(str(entry))


def entries_of(store: Path, limits: Limits) -> Iterator[tuple[Path, str]]:
    """Everything that is in a store, in order, with why it is not to be loaded; see `no_model`.

    Args:
        store: The store.
        limits: How many members a ZIP archive may list.

    Raises:
        InvalidRequestError: It cannot be read.
    """
    try:
        entries = sorted(store.iterdir())
    except OSError as error:
        raise InvalidRequestError(f"model_store {store} cannot be read: {error.strerror}") from None
    for entry in entries:
        yield entry, no_model(entry, limits)


def no_model(entry: Path, limits: Limits) -> str:
    """Why an entry of the store is not to be loaded.

    Args:
        entry: The file or folder.
        limits: How many members a ZIP archive may list.

    Returns:
        The reason, empty where it is to be loaded. That it is broken is none: loading it says so.
    """
    if entry.name.startswith("."):
        return "it is hidden"
    try:
        if entry.is_dir():
            return "" if any(entry.iterdir()) else "the folder is empty"
        if not entry.is_file():
            return "it is neither a file nor a folder"
        kind = recognise(entry, limits)
        if kind is Kind.MODEL:
            discovery.infer(entry)
    except ModelNotFoundError:
        return "it is neither an archive nor a model that an engine recognises"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except FlowyardError as error:
        return "" if is_archive_name(entry.name) else error.message
    return ""
