"""Where the time went: the `Server-Timing` header."""

from __future__ import annotations

import math

import msgspec


class Span(msgspec.Struct, frozen=True):
    """One step of a request.

    Attributes:
        name: The node, or whatever the server calls it.
        duration_ms: How long it took.
        start_ms: When it began, counted from the first one; `None` where the server does not say.
    """

    name: str
    duration_ms: float
    start_ms: float | None = None


def spans_of(header: str) -> tuple[Span, ...]:
    """Reads a `Server-Timing` header: `image;dur=0.64, a;start=0.7;dur=11.17`.

    Args:
        header: The header, empty when there is none.

    Returns:
        The entries that have a duration, in order.
    """
    found: list[Span] = []
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        values = {key.strip().lower(): text.strip().strip('"') for key, _, text in (part.partition("=") for part in parameters)}
        duration = _milliseconds(values.get("dur", ""))
        if name and duration is not None:
            found.append(Span(name, duration, _milliseconds(values.get("start", ""))))
    return tuple(found)


def _milliseconds(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
