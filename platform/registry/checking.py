"""Checks the workflow of an archive: what the file says, the files next to it, and what only this installation knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flowyard.engines import discovery
from flowyard.platform.archives.view import FolderView
from flowyard.platform.devices import parse_device
from flowyard.platform.registry.layout import WorkflowPlace
from flowyard.schemas.errors import InvalidRequestError, Problem
from flowyard.workflows.check import Checked, check
from flowyard.workflows.definition import Definition
from flowyard.workflows.problems import Problems
from flowyard.workflows.source import LIMIT_BYTES


def check_place(
    place: WorkflowPlace,
    folder: Path,
    shown: str,
    *,
    text: bytes | None = None,
    name: str = "",
    store: Path | None = None,
    is_store_known: bool = False,
) -> Checked:
    """Checks a workflow.

    Args:
        place: Where it is. A TorchServe spec without a manifest has its functions in the only Python file next to it.
        folder: The folder of its archive.
        shown: Its file's name, for the problems.
        text: Its file's content where that is not what is to be checked.
        name: What it is called where neither file nor manifest says it.
        store: The model store, in which a `.mar` may be.
        is_store_known: Whether that is the store that the workflow will be served from.

    Returns:
        What was found.
    """
    view = FolderView(folder)
    if text is None:
        text = read_text(place)
    stored = FolderView(store) if store is not None and store.is_dir() else None
    known = place.name or name
    checked = check(text, shown, view, place.handler, name=known, store=stored, is_store_known=is_store_known)
    definition = checked.definition
    if definition is not None and definition.spelling == "torchserve" and place.handler is None:
        handler = _only_source(place.file.parent)
        if handler is not None:
            checked = check(text, shown, view, handler, name=known, store=stored, is_store_known=is_store_known)
    return checked.with_problems(_of_models(checked.definition, shown)) if checked.definition is not None else checked


def read_text(place: WorkflowPlace) -> bytes:
    """Reads a workflow file, but for one that is too large to be checked only as much as tells that."""
    with place.file.open("rb") as file:
        return file.read(LIMIT_BYTES + 1)


def _only_source(folder: Path) -> str | None:
    sources = [file.name for file in folder.glob("*.py") if file.is_file()]
    return sources[0] if len(sources) == 1 else None


def _of_models(definition: Definition, shown: str) -> Iterator[Problem]:
    """Engines that there are not, and names that no device has."""
    problems = Problems(shown)
    for name, spec in definition.models.items():
        if spec.engine is not None:
            _check_engine(name, spec.engine, definition, problems)
        for device in (spec.device or "").split(";"):
            _check_device(name, device, definition, problems)
    yield from problems.all()


def _check_engine(name: str, engine: str, definition: Definition, problems: Problems) -> None:
    try:
        discovery.canonical(engine)
    except InvalidRequestError:
        known = discovery.names()
        place = definition.model_place(name, "engine")
        fix = f"the engines are {', '.join(known)}"
        problems.error(
            f'model "{name}": unknown engine "{engine}"', place, name=engine, nearest=problems.nearest(engine, known), fix=fix
        )


def _check_device(name: str, device: str, definition: Definition, problems: Problems) -> None:
    if device.strip() in ("", "*"):
        return
    try:
        parse_device(device)
    except InvalidRequestError as error:
        problems.error(f'model "{name}": {error.message}', definition.model_place(name, "device"), name=device)
