"""Loads handlers of TorchServe and MMS in a worker: makes `ts` and `mms` importable, then hands over to the adapter."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from flowyard.engines import printed
from flowyard.engines.base import LoadedModel, ModelSource
from flowyard.engines.torchserve.config import ModelConfig
from flowyard.engines.torchserve.folder import CONFIG
from flowyard.schemas.devices import Device

SHIM = Path(__file__).parent / "shim"


def load(source: ModelSource, device: Device) -> LoadedModel:
    """Loads a handler, or the functions of a workflow.

    Args:
        source: `root` is the model's folder and `properties` what `ArchivedModel.parameters` says; or `functions`.
        device: Where it is to run.

    Returns:
        The model; its calls have one argument, a `Message`.

    Raises:
        InvalidModelError: It cannot be loaded; the message says why.
        EngineOutOfMemoryError: There is no memory for it.
    """
    sys.path.insert(0, str(SHIM))
    printed.listen()
    # Only importable now.
    from flowyard.engines.torchserve import asynchronous, continuous, handler  # noqa: PLC0415
    from ts.metrics import collected  # noqa: PLC0415

    collected.unnoticed = printed.unnoticed
    # What handlers log goes where their prints go, as in these servers.
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    if source.functions:
        return handler.load_functions(source)
    config = ModelConfig(settings=json.loads(source.properties.get(CONFIG, "{}")))
    if config.is_continuous:
        return continuous.load(source, device, config)
    return asynchronous.load(source, device) if config.is_asynchronous else handler.load(source, device, handler.HandlerModel)
