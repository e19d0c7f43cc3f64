"""Whether there is memory for more workers: a mistyped number of them must not cost the machine its life (DJL §5)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from flowyard.platform.telemetry.host import memory_bytes
from flowyard.schemas.errors import OutOfMemoryError

MIB = 1 << 20
#: What a worker takes about which nothing is known yet: an interpreter, numpy and a small model.
UNKNOWN_WORKER_BYTES = 64 * MIB
_CONTROL_GROUP = "sys/fs/cgroup"


class Wanted(NamedTuple):
    """Workers that are to be started, and what each of them takes."""

    workers: int
    each_bytes: int = UNKNOWN_WORKER_BYTES


def check_room(wanted: Iterable[Wanted], reserved_bytes: int, root: Path = Path("/")) -> None:
    """Makes sure that more workers fit into memory.

    Args:
        wanted: The workers, by model.
        reserved_bytes: What is to stay free (setting `reserved_memory_mb`).
        root: Root of the file system.

    Raises:
        OutOfMemoryError: They do not; the text begins as DJL's.
    """
    several = [one for one in wanted if one.workers > 0]
    needed = sum(one.workers * one.each_bytes for one in several)
    free = available_bytes(root)
    if not needed or free is None or needed + reserved_bytes <= free:
        return
    workers = sum(one.workers for one in several)
    raise OutOfMemoryError(
        f"No enough memory to load the model: {workers} more workers take about {needed // MIB} MiB, {free // MIB} MiB are free, "
        f"{reserved_bytes // MIB} of them to stay so (setting reserved_memory_mb)"
    )


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that is free to use: the machine's, or what is left of the control group's limit. `None` where nobody says."""
    known = [free for free in (_machine(root), _control_group(root)) if free is not None]
    return min(known) if known else None


def total_bytes(root: Path = Path("/")) -> int | None:
    """All memory: the machine's, or the control group's limit. `None` where nobody says."""
    group = _number(root / _CONTROL_GROUP / "memory.max")
    known = [total for total in (memory_bytes(root)[0], group) if total]
    return min(known) if known else None


def _machine(root: Path) -> int | None:
    total, available = memory_bytes(root)
    return available if total else None


def _control_group(root: Path) -> int | None:
    limit, used = (_number(root / _CONTROL_GROUP / name) for name in ("memory.max", "memory.current"))
    return None if limit is None or used is None else max(0, limit - used)


def _number(path: Path) -> int | None:
    """What a file says; `None` where that is no number, such as `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
