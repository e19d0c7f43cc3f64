"""Envelopes: what is around the data in requests and answers (`service_envelope`)."""

from __future__ import annotations

import importlib

_CLASSES = {"body": "BodyEnvelope", "json": "JSONEnvelope", "kserve": "KServeEnvelope", "kservev2": "KServev2Envelope"}


def envelope(name: str) -> type:
    """The class of an envelope.

    Args:
        name: `body`, `json`, `kserve` or `kservev2`.
    """
    found: type = getattr(importlib.import_module(f"{__name__}.{name}"), _CLASSES[name])
    return found
