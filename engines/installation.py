"""Runs pip as confined as a worker: what a requirement does while it is built is user code.

python -m flowyard.engines.installation [limits] -- ARGUMENTS OF PIP
"""

from __future__ import annotations

import argparse
import runpy
import sys

from flowyard.engines import confinement


def main() -> None:
    """Confines the process, then is pip."""
    parser = argparse.ArgumentParser(prog="python -m flowyard.engines.installation", description=__doc__)
    confinement.add_arguments(parser)
    parser.add_argument("pip", nargs="*")
    options = parser.parse_args()
    confinement.confine(options)
    sys.argv = ["pip", *options.pip]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
