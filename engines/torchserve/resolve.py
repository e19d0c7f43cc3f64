"""Which code a handler's name means: a function or class of the archive, or a default handler. Only ever imported in a worker."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from flowyard.engines.imports import load_module
from flowyard.schemas.errors import InvalidModelError

#: `handle(data, context)`.
Entry: TypeAlias = Callable[[Any, Any], Any]
DEFAULT_FUNCTION = "handle"
DEFAULT_HANDLERS = "ts.torch_handler"


def resolve(handler: str, root: Path) -> tuple[ModuleType, Any]:
    """Finds what a handler's name means.

    Args:
        handler: `module`, `module:function`, `file.py`, `file.py:function`, `file.py:Class`, or the name of a default handler.
        root: The model's folder.

    Returns:
        The module, and a function, or the class that is to be instantiated.

    Raises:
        InvalidModelError: There is no such module or function, or importing it raised; the message says where.
        OutOfMemoryError: Importing it took more memory than there is.
    """
    name, _, function = handler.partition(":")
    if not name.strip():
        raise InvalidModelError("the archive names no handler, and neither does the registration")
    module = import_handler(name.strip(), root)
    found = getattr(module, function or DEFAULT_FUNCTION, None)
    if callable(found):
        return module, found
    if function and function != DEFAULT_FUNCTION:
        raise InvalidModelError(f"{name}: there is no function {function!r} in it")
    classes = classes_of(module)
    if len(classes) != 1:
        listed = ", ".join(one.__name__ for one in classes) or "none"
        raise InvalidModelError(
            f"{name}: Expected only one class in custom service code or a function entry point, found {listed}"
        )
    return module, classes[0]


def import_handler(name: str, root: Path) -> ModuleType:
    """Imports a handler's module: a file of the archive, else a default handler, else an installed module.

    Raises:
        InvalidModelError: There is none of the name, or importing it raised.
        OutOfMemoryError: Importing it took more memory than there is.
    """
    stem = name.removesuffix(".py").replace("\\", "/").rsplit("/", 1)[-1]
    for file in (root / f"{stem}.py", root / name.removesuffix(".py") / "__init__.py"):
        if file.is_file() and file.resolve().is_relative_to(root.resolve()):
            return load_module(str(file) if file.name != "__init__.py" else name.replace("/", "."), root)
    if stem.isidentifier() and _is_default(stem):
        return load_module(f"{DEFAULT_HANDLERS}.{stem}", root)
    if name.endswith(".py"):
        raise InvalidModelError(f"there is no file {name!r} in the archive, and no default handler of that name")
    return load_module(stem, root)


def _is_default(stem: str) -> bool:
    """Whether there is a default handler of a name.

    Raises:
        InvalidModelError: TorchServe has one; the message says what there is instead.
    """
    try:
        return importlib.util.find_spec(f"{DEFAULT_HANDLERS}.{stem}") is not None
    except ModuleNotFoundError as error:
        raise InvalidModelError(str(error)) from None


def classes_of(module: ModuleType) -> list[type]:
    """The classes that a module itself defines."""
    return [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]
