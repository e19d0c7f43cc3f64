"""The same as in TorchServe."""

from ts.metrics.metric import Metric, MetricUnit

__all__ = ["Metric", "MetricUnit"]
