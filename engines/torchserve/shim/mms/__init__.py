"""What handlers written for Multi Model Server import. It is on the path of their workers only."""

from mms.version import __version__

__all__ = ["__version__"]
