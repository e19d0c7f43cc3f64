"""What is loaded when the server starts: what the operator lists, or everything in the model store (DJL §4.2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from flowyard.engines import discovery
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.names import LoadItem, is_archive_name, parse_load_item
from flowyard.platform.archives.recognise import Kind, recognise
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import FlowyardError, InvalidRequestError, ModelNotFoundError

log = structlog.stdlib.get_logger(__name__)


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
    try:
        entries = sorted(store.iterdir())
    except OSError as error:
        raise InvalidRequestError(f"model_store {store} cannot be read: {error.strerror}") from None
    for entry in entries:
        reason = no_model(entry, limits)
        if reason:
            log.warning("not loaded from the model store", entry=entry.name, reason=reason)
        else:
            yield LoadItem(str(entry))


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
