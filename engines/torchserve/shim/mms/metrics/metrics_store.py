"""The same as in TorchServe."""

from ts.metrics.metrics_store import MetricsStore

__all__ = ["MetricsStore"]
