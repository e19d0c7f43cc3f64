"""The same as in TorchServe."""

from ts.utils.timeit_decorator import timeit

__all__ = ["timeit"]
