"""What docs/client.md shows is what happens."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from support.server import ROOT

TEXT = (ROOT / "docs" / "client.md").read_text()
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def examples(server, http, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples" / "digits", tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWYARD_URL", str(server.client.base_url).rstrip("/"))
    yield tmp_path
    http.delete("/workflows/digits")


def test_the_session_in_the_shell(examples):
    (session,) = blocks("console")
    for step in session.removeprefix("$ ").split("\n$ "):
        line, _, expected = step.partition("\n")
        command = shlex.split(line)
        assert command[0] == "flowyard"
        done = subprocess.run(
            [sys.executable, "-m", "flowyard.platform.cli.main", *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ,
            check=False,
        )
        assert doctest.OutputChecker().check_output(expected.strip(), done.stdout.strip(), OPTIONS), f"{line}\n{done.stdout}"


def test_the_session_in_python(examples):
    subprocess.run([sys.executable, "-m", "flowyard.platform.cli.main", "workflows", "register", "digits"], check=True)
    (session,) = blocks("pycon")
    test = doctest.DocTestParser().get_doctest(session, {}, "docs/client.md", "docs/client.md", 0)
    shown: list[str] = []
    results = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=shown.append)
    assert results.failed == 0, "".join(shown)
    assert results.attempted > 10
