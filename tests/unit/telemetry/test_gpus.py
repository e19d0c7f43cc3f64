"""What the GPUs are doing, with a stand-in for NVML."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest
from support.server import wait_until

from flowyard.platform.telemetry.gpus import Gpus, GpuUse


class FakeNvmlError(Exception):
    pass


class FakeNvml:
    """Two GPUs, of which the second one has no rates, as a part of a GPU has none."""

    NVMLError = FakeNvmlError
    UUIDS = ("GPU-a", "GPU-b")

    def __init__(self, broken: str = "") -> None:
        self._broken = broken
        self.shut_down = threading.Event()

    def _step(self, name: str) -> None:
        if self._broken == name:
            raise FakeNvmlError(name)

    def nvmlInit(self):  # noqa: N802 - the library's name
        self._step("init")

    def nvmlShutdown(self):  # noqa: N802
        self.shut_down.set()

    def nvmlDeviceGetCount(self):  # noqa: N802
        self._step("count")
        return len(self.UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self.UUIDS[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self._step("handle")
        return uuid

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return handle.encode()

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        if handle == "GPU-b":
            raise FakeNvmlError("not supported")
        return SimpleNamespace(gpu=97, memory=41)

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(total=80 << 30, free=0, used=(70 if handle == "GPU-a" else 5) << 20)


FIRST = {"percent": 97, "memory_percent": 41, "memory_used_mb": 70}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, (GpuUse(id=0, **FIRST), GpuUse(id=1, memory_used_mb=5))),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, (GpuUse(id=0, memory_used_mb=5), GpuUse(id=1, **FIRST))),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a"}, (GpuUse(id=0, **FIRST),)),
    ],
)
def test_what_they_do_by_the_numbers_that_workers_know(monkeypatch, env, expected):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    gpus = Gpus(2, env)
    wait_until(lambda: gpus.latest)
    assert gpus.latest == expected
    gpus.close()
    assert nvml.shut_down.wait(20)


@pytest.mark.parametrize(("broken", "opened"), [("init", False), ("count", True)])
def test_a_driver_that_fails_is_no_more_than_a_warning(monkeypatch, broken, opened):
    nvml = FakeNvml(broken)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    gpus = Gpus(2, {})
    wait_until(lambda: not any(thread.name == "gpus" for thread in threading.enumerate()))
    assert (gpus.latest, nvml.shut_down.is_set()) == ((), opened)


def test_a_gpu_that_is_lost_tells_nothing(monkeypatch):
    nvml = FakeNvml("handle")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    gpus = Gpus(2, {})
    wait_until(lambda: gpus.latest)
    assert gpus.latest == (GpuUse(id=0), GpuUse(id=1))
    gpus.close()
    assert nvml.shut_down.wait(20)


def test_without_gpus_nobody_looks(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    before = threading.active_count()
    assert Gpus(0, {}).latest == ()
    assert threading.active_count() == before


def test_without_nvml_nothing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    gpus = Gpus(1, {})
    wait_until(lambda: not any(thread.name == "gpus" for thread in threading.enumerate()))
    assert gpus.latest == ()
