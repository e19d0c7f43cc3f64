"""The same as in TorchServe."""

from ts.metrics.dimension import Dimension

__all__ = ["Dimension"]
