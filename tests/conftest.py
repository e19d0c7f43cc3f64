"""What holds for all tests."""

from __future__ import annotations

import compileall
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "engines", "workflows", "platform")

# How long an example may take depends on what else the machine does; a test that is about time says so itself.
settings.register_profile("flowyard", deadline=None)
settings.load_profile("flowyard")


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the packages before the first test.

    Where the environment keeps Python from writing bytecode, each of the many processes that tests start would compile them anew.
    """
    if not hasattr(config, "workerinput"):
        for package in PACKAGES:
            compileall.compile_dir(ROOT / package, quiet=2)
