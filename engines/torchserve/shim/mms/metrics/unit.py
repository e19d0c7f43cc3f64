"""The same as in TorchServe."""

from ts.metrics.unit import Units

__all__ = ["Units"]
