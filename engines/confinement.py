"""What a worker process denies itself before it runs any code of a user's; none of it can be taken back."""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal

EXIT_ORPHAN = 5
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
UMASK = 0o077


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the limits to a worker's command line; without one there is none."""
    parser.add_argument("--open-files", type=int, help="most files that may be open")
    parser.add_argument("--address-space-bytes", type=int, help="most memory that may be mapped")
    parser.add_argument("--cpu-s", type=int, help="seconds of computing after which the process is ended")


def confine(options: argparse.Namespace) -> None:
    """Gives up what a model has no use for, and ends with the server.

    No core dumps, which would hold what is in memory; no gain of privileges by running a setuid program; new files for the owner
    only; and the limits of the command line.

    Args:
        options: The command line.
    """
    _die_with_parent()
    _limit(resource.RLIMIT_CORE, 0)
    for kind, limit in (
        (resource.RLIMIT_NOFILE, options.open_files),
        (resource.RLIMIT_AS, options.address_space_bytes),
        (resource.RLIMIT_CPU, options.cpu_s),
    ):
        if limit is not None:
            _limit(kind, limit)
    os.umask(UMASK)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def _limit(kind: int, limit: int) -> None:
    """Lowers a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _die_with_parent() -> None:
    """Asks the kernel for an end when the server ends, and makes sure that it has not ended before."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_ORPHAN)
