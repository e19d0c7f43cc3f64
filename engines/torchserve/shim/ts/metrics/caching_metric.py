"""A metric whose values go into the log."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from ts.metrics import collected
from ts.metrics.collected import log_line, logger
from ts.metrics.metric_abstract import MetricAbstract
from ts.metrics.metric_type_enum import MetricTypes


class CachingMetric(MetricAbstract):
    """Logs each value: `[METRICS]NAME.UNIT:VALUE|#DIMENSIONS|#type:KIND|#hostname:HOST,SECONDS,REQUEST`."""

    def add_or_update(self, value: float, dimension_values: Sequence[object] = (), request_id: str = "") -> None:
        """Takes a value; one that does not fit is logged as an error.

        Args:
            value: A number; of a counter, not below 0.
            dimension_values: One per dimension.
            request_id: Of the request, or several joined by commas.
        """
        problem = self._problem(value, dimension_values)
        if problem:
            logger.error("[METRICS]Failed to update metric with name:%s with value: %s: %s", self.metric_name, value, problem)
            return
        dimensions = [(name, str(text)) for name, text in zip(self.dimension_names, dimension_values, strict=True)]
        collected.collect(self.metric_name, self.unit, self.metric_type.value, value, dimensions, request_id)
        told = ",".join(f"{name}:{text}" for name, text in dimensions)
        place = f"#type:{self.metric_type.name}|#hostname:{socket.gethostname()},{int(time.time())}"
        with collected.unnoticed():
            log_line(f"{self.metric_name}.{self.unit}:{value}|#{told}|{place}" + (f",{request_id}" if request_id else ""))

    def _problem(self, value: Any, dimension_values: Sequence[object]) -> str:
        if len(dimension_values) != len(self.dimension_names):
            return f"Dimension values: {list(dimension_values)} should correspond to Dimension names: {self.dimension_names}"
        if not isinstance(value, int | float):
            return "it is no number"
        if self.metric_type == MetricTypes.COUNTER and value < 0:
            return "Counter metric update value cannot be negative"
        return ""

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Any] = ()) -> None:
        """Takes a value with other dimensions, as old handlers give them."""
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)
