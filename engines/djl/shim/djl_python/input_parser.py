"""Decorators that say what a function of `model.py` is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

SAGEMAKER_ADAPTER_IDENTIFIER_HEADER = "X-Amzn-SageMaker-Adapter-Identifier"


def input_formatter(function: F) -> F:
    """Marks the function that makes the model's input of a request."""
    return _mark(function, "is_input_formatter")


def prediction_handler(function: F) -> F:
    """Marks the function that predicts."""
    return _mark(function, "is_prediction_handler")


def init_handler(function: F) -> F:
    """Marks the function that loads the model."""
    return _mark(function, "is_init_handler")


def _mark(function: F, attribute: str) -> F:
    setattr(function, attribute, True)
    return function
