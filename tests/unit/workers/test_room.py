"""Memory for more workers: the machine's, the control group's, and what is refused."""

from __future__ import annotations

import pytest

from flowyard.platform.workers.room import MIB, Wanted, available_bytes, check_room, total_bytes
from flowyard.schemas.errors import OutOfMemoryError


@pytest.fixture
def machine(tmp_path):
    def write(free_mib=None, limit=None, used=None):
        (tmp_path / "proc").mkdir()
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        if free_mib is not None:
            (tmp_path / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {free_mib * 1024} kB\n")
        if limit is not None:
            (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n")
            (tmp_path / "sys/fs/cgroup/memory.current").write_text(f"{used}\n")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"free_mib": 100}, 100 * MIB),
        ({"free_mib": 100, "limit": "max", "used": 5}, 100 * MIB),
        ({"free_mib": 100, "limit": 50 * MIB, "used": 20 * MIB}, 30 * MIB),
        ({"free_mib": 10, "limit": 50 * MIB, "used": 20 * MIB}, 10 * MIB),
        ({"free_mib": 10, "limit": 5, "used": 9}, 0),
        ({"limit": "odd", "used": 9}, None),
    ],
)
def test_what_is_free(machine, given, expected):
    assert available_bytes(machine(**given)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"free_mib": 100}, 9 * 1024),
        ({"free_mib": 100, "limit": "max", "used": 5}, 9 * 1024),
        ({"free_mib": 100, "limit": 5000, "used": 20}, 5000),
        ({"free_mib": 100, "limit": 50 * MIB, "used": 20}, 9 * 1024),
        ({"limit": "odd", "used": 9}, None),
    ],
)
def test_all_that_there_is(machine, given, expected):
    assert total_bytes(machine(**given)) == expected


@pytest.mark.parametrize(
    "wanted", [[], [Wanted(0)], [Wanted(-3)], [Wanted(2, 40 * MIB)], [Wanted(1, 40 * MIB), Wanted(1, 40 * MIB)]]
)
def test_what_fits(machine, wanted):
    check_room(wanted, 20 * MIB, machine(free_mib=100))


@pytest.mark.parametrize("wanted", [[Wanted(1000)], [Wanted(3, 40 * MIB)], [Wanted(2, 40 * MIB), Wanted(1, MIB)]])
def test_what_does_not(machine, wanted):
    with pytest.raises(OutOfMemoryError, match=r"No enough memory to load the model: \d+ more workers .*reserved_memory_mb"):
        check_room(wanted, 20 * MIB, machine(free_mib=100))


def test_nothing_is_refused_where_nobody_says_what_is_free(machine):
    check_room([Wanted(1000)], 0, machine())
