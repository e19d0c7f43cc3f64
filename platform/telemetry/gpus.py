"""What the GPUs are doing, as NVML says: this process has no CUDA, and needs none for that."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from flowyard.platform.devices import visible_gpus

log = structlog.stdlib.get_logger(__name__)

#: Time between two looks.
LOOK_EVERY_S = 2.0
_MIB = 1 << 20


class GpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """Use of one GPU at one moment; `None` for what its driver does not tell.

    Attributes:
        id: Its number, as processes of this environment count the GPUs.
        percent: Share of the time in which it computed.
        memory_percent: Share of the time in which its memory was read or written.
        memory_used_mb: Memory in use.
    """

    id: int
    percent: int | None = None
    memory_percent: int | None = None
    memory_used_mb: int | None = None


class Gpus:
    """Looks at the GPUs from time to time, in a thread of its own: a driver that hangs holds up nobody else.

    Args:
        count: How many there are; where there are none, there is no thread.
        env: Environment that says which of the machine's they are; that of this process by default.

    Attributes:
        latest: What was seen last.
    """

    def __init__(self, count: int, env: Mapping[str, str] | None = None) -> None:
        self.latest: tuple[GpuUse, ...] = ()
        self._env = os.environ if env is None else env
        self._closing = threading.Event()
        if count:
            threading.Thread(target=self._watch, name="gpus", daemon=True).start()

    def close(self) -> None:
        """Nobody looks any more."""
        self._closing.set()

    def _watch(self) -> None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            log.warning("there are no metrics of GPUs without the package nvidia-ml-py", extra="flowyard[gpu]")
            return
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            log.warning("there are no metrics of GPUs", reason=str(error))
            return
        try:
            uuids = visible_gpus(nvml, self._env)
            while not self._closing.is_set():
                self.latest = tuple(_use_of(nvml, number, uuid) for number, uuid in enumerate(uuids))
                self._closing.wait(LOOK_EVERY_S)
        except nvml.NVMLError as error:
            log.warning("there are no metrics of GPUs", reason=str(error))
        finally:
            nvml.nvmlShutdown()


def _use_of(nvml: Any, number: int, uuid: str) -> GpuUse:
    def told(ask: Callable[[Any], Any]) -> Any:
        """What the driver tells of it; parts of a GPU, for one, have no rates."""
        try:
            return ask(nvml.nvmlDeviceGetHandleByUUID(uuid))
        except nvml.NVMLError:
            return None

    rates, memory = told(nvml.nvmlDeviceGetUtilizationRates), told(nvml.nvmlDeviceGetMemoryInfo)
    return GpuUse(
        id=number,
        percent=None if rates is None else int(rates.gpu),
        memory_percent=None if rates is None else int(rates.memory),
        memory_used_mb=None if memory is None else int(memory.used) // _MIB,
    )
