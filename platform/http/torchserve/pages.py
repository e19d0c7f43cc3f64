"""Pages of a list: the last one, too, has a token for the next where it is full, as in the originals (reference §1.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from flowyard.platform.http.torchserve.parameters import Parameters

T = TypeVar("T")

MAX_PAGE = 100


def slice_of(items: Sequence[T], given: Parameters) -> tuple[list[T], str | None]:
    """What is on a page, and the token of the next one."""
    limit = given.integer("limit")
    limit = MAX_PAGE if limit is None or not 0 <= limit <= MAX_PAGE else limit
    start = max(0, given.integer("next_page_token") or 0)
    end = start + limit
    return list(items[start:end]), str(end) if end <= len(items) else None


def matches(pattern: str, name: str) -> bool:
    """Whether a name has what a `model_name_pattern` of the early documents says: a text in it, `*` for any characters."""
    return re.search(".*".join(map(re.escape, pattern.split("*"))), name) is not None
