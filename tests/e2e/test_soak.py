"""A short soak; `make soak` runs the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_lost_while_everything_goes_wrong():
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "15", "--callers", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert "nothing was lost" in done.stdout
