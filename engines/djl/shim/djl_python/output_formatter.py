"""The decorator of the function of `model.py` that makes the answer of a prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def output_formatter(function: F) -> F:
    """Marks the function that makes the answer of a prediction."""
    function.is_output_formatter = True  # type: ignore[attr-defined]
    return function
