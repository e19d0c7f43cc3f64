"""What the machine uses: processor, memory, disk. Read when somebody asks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

_MIB = 1 << 20
_GIB = 1 << 30


class HostUse(msgspec.Struct, frozen=True, kw_only=True):
    """Use of the machine at one moment."""

    cpu_percent: float
    memory_used_mb: float
    memory_available_mb: float
    memory_percent: float
    disk_used_gb: float
    disk_available_gb: float
    disk_percent: float


def host_use(root: Path = Path("/")) -> HostUse:
    """Reads it.

    Args:
        root: Root of the file system; its disk is the one that counts.
    """
    total, available = memory_bytes(root)
    disk = shutil.disk_usage(root)
    cores = os.cpu_count() or 1
    return HostUse(
        cpu_percent=min(100.0, 100 * os.getloadavg()[0] / cores),
        memory_used_mb=(total - available) / _MIB,
        memory_available_mb=available / _MIB,
        memory_percent=100 * (total - available) / total if total else 0.0,
        disk_used_gb=disk.used / _GIB,
        disk_available_gb=disk.free / _GIB,
        disk_percent=100 * disk.used / disk.total if disk.total else 0.0,
    )


def memory_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """Bytes of memory, and bytes of it that are free to use; 0 and 0 where nobody says."""
    numbers: dict[str, int] = {}
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                numbers[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0, 0
    return numbers.get("MemTotal", 0), numbers.get("MemAvailable", 0)
