"""What holds for all tests."""

from __future__ import annotations

import compileall
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "engines", "workflows", "platform")

# How long an example may take depends on what else the machine does; a test that is about time says so itself.
settings.register_profile("flowyard", deadline=None)
settings.load_profile("flowyard")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for a third of their time."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of properties first: some take half a minute, and the other processes would wait for them at the end."""
    items.sort(key=lambda item: not item.path.stem.endswith("_properties"))


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the packages before the first test, and keeps what pytest compiles for the next run.

    Where the environment keeps Python from writing bytecode, each of the many processes that tests start would compile them anew.
    """
    sys.dont_write_bytecode = False
    if not hasattr(config, "workerinput"):
        for package in PACKAGES:
            compileall.compile_dir(ROOT / package, quiet=2)
