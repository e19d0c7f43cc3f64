"""What handlers written for TorchServe import. It is on the path of their workers only."""

from ts.version import __version__

__all__ = ["__version__"]
