"""What handlers written for TorchServe import. It is on the path of their workers only."""

import sys

from ts.absent import AbsentModules
from ts.version import __version__

sys.meta_path.append(AbsentModules())

__all__ = ["__version__"]
