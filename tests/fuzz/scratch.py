"""Where fuzzed files are written."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

#: In memory where that is possible: archives are synced to disk.
SCRATCH = Path(tempfile.mkdtemp(prefix="flowyard-fuzzed-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
