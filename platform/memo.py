"""Remembering what clients say again and again, without keeping what they say to fill memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

#: A longer text is worked out each time: names are shorter, a head may hold 64 KiB, and thousands of texts are kept.
MAX_REMEMBERED = 512

Function = TypeVar("Function", bound=Callable[..., Any])


def remembered(entries: int) -> Callable[[Function], Function]:
    """Makes a pure function remember its latest results, where its first argument is short.

    Args:
        entries: How many.
    """

    def decorate(function: Function) -> Function:
        known = functools.lru_cache(maxsize=entries)(function)

        @functools.wraps(function)
        def answer(text: str | bytes, *further: str) -> Any:
            return known(text, *further) if len(text) <= MAX_REMEMBERED else function(text, *further)

        return answer  # type: ignore[return-value]

    return decorate
