"""Where the time of a request went, as its `Server-Timing` says, drawn as bars."""

from __future__ import annotations

from collections.abc import Sequence

from flowyard.platform.cli.output import aligned, printable
from flowyard.platform.client import Span

#: Eighths of a block, so that short steps are seen too.
_EIGHTHS = " ▏▎▍▌▋▊▉"
_BLOCK = "█"


def draw_server_timing(spans: Sequence[Span], total_ms: float, width: int) -> list[str]:
    """Draws a request.

    Args:
        spans: Its steps. Where all of them say when they began, a bar stands where its step was in time; else bars begin at the
            left and only their lengths say something.
        total_ms: How long it took as seen from here.
        width: Columns of the terminal.

    Returns:
        Lines: the name, the bar and the milliseconds of each step, and the total.
    """
    placed = all(span.start_ms is not None for span in spans)
    scale_ms = max([total_ms, *((span.start_ms or 0) + span.duration_ms for span in spans)])
    names = [printable(span.name) for span in spans]
    room = max(10, width - max([len("total"), *map(len, names)]) - 20)
    rows = [
        (name, bar(span.start_ms or 0, span.duration_ms, scale_ms, room), f"{span.duration_ms:.2f} ms")
        for name, span in zip(names, spans, strict=True)
    ]
    rows.append(("total", bar(0, total_ms, scale_ms, room), f"{total_ms:.2f} ms"))
    digits = max(len(time) for _, _, time in rows)
    lines = aligned([(name, drawn.ljust(room), time.rjust(digits)) for name, drawn, time in rows])
    if not spans:
        lines.append("the server does not say where the time went")
    elif not placed:
        lines.append("the server says how long each step took, not when it began: bars begin at the left")
    return lines


def bar(start_ms: float, duration_ms: float, scale_ms: float, room: int) -> str:
    """A bar of at least an eighth of a column.

    Args:
        start_ms: Where it begins.
        duration_ms: How long it is.
        scale_ms: What the whole width stands for.
        room: Columns.

    Returns:
        Blanks and blocks, at most `room` of them.
    """
    if scale_ms <= 0:
        return ""
    first = min(int(start_ms / scale_ms * room), room - 1)
    eighths = max(1, round(duration_ms / scale_ms * room * 8))
    eighths = min(eighths, (room - first) * 8)
    blocks, rest = divmod(eighths, 8)
    return " " * first + _BLOCK * blocks + (_EIGHTHS[rest] if rest else "")
