"""Which engines there are, and which one a model is for. Cheap to import: no engine's library is touched."""

from __future__ import annotations

import difflib
import importlib
import logging
from importlib.metadata import entry_points
from pathlib import Path

from flowyard.engines.base import Engine
from flowyard.schemas.errors import InvalidRequestError, ModelNotFoundError

GROUP = "flowyard.engines"
#: The engines that flowyard brings, for an installation whose package metadata is missing (a source tree, a frozen program).
BUILT_IN = {
    "OnnxRuntime": "flowyard.engines.onnx:OnnxRuntimeEngine",
    "PyTorch": "flowyard.engines.pytorch:PyTorchEngine",
    "Python": "flowyard.engines.python:PythonEngine",
}
_OTHER_SPELLINGS = {"onnx": "OnnxRuntime", "ort": "OnnxRuntime", "torch": "PyTorch", "torchscript": "PyTorch", "py": "Python"}
_MOST_LISTED = 10
_DEEPEST = 8

logger = logging.getLogger(__name__)


def names() -> tuple[str, ...]:
    """The names of all engines, flowyard's own first."""
    found = {entry.name for entry in entry_points(group=GROUP)}
    return (*BUILT_IN, *sorted(found - BUILT_IN.keys()))


def canonical(name: str) -> str:
    """The name of an engine as it spells it.

    Args:
        name: The name in any spelling: `onnxruntime`, `ONNX`, `pytorch`, `OnnxRuntime`.

    Returns:
        One of `names()`.

    Raises:
        InvalidRequestError: No such engine; the message names the known ones.
    """
    known = names()
    by_key = {**_OTHER_SPELLINGS, **{_key(one): one for one in known}}
    found = by_key.get(_key(name))
    if found is not None:
        return found
    near = difflib.get_close_matches(_key(name), by_key, n=1)
    fix = f"; did you mean {by_key[near[0]]}?" if near else ""
    raise InvalidRequestError(f"unknown engine {name!r}: the engines are {', '.join(known)}{fix}")


def _key(name: str) -> str:
    return name.strip().casefold().replace("_", "").replace("-", "").replace(" ", "")


def find(name: str) -> Engine:
    """Loads the adapter of one engine; the other adapters are not imported.

    Args:
        name: The name in any spelling.

    Returns:
        The engine.

    Raises:
        InvalidRequestError: No such engine.
    """
    return _load(canonical(name))


def _load(name: str) -> Engine:
    entries = tuple(entry_points(group=GROUP, name=name))
    if entries:
        engine: Engine = entries[0].load()()
        return engine
    module, _, attribute = BUILT_IN[name].partition(":")
    built_in: Engine = getattr(importlib.import_module(module), attribute)()
    return built_in


def infer(path: Path) -> tuple[str, Path]:
    """Infers engine and model from the files.

    A folder whose only entry is a folder is descended into. A `model.py` is the model of its folder, whatever lies next to
    it: its weights, as in a DJL model folder.

    Args:
        path: A file or folder.

    Returns:
        The name of the engine, and the file or folder it is to load.

    Raises:
        ModelNotFoundError: No engine recognises anything, or several do; the message lists what was found.
    """
    place = descend(path)
    engines = _usable()
    found = [(engine.name, model) for engine in engines if (model := engine.recognise(place)) is not None]
    main = [(name, model) for name, model in found if model.name == "model.py"]
    if len(found) == 1 or main:
        return (main or found)[0]
    raise ModelNotFoundError(_nothing(place, engines) if not found else _several(place, found))


def descend(path: Path) -> Path:
    """The folder that is meant: one whose only entry is a folder stands for that one."""
    for _ in range(_DEEPEST):
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")] if path.is_dir() else []
        if len(entries) != 1 or not entries[0].is_dir():
            break
        path = entries[0]
    return path


def _usable() -> list[Engine]:
    """Every engine that can be imported: a broken one of another package must not take the others along."""
    engines = []
    for name in names():
        try:
            engines.append(_load(name))
        except Exception:
            logger.exception("the engine %s cannot be imported", name)
    return engines


def _nothing(place: Path, engines: list[Engine]) -> str:
    known = ", ".join(f"*{suffix} ({engine.name})" for engine in engines for suffix in engine.suffixes)
    return f"Failed to detect engine of the model: found {_listing(place)}; recognised are {known}"


def _several(place: Path, found: list[tuple[str, Path]]) -> str:
    models = ", ".join(f"{model.name} ({name})" for name, model in found)
    return f"several models in {place.name!r}: {models}; say which engine is meant"


def _listing(place: Path) -> str:
    if not place.exists():
        return "nothing of that name"
    if not place.is_dir():
        return place.name
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in place.iterdir())
    more = f" and {len(entries) - _MOST_LISTED} more" if len(entries) > _MOST_LISTED else ""
    return (", ".join(entries[:_MOST_LISTED]) or "nothing") + more
