import os
import re
import sys
from types import SimpleNamespace

import pytest

from flowyard.platform import devices
from flowyard.platform.devices import cpu_count, discover, parse_device, parse_devices
from flowyard.schemas.devices import CPU, Device
from flowyard.schemas.errors import InvalidRequestError

GPU0, GPU1 = Device("gpu", 0), Device("gpu", 1)
HERE = (CPU, GPU0, GPU1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu", CPU),
        ("-1", CPU),
        ("-7", CPU),
        ("gpu", GPU0),
        ("gpu0", GPU0),
        ("0", GPU0),
        (" gpu1 ", GPU1),
        ("1", GPU1),
        ("gpu99", Device("gpu", 99)),
        ("nc1", Device("nc", 1)),
    ],
)
def test_names(name, expected):
    assert parse_device(name) == expected


@pytest.mark.parametrize(
    "name", ["GPU0", "cpu0", "gpu-1", "gpu 0", "tpu", "0,1", "gpu0,gpu1", "gpu0+gpu1", "", "1.0", "\u0661", "gpu0\n1", "*"]
)
def test_bad_names_are_shown_with_the_rule(name):
    message = f"Failed to parse device name: {name!r}; allowed is cpu, gpu, gpu0"
    with pytest.raises(InvalidRequestError, match=re.escape(message)):
        parse_device(name, HERE)


@pytest.mark.parametrize(
    ("text", "available", "expected"),
    [
        ("*", HERE, (GPU0, GPU1)),
        ("*", (CPU,), (CPU,)),
        ("", HERE, (GPU0, GPU1)),
        (None, (CPU,), (CPU,)),
        ("gpu1;gpu0", HERE, (GPU1, GPU0)),
        ("0; -1", HERE, (GPU0, CPU)),
        ("gpu;gpu0;0", HERE, (GPU0,)),
        ("cpu;*", HERE, (CPU, GPU0, GPU1)),
    ],
)
def test_lists(text, available, expected):
    assert parse_devices(text, available) == expected


@pytest.mark.parametrize("text", ["gpu99", "nc1", "gpu0;2", "99999"])
def test_devices_that_are_not_here(text):
    with pytest.raises(InvalidRequestError, match="is not here; available: cpu, gpu0, gpu1"):
        parse_devices(text, HERE)


@pytest.mark.parametrize("text", ["gpu0;", ";", "gpu0,gpu1"])
def test_bad_lists(text):
    with pytest.raises(InvalidRequestError, match="Failed to parse device name"):
        parse_devices(text, HERE)


def test_gpu_without_one():
    with pytest.raises(InvalidRequestError, match="Device 'gpu' is not here; available: cpu"):
        parse_devices("gpu", (CPU,))


class FakeNvmlError(Exception):
    pass


def fake_nvml(uuids, broken=""):
    def step(name, value):
        def call(*args):
            if broken == name:
                raise FakeNvmlError(name)
            return value(*args)

        return call

    return SimpleNamespace(
        NVMLError=FakeNvmlError,
        nvmlInit=step("init", lambda: None),
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=step("count", lambda: len(uuids)),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda index: uuids[index],
    )


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 3),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("2", 1),
        ("2,0", 2),
        ("0,7,1", 1),
        ("0,0", 0),
        ("GPU-aaaa, GPU-bb", 2),
        ("GPU-a", 0),
        ("GPU-zz", 0),
        ("MIG-1234", 1),
        ("0,-1,1", 1),
    ],
)
def test_cuda_visible_devices(monkeypatch, visible, count):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(["GPU-aaaa", "GPU-abcd", b"GPU-bbbb"]))
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert discover(env) == (CPU, *(Device("gpu", index) for index in range(count)))


@pytest.mark.parametrize("broken", ["init", "count"])
def test_no_gpu_where_the_driver_fails(monkeypatch, broken):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(["GPU-a"], broken))
    assert discover({}) == (CPU,)


def test_gpus_by_the_driver_where_nvml_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for slot, uuid in (("0000:01:00.0", "GPU-1"), ("0000:02:00.0", "GPU-2")):
        folder = tmp_path / "proc/driver/nvidia/gpus" / slot
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t X\nGPU UUID: \t {uuid}\nDevice Minor: \t 0\n")
    assert discover({}, tmp_path) == HERE
    assert discover({"CUDA_VISIBLE_DEVICES": "GPU-2"}, tmp_path) == (CPU, GPU0)
    assert discover({}, tmp_path / "none") == (CPU,)


def control_group(root, lines, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("\n".join(lines) + "\n")
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ([], {}, 16),
        (["nonsense"], {}, 16),
        (["0::/"], {"cpu.max": "max 100000\n"}, 16),
        (["0::/"], {"cpu.max": "400000 100000\n"}, 4),
        (["0::/"], {"cpu.max": "250000 100000\n"}, 2),
        (["0::/a/b"], {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        (["0::/"], {"cpu.max": "50000 100000\n"}, 1),
        (["0::/"], {"cpu.max": "nonsense\n"}, 16),
        (["4:cpu,cpuacct:/x"], {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2),
        (["4:cpu:/x"], {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 16),
        (["4:memory:/x"], {"cpu/x/cpu.cfs_quota_us": "100000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)
def test_cpu_count_honours_quotas(monkeypatch, tmp_path, lines, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    control_group(tmp_path, lines, files)
    assert cpu_count(tmp_path) == expected


def test_cpu_count_of_this_machine():
    assert 1 <= cpu_count() <= len(os.sched_getaffinity(0))
    assert devices.discover()[0] == CPU
