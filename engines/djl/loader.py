"""Loads a model of DJL's kind in a worker: makes `djl_python` importable, then hands over to the handler's adapter."""

from __future__ import annotations

import sys
from pathlib import Path

from flowyard.engines.base import LoadedModel, ModelSource
from flowyard.schemas.devices import Device

SHIM = Path(__file__).parent / "shim"


def load(source: ModelSource, device: Device) -> LoadedModel:
    """Loads a handler.

    Args:
        source: `path` is its file, or a module of `djl_python`; `root` its folder; `properties` what its file says.
        device: Where it is to run.

    Returns:
        The model; its calls have one argument, a `Message`.

    Raises:
        InvalidModelError: It cannot be loaded; the message says why.
        EngineOutOfMemoryError: There is no memory for it.
    """
    sys.path.insert(0, str(SHIM))
    # Only importable now.
    from flowyard.engines.djl import handler  # noqa: PLC0415

    return handler.load(source, device)
