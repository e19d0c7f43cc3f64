"""Devices: what a name means (DJL §1.9), which ones are here, and how many cores this process may use."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowyard.schemas.devices import CPU, Device
from flowyard.schemas.errors import InvalidRequestError

ALLOWED = "cpu, gpu, gpu0 (or another number), a number (negative is cpu), * for all GPUs, or several joined by `;`"
_NAME = re.compile(r"(cpu)|(gpu|nc)([0-9]{0,5})|(-?[0-9]{1,5})")
_GPU_UUID = re.compile(r"^GPU UUID:\s*(\S+)", re.MULTILINE)


def parse_device(name: str, available: Sequence[Device] | None = None) -> Device:
    """Reads the name of one device.

    Args:
        name: `cpu`, `gpu` (the first one), `gpu3`, `3`, or a negative integer for the CPU. `nc1` (a Neuron core) is a name too.
        available: The devices that are here, `None` to accept any well-formed name.

    Returns:
        The device.

    Raises:
        InvalidRequestError: Not the name of a device, or of one that is not here.
    """
    found = _NAME.fullmatch(name.strip())
    if not found:
        raise InvalidRequestError(f"Failed to parse device name: {name!r}; allowed is {ALLOWED}")
    cpu, kind, index, number = found.groups()
    negative = number is not None and int(number) < 0
    device = CPU if cpu or negative else Device(kind or "gpu", int(index or number or 0))
    if available is not None and device not in available:
        raise InvalidRequestError(f"Device {name!r} is not here; available: {', '.join(str(one) for one in available)}")
    return device


def parse_devices(text: str | None, available: Sequence[Device]) -> tuple[Device, ...]:
    """Reads the devices a model is to be loaded on.

    Args:
        text: Names joined by `;`. `*` stands for all GPUs, or the CPU where there are none; so do empty text and `None`.
        available: The devices that are here.

    Returns:
        The devices in the order given, each once.

    Raises:
        InvalidRequestError: As `parse_device`.
    """
    names = (text or "").strip() or "*"
    found = (device for name in names.split(";") for device in _expand(name, available))
    return tuple(dict.fromkeys(found))


def _expand(name: str, available: Sequence[Device]) -> tuple[Device, ...]:
    if name.strip() == "*":
        return tuple(device for device in available if device.type == "gpu") or (CPU,)
    return (parse_device(name, available),)


def in_sets(devices: Sequence[Device], size: int) -> dict[Device, tuple[Device, ...]]:
    """Shares devices out to workers that take several GPUs each.

    Args:
        devices: The devices of a model.
        size: How many GPUs a worker takes.

    Returns:
        The GPUs of a worker by the first of them, in the order given; what is left of them is too few for another one. The CPU
        is there for every worker, and stands for no GPU.
    """
    gpus = [device for device in devices if device.type == "gpu"]
    sets = {gpus[start]: tuple(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)}
    return {device: () for device in devices if device.type != "gpu"} | sets


def discover(env: Mapping[str, str] | None = None, root: Path = Path("/")) -> tuple[Device, ...]:
    """Finds the devices of this machine without initialising CUDA.

    GPUs are listed by NVML (`nvidia-ml-py`) where that is installed, else by what the driver says under `/proc`. Numbers are
    those that a process with this `CUDA_VISIBLE_DEVICES` sees: `gpu0` is the first visible one.

    Args:
        env: Environment to read `CUDA_VISIBLE_DEVICES` from; that of this process by default.
        root: Root of the file system.

    Returns:
        `cpu`, then the GPUs.
    """
    env = os.environ if env is None else env
    uuids = _nvml_uuids()
    uuids = _proc_uuids(root) if uuids is None else uuids
    count = len(_visible(uuids, env.get("CUDA_VISIBLE_DEVICES")))
    return (CPU, *(Device("gpu", index) for index in range(count)))


def _nvml_uuids() -> tuple[str, ...] | None:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        return _uuids(nvml)
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()


def _uuids(nvml: Any) -> tuple[str, ...]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    uuids = [nvml.nvmlDeviceGetUUID(handle) for handle in handles]
    return tuple(uuid.decode() if isinstance(uuid, bytes) else uuid for uuid in uuids)


def visible_gpus(nvml: Any, env: Mapping[str, str]) -> list[str]:
    """What NVML knows the GPUs by that `discover` finds, in the same order.

    Args:
        nvml: The module `pynvml`, initialised.
        env: Environment to read `CUDA_VISIBLE_DEVICES` from.

    Raises:
        NVMLError: Of the module: the driver fails.
    """
    return _visible(_uuids(nvml), env.get("CUDA_VISIBLE_DEVICES"))


def _proc_uuids(root: Path) -> tuple[str, ...]:
    files = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    found = (_GPU_UUID.search(_read(file)) for file in files)
    return tuple(match.group(1) for match in found if match)


def _visible(uuids: Sequence[str], wanted: str | None) -> list[str]:
    """Applies `CUDA_VISIBLE_DEVICES` as CUDA does: an entry that names no GPU ends the list, a GPU named twice empties it."""
    if wanted is None:
        return list(uuids)
    chosen: list[str] = []
    for entry in wanted.split(","):
        uuid = _named(entry.strip(), uuids)
        if uuid is None:
            break
        if uuid in chosen:
            return []
        chosen.append(uuid)
    return chosen


def _named(entry: str, uuids: Sequence[str]) -> str | None:
    if re.fullmatch(r"[0-9]{1,5}", entry):
        return uuids[int(entry)] if int(entry) < len(uuids) else None
    if entry.startswith("MIG-"):
        return entry if uuids else None
    matches = [uuid for uuid in uuids if entry.startswith("GPU-") and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def cpu_count(root: Path = Path("/")) -> int:
    """Counts the cores that this process may use.

    Args:
        root: Root of the file system, where `/proc` and `/sys` are.

    Returns:
        The least of the scheduler's affinity mask and the quotas of all control groups (version 2 or 1) around this process,
        rounded down, at least 1.
    """
    return max(1, int(min([float(len(os.sched_getaffinity(0))), *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        group = Path(path.lstrip("/"))
        if not controllers:
            yield from _quotas_v2(mount, group)
        elif "cpu" in controllers.split(","):
            yield from _quotas_v1(mount / controllers, group)
            yield from _quotas_v1(mount / "cpu", group)


def _quotas_v2(mount: Path, group: Path) -> Iterator[float]:
    for folder in (group, *group.parents):
        quota, _, period = _read(mount / folder / "cpu.max").partition(" ")
        yield from _cores(quota, period)


def _quotas_v1(mount: Path, group: Path) -> Iterator[float]:
    for folder in (group, *group.parents):
        yield from _cores(_read(mount / folder / "cpu.cfs_quota_us"), _read(mount / folder / "cpu.cfs_period_us"))


def _cores(quota: str, period: str) -> Iterator[float]:
    """Yields nothing where there is no quota: `max` in version 2, -1 in version 1, no file at the root."""
    with contextlib.suppress(ValueError):
        if int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
