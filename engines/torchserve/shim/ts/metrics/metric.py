"""A value of a metric, as old handlers have them."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.metric_abstract import MetricUnit

__all__ = ["Metric", "MetricUnit"]


class Metric:
    """A name, a value and dimensions."""

    def __init__(
        self,
        name: str,
        value: Any,
        unit: str,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = MetricUnit.units.get(unit, unit)
        self.dimensions = dimensions
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: Any) -> None:
        """Takes another value: a counter grows by it, any other metric becomes it."""
        self.value = self.value + value if self.metric_method == "counter" else value
        metric = CachingMetric(self.name, self.unit, [dimension.name for dimension in self.dimensions])
        metric.add_or_update(value, [dimension.value for dimension in self.dimensions], self.request_id or "")

    def reset(self) -> None:
        """Back to 0."""
        self.value = 0

    def __str__(self) -> str:
        told = ",".join(map(str, self.dimensions))
        request = f",{self.request_id}" if self.request_id else ""
        return f"{self.name}.{self.unit}:{self.value}|#{told}|#hostname:{socket.gethostname()},{int(time.time())}{request}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }
