"""The metrics of a handler."""

from __future__ import annotations

from collections.abc import Sequence

from ts.metrics.caching_metric import CachingMetric
from ts.metrics.collected import collect
from ts.metrics.metric_cache_abstract import MetricCacheAbstract
from ts.metrics.metric_type_enum import MetricTypes


class MetricsCacheYamlImpl(MetricCacheAbstract):
    """What `context.metrics` is. Every metric is taken, whether or not a `metrics.yaml` declares it."""

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Makes a metric.

        Args:
            metric_name: Its name.
            unit: Its unit.
            dimension_names: Names of its dimensions.
            metric_type: Its kind.

        Returns:
            The metric, to call `add_or_update(value, dimension_values)` on.
        """
        self._check_type(metric_name, str, "`metric_name` must be a str")
        self._check_type(unit, str, "`unit` must be a str")
        self._check_type(metric_type, MetricTypes, "`metric_type` must be a MetricTypes enum type")
        metric = CachingMetric(metric_name, unit, list(dimension_names), metric_type)
        self.cache[metric_type][metric_name] = metric
        return metric

    def record(self, name: str, value: float) -> None:
        """Takes a time of the server's own for each batch, in milliseconds, without a line in the log."""
        dimensions = [("ModelName", self.model_name), ("Level", "Model")]
        collect(name, "Milliseconds", MetricTypes.GAUGE.value, round(value, 2), dimensions, self._get_req(None) or "")

    @property
    def cache_keys(self) -> list[str]:
        """Names of the metrics."""
        return [name for metrics in self.cache.values() for name in metrics]
