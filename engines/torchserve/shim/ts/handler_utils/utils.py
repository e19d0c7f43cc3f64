"""Classes by name, and sending pieces of an answer."""

from __future__ import annotations

import importlib
from typing import Any

from ts import streaming


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """Imports a class.

    Args:
        class_name: `module.Class`, or only `Class` where a prefix is given.
        module_prefix: What goes before it.

    Returns:
        The class.

    Raises:
        ImportError: There is no such module or class.
    """
    module_name, _, name = class_name.rpartition(".")
    path = ".".join(part for part in (module_prefix, module_name) if part)
    if not name or not path:
        raise ImportError(f"{class_name!r} names no module and class")
    found = getattr(importlib.import_module(path), name, None)
    if found is None:
        raise ImportError(f"class:{name} not found in module:{path}.")
    return found


def __getattr__(name: str) -> Any:
    """Notes that somebody means to send pieces."""
    if name == "send_intermediate_predict_response":
        return streaming.offer()
    raise AttributeError(name)
