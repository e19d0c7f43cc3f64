"""Loads a model of DJL's kind in a worker: a handler with `djl_python` importable, or a model of tensors with its translator."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from flowyard.engines import discovery, printed
from flowyard.engines.base import LoadedModel, ModelSource
from flowyard.engines.djl import pretrained
from flowyard.engines.djl.folder import read_folder
from flowyard.engines.djl.translators.model import TranslatedModel
from flowyard.engines.djl.translators.registry import translator_for
from flowyard.schemas.devices import Device

SHIM = Path(__file__).parent / "shim"


def load(source: ModelSource, device: Device, engine: str = "Python") -> LoadedModel:
    """Loads a model.

    Args:
        source: `path` is its file, or a module of `djl_python`; `root` its folder; `properties` what its file says;
            `spec.arguments` are those of its translator, over those of the file.
        device: Where it is to run.
        engine: The engine of the model; `Python` for handlers.

    Returns:
        The model; its calls have one argument, a `Message`.

    Raises:
        InvalidModelError: It cannot be loaded; the message says why.
        OutOfMemoryError: There is no memory for it.
    """
    if engine == "Python":
        return _handler(source, device)
    # First what is quick, and more often wrong.
    translator = translator_for(Path(source.root), read_folder(Path(source.root)), source.spec.arguments)
    return TranslatedModel(discovery.find(engine).load(source, device), translator)


def _handler(source: ModelSource, device: Device) -> LoadedModel:
    sys.path.insert(0, str(SHIM))
    printed.listen()
    # What handlers log goes where their prints go, as in DJL.
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    # Only importable now.
    if source.path == pretrained.MODULE:
        from flowyard.engines.djl import huggingface  # noqa: PLC0415

        return huggingface.load(source, device)
    from flowyard.engines.djl import handler  # noqa: PLC0415

    return handler.load(source, device)
