"""The command line, run within the process of a test: the start of an interpreter would cost more than most commands do."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

from flowyard.platform.cli.main import main


def run(
    *arguments: object, stdin: bytes = b"", env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs `flowyard` as if it were typed, with pipes for its input, output and errors.

    Args:
        arguments: What is typed after `flowyard`.
        stdin: Its input.
        env: Further variables.
        cwd: Where it runs.

    Returns:
        Its exit status, output and errors. An exception that would have been a traceback is raised.
    """
    command = ["flowyard", *map(str, arguments)]
    with _environment(env or {}, cwd), mock.patch.object(sys, "argv", command), _pipes(stdin) as (output, errors):
        try:
            _main()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
        sys.stderr.flush()
        assert isinstance(status, int), status
        return subprocess.CompletedProcess(command, status, output.getvalue(), errors.getvalue())


def run_text(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same, for a command whose output and errors are text."""
    done = run(*arguments)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _main() -> None:
    with warnings.catch_warnings():
        # That a test has it read what was typed is usually a mistake.
        warnings.filterwarnings("ignore", "Cyclopts application invoked without tokens", UserWarning)
        main()


@contextlib.contextmanager
def _environment(env: Mapping[str, str], cwd: Path | None) -> Iterator[None]:
    with mock.patch.dict(os.environ, env), contextlib.chdir(cwd or Path.cwd()):
        yield


@contextlib.contextmanager
def _pipes(stdin: bytes) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    output, errors = io.BytesIO(), io.BytesIO()
    streams = {
        "stdin": io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"),
        "stdout": io.TextIOWrapper(output, encoding="utf-8"),
        "stderr": io.TextIOWrapper(errors, encoding="utf-8", errors="backslashreplace"),
    }
    with mock.patch.multiple(sys, **streams):
        yield output, errors
