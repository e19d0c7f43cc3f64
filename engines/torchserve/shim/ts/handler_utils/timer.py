"""Times the steps of a handler, where its `model-config.yaml` says `handler: {profile: true}`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any


def timed(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a method; its time becomes the metric `ts_handler_NAME`, in milliseconds."""

    @functools.wraps(func)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_profiled(self.context):
            return func(self, *args, **kwargs)
        started = time.monotonic()
        result = func(self, *args, **kwargs)
        _finish_on_gpu(self)
        self.context.metrics.add_time("ts_handler_" + func.__name__, (time.monotonic() - started) * 1000)
        return result

    return called


def _is_profiled(context: Any) -> bool:
    config = getattr(context, "model_yaml_config", None) or {}
    section = config.get("handler")
    return isinstance(section, dict) and bool(section.get("profile"))


def _finish_on_gpu(handler: Any) -> None:
    """Work on a GPU is only begun when a call returns."""
    if getattr(getattr(handler, "device", None), "type", "") == "cuda":
        import torch

        torch.cuda.synchronize(handler.device)
