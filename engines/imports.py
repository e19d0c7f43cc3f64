"""Importing what a user named: `module:callable`, from the archive. Only ever called in a worker."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.schemas.errors import FlowyardError, InvalidModelError, OutOfMemoryError


def load_callable(reference: str, root: Path) -> Any:
    """Imports a callable of the archive.

    Args:
        reference: `module:callable`, `package.module:callable` or `path/to/file.py:callable`; the callable may be dotted.
        root: Folder of the archive.

    Returns:
        The class, function or other callable.

    Raises:
        InvalidModelError: There is no such module or callable, or importing it raised; the message says where.
        OutOfMemoryError: Importing it took more memory than there is.
    """
    module_name, _, path = reference.rpartition(":")
    if not module_name or not path:
        raise InvalidModelError(f"{reference!r} is no reference of the form module:callable")
    found: Any = load_module(module_name, root)
    for name in path.split("."):
        if not hasattr(found, name):
            raise InvalidModelError(f"{module_name} has no {name!r}{_nearest(name, found)}")
        found = getattr(found, name)
    if not callable(found):
        raise InvalidModelError(f"{reference} is not callable, it is of type {type(found).__name__}")
    return found


def load_module(name: str, root: Path) -> ModuleType:
    """Imports a module of the archive, or an installed one.

    Args:
        name: `module`, `package.module` or `path/to/file.py`.
        root: Folder of the archive.

    Returns:
        The module.

    Raises:
        InvalidModelError: There is no such module, or importing it raised.
        OutOfMemoryError: Importing it took more memory than there is.
    """
    file = root / (name if name.endswith(".py") else f"{name}.py")
    if name.endswith(".py") and not file.is_file():
        raise InvalidModelError(f"there is no file {name!r} in the archive")
    try:
        return _from_file(file) if file.is_file() else importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001 - SystemExit of user code is an error, not an exit
        if isinstance(error, ModuleNotFoundError) and error.name in _prefixes(name):
            raise InvalidModelError(f"no module {name!r} in the archive ({name.replace('.', '/')}.py)") from None
        raise while_loading(error, root) from None


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _from_file(file: Path) -> ModuleType:
    """Imports exactly this file, also when an installed module has the same name."""
    name = file.stem
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(file):
            return known
        name = f"{name}@{file.parent.name}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        with contextlib.suppress(KeyError):
            del sys.modules[name]
        raise
    return module


def while_loading(error: BaseException, root: Path) -> FlowyardError:
    """Maps what user code raised while it was imported or set up, and writes its traceback to the log.

    Args:
        error: The exception, `SystemExit` included.
        root: Folder of the archive.

    Returns:
        `InvalidModelError` with `file:line: TypeName: message`, the file relative to the archive, or `OutOfMemoryError`.
    """
    if isinstance(error, FlowyardError):
        return error
    log(error)
    if is_out_of_memory(error):
        return OutOfMemoryError(describe(error))
    place = _place(error, root)
    message = f"{type(error).__name__}: {error.msg}" if isinstance(error, SyntaxError) else describe(error)
    return InvalidModelError(f"{place}: {message}" if place else message)


def _place(error: BaseException, root: Path) -> str:
    """The innermost line of the archive's own code that was running, as `file:line`."""
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        lines.append((error.filename, error.lineno))
    for filename, line in reversed(lines):
        with contextlib.suppress(ValueError):
            return f"{Path(filename).resolve().relative_to(root.resolve())}:{line}"
    return ""


def _nearest(name: str, owner: object) -> str:
    near = difflib.get_close_matches(name, [one for one in vars(owner) if not one.startswith("_")], n=1)
    return f", but {near[0]!r}" if near else ""
