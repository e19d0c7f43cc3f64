"""Prints how long a function takes."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any


def timeit(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function."""

    @functools.wraps(func)
    def called(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        result = func(*args, **kwargs)
        sys.stdout.write(f"func:{func.__name__!r} took: {(time.monotonic() - started) * 1000:.4f} ms\n")
        return result

    return called
