"""The functions of a model's own `model.py`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_NAME = "model_{}"


def load_model_module(model_dir: str) -> ModuleType | None:
    """Imports `model.py` of a folder, once; `None` where there is none."""
    file = Path(model_dir, "model.py")
    if not file.is_file():
        return None
    known = next((module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == str(file)), None)
    if known is not None:
        return known
    name = _NAME.format(abs(hash(str(file))))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def has_function_in_module(module: ModuleType, function_name: str) -> bool:
    """Whether a module has a function of a name."""
    return callable(getattr(module, function_name, None))


def find_decorated_function(module: ModuleType, decorator_attribute: str) -> Callable[..., Any] | None:
    """The function of a module that a decorator has marked."""
    marked = (one for one in vars(module).values() if callable(one) and getattr(one, decorator_attribute, False) is True)
    return next(marked, None)


def get_annotated_function(model_dir: str, decorator_attribute: str) -> Callable[..., Any] | None:
    """The function of a folder's `model.py` that a decorator has marked."""
    module = load_model_module(model_dir)
    return find_decorated_function(module, decorator_attribute) if module is not None else None
