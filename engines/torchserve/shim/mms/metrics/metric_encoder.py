"""The same as in TorchServe."""

from ts.metrics.metric_encoder import MetricEncoder

__all__ = ["MetricEncoder"]
