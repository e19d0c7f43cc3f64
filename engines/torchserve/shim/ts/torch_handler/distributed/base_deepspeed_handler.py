"""The handler that those which use DeepSpeed are derived from."""

from __future__ import annotations

import abc
import os
from typing import Any

from ts.torch_handler.base_handler import BaseHandler


class BaseDeepSpeedHandler(BaseHandler, abc.ABC):
    """Leaves the model to its subclasses; its device is the number of the process among those of the worker."""

    def initialize(self, ctx: Any) -> None:
        """Says which device is meant.

        Args:
            ctx: The handler's context.
        """
        self.device = int(os.getenv("LOCAL_RANK", "0"))
