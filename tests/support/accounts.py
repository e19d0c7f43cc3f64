"""What another user needs to run workers in tests: a Python that it may start, and a folder that it may enter."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engines", "platform", "schemas", "workflows")
#: A number that nobody has.
STRANGER = 54321


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="flowyard-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def python_of_others(folder: Path) -> tuple[str, dict[str, str]] | None:
    """A Python that every user can start, with flowyard on its path.

    Args:
        folder: Gets the packages, where they have to be found without an installation.

    Returns:
        The program and the environment that it wants; `None` where there is none.
    """
    packages = folder / "packages" / "flowyard"
    packages.mkdir(parents=True)
    for package in PACKAGES:
        (packages / package).symlink_to(ROOT / package)
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    path = os.pathsep.join((str(packages.parent), str(Path(msgspec.__file__).parents[1])))
    for program, env in ((sys.executable, {}), (system, {"PYTHONPATH": path, "VIRTUAL_ENV": ""})):
        if _can_start(program, env):
            return program, env
    return None


def _can_start(program: str, env: dict[str, str]) -> bool:
    command = [program, "-c", "import flowyard.engines.worker"]
    try:
        done = subprocess.run(
            command, user=STRANGER, group=STRANGER, extra_groups=[], env=os.environ | env, capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0
