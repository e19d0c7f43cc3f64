"""Metrics that handlers print: lines with `[METRICS]`, as DJL, TorchServe and MMS take them from the output of their workers.

    [METRICS]Inference.Milliseconds:311|#Host:a,Model:b|1650953744320|g
    [METRICS]HandlerTime.Milliseconds:12.3|#ModelName:b,Level:Model|#type:GAUGE|#hostname:a,1650953744,REQUEST_ID

The first is DJL's (DJL §6.1), the second that of the others (TorchServe reference §6.3). Lines that are written in one piece are
noticed, as `print` and `logging` do it. They still go where they were to go.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import threading
from collections.abc import Iterator

from flowyard.schemas.frames import Sample

MARK = "[METRICS]"
#: What is kept until the worker sends it; what comes after that is only printed.
MOST_KEPT = 10_000
_KINDS = {"c": "counter", "g": "gauge", "h": "histogram"}
_HEAD = re.compile(r"\s*([\w\s]+)\.([\w\s]+):(-?[0-9][0-9.,eE+-]*)\s*")

_kept: list[Sample] = []
_quiet = threading.local()


def parse(text: str) -> Sample | None:
    """Reads what follows `[METRICS]`.

    Args:
        text: The rest of the line.

    Returns:
        The value, `None` where it is none.
    """
    head, *parts = text.split("|")
    found = _HEAD.fullmatch(head)
    if found is None:
        return None
    try:
        value = float(found[3])
    except ValueError:
        return None
    kind = request_id = ""
    dimensions: tuple[tuple[str, str], ...] = ()
    for part in parts:
        if part.startswith("#type:"):
            kind = part[6:].strip().lower()
        elif part.startswith("#hostname:"):
            request_id = ",".join(part.split(",")[2:]).strip()
        elif part.startswith("#"):
            dimensions = _dimensions(part[1:])
        elif part.strip() in _KINDS:
            kind = _KINDS[part.strip()]
    return Sample(found[1].strip(), found[2].strip(), kind if kind in _KINDS.values() else "", value, dimensions, request_id)


def _dimensions(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [pair.split(":") for pair in text.split(",")]
    return tuple([(pair[0].strip(), pair[1].strip()) for pair in pairs if len(pair) == 2])


def listen() -> None:
    """Notices from now on what is printed."""
    sys.stdout = _listening(sys.stdout)
    sys.stderr = _listening(sys.stderr)


def keep(sample: Sample) -> None:
    """Keeps a value until the worker sends it."""
    if len(_kept) < MOST_KEPT:
        _kept.append(sample)


def take() -> list[Sample]:
    """What has been kept since the last call."""
    if not _kept:
        return []
    taken = list(_kept)
    # A thread may have added one meanwhile.
    del _kept[: len(taken)]
    return taken


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """What this thread prints meanwhile has been kept already."""
    _quiet.on = True
    try:
        yield
    finally:
        _quiet.on = False


class _Listening(io.TextIOWrapper):
    """Standard output or error that looks at what goes through."""

    def write(self, text: str, /) -> int:
        """Writes, and keeps the metrics that are told."""
        if MARK in text and not getattr(_quiet, "on", False):
            for line in text.splitlines():
                told = line.partition(MARK)[2]
                sample = parse(told) if told else None
                if sample is not None:
                    keep(sample)
        return super().write(text)

    def close(self) -> None:
        """Leaves the file open: others write into it, too."""
        with contextlib.suppress(ValueError):
            self.flush()


def _listening(stream: object) -> _Listening:
    assert isinstance(stream, io.TextIOWrapper)
    if isinstance(stream, _Listening):
        return stream
    return _Listening(stream.buffer, stream.encoding, stream.errors, line_buffering=True)
