"""What old handlers import from the server's own loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ts.context import Context, RequestProcessor
from ts.metrics.collected import log_line
from ts.utils.util import PredictionException

__all__ = ["Context", "PredictionException", "RequestProcessor", "emit_metrics"]


def emit_metrics(metrics: Iterable[Any] | None) -> None:
    """Writes metrics to the log.

    Args:
        metrics: Their texts say name, value and dimensions.
    """
    for metric in metrics or ():
        log_line(str(metric))
