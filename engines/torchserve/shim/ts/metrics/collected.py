"""Where the values of metrics go: into the log, and into a list that the worker empties."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

#: What is kept until the worker takes it; what comes after that is only logged.
MOST_KEPT = 10_000

logger = logging.getLogger("ts.metrics")
#: Within it a line is written whose value has been kept already.
unnoticed: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
_samples: list[tuple[str, str, str, float, tuple[tuple[str, str], ...], str]] = []


def log_line(text: str) -> None:
    """Writes a metric to the log as TorchServe's workers do."""
    logger.info("[METRICS]%s", text)


def collect(name: str, unit: str, kind: str, value: Any, dimensions: list[tuple[str, str]], request_id: str = "") -> None:
    """Keeps a value for the worker."""
    if len(_samples) < MOST_KEPT:
        _samples.append((name, unit, kind, float(value), tuple(dimensions), request_id))


def take() -> list[tuple[str, str, str, float, tuple[tuple[str, str], ...], str]]:
    """What has been kept since the last call: name, unit, kind, value, dimensions, request."""
    taken = list(_samples)
    # A thread may have added one meanwhile.
    del _samples[: len(taken)]
    return taken
