"""Metrics as old handlers have them."""

from __future__ import annotations

from typing import Any

from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl


class MetricsStore(MetricsCacheYamlImpl):
    """The same as `context.metrics`, made from request ids and a model's name."""

    def __init__(self, request_ids: Any, model_name: str) -> None:
        super().__init__(model_name=model_name)
        self.request_ids = request_ids if isinstance(request_ids, dict) or request_ids is None else {0: str(request_ids)}
