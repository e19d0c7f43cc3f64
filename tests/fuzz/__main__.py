"""Coverage-guided fuzzing of what reads bytes from elsewhere. No part of the test suite; needs `pip install atheris`.

    PYTHONPATH=tests python -m fuzz archives -max_total_time=300 -timeout=5 -rss_limit_mb=1024

Everything that is no `FlowyardError` (of frames: no `FrameError`), or is over the limit of time or memory, is a defect; libFuzzer
leaves the input as a file `crash-…`, `timeout-…` or `oom-…`, which as a further argument shows it again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["flowyard"]):
    from fuzz import targets


def main() -> None:
    """Runs the target of the first argument."""
    name, *arguments = sys.argv[1:] or [""]
    if name not in targets.TARGETS:
        sys.exit(f"{name!r}: one of {', '.join(targets.TARGETS)} is expected")
    target, seeds = targets.TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="flowyard-fuzz-") as corpus:
        for number, seed in enumerate(seeds()):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
            # What is imported on the first use is not held against an input.
            target(seed)
        atheris.Setup([sys.argv[0], "-max_len=65536", *arguments, corpus], target)
        atheris.Fuzz()


main()
