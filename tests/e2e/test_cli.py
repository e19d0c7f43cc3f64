"""The command line, as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.archives import zipped

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
BAD = "name: x\nfunctions: {one: steps:one}\nworkflow:\n  a: [onne, in]\n  out: [one, in]\n"


def flowyard(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowyard.platform.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize("target", ["folder", "file", "archive"])
def test_check_says_that_a_workflow_is_valid(tmp_path, target):
    archive = tmp_path / "digits.zip"
    archive.write_bytes(zipped({path.name: path.read_bytes() for path in DIGITS.iterdir() if path.is_file()}))
    path = {"folder": DIGITS, "file": DIGITS / "workflow.yaml", "archive": archive}[target]
    done = flowyard("check", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: workflow digits is valid\n", "")


@pytest.mark.parametrize("target", ["folder", "file", "archive"])
def test_check_names_line_and_fix(tmp_path, target):
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "workflow.yaml").write_text(BAD)
    (folder / "steps.py").write_text("def one(x):\n    return x\n")
    archive = tmp_path / "flow.zip"
    archive.write_bytes(zipped({"workflow.yaml": BAD, "steps.py": "def one(x):\n    return x\n"}))
    path = {"folder": folder, "file": folder / "workflow.yaml", "archive": archive}[target]
    done = flowyard("check", path)
    assert done.returncode == 1
    shown = path if target == "file" else path / "workflow.yaml"
    assert f"{shown}:4:" in done.stdout
    assert 'did you mean "one"?' in done.stdout
    assert "Traceback" not in done.stderr


def test_warnings_alone_are_no_failure(tmp_path):
    (tmp_path / "workflow.yaml").write_text("name: x\nworkflow:\n  unused: [id, in]\n  out: [id, in]\n")
    done = flowyard("check", tmp_path)
    assert done.returncode == 0
    assert "workflow.yaml:3:" in done.stdout
    assert "warning" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["check", "nothing-here"], 1, "nothing-here"),
        (["check", "."], 1, "workflow.yaml"),
        (["graph", "nothing-here"], 1, "nothing-here"),
        (["check", ".", "--model-store", "nowhere"], 1, "nowhere"),
        (["pack", "nothing-here"], 1, "nothing-here"),
        (["pack", "."], 1, "workflow.yaml"),
        (["graph", ".", "--format", "png"], 2, "png"),
        (["check"], 2, "path"),
        (["cheque", "x"], 2, "cheque"),
    ],
)
def test_mistakes_get_a_message_and_a_status(tmp_path, arguments, status, words):
    done = flowyard(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert words.lower() in (done.stdout + done.stderr).lower()
    assert "Traceback" not in done.stderr


def test_pack_checks_and_writes_a_valid_archive(tmp_path):
    done = flowyard("pack", DIGITS, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("digits.zip: ")
    first = (tmp_path / "digits.zip").read_bytes()
    assert flowyard("pack", DIGITS, "-o", tmp_path / "again.zip").returncode == 0
    assert (tmp_path / "again.zip").read_bytes() == first
    assert flowyard("check", tmp_path / "digits.zip").returncode == 0


def test_pack_writes_nothing_when_the_workflow_is_wrong(tmp_path):
    (tmp_path / "workflow.yaml").write_text(BAD)
    done = flowyard("pack", tmp_path, "-o", tmp_path / "x.zip")
    assert done.returncode == 1
    assert "workflow.yaml:4:7: error:" in done.stdout
    assert not (tmp_path / "x.zip").exists()


def test_graph_in_dot_and_svg(tmp_path):
    done = flowyard("graph", DIGITS, "--format", "dot")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('digraph "digits" {\n')
    assert '[label="scores: ensemble"]' in done.stdout
    dot = tmp_path / "dot"
    dot.write_text("#!/bin/sh\necho '<svg>'; grep -c label\n")
    dot.chmod(0o755)
    command = [sys.executable, "-m", "flowyard.platform.cli.main", "graph", str(DIGITS), "--format", "svg"]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | path)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "<svg>")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": ""})
    assert done.returncode == 1
    assert "needs Graphviz" in done.stderr


def test_graph_draws_the_workflow():
    done = flowyard("graph", DIGITS)
    assert done.returncode == 0
    assert done.stdout.startswith("flowchart LR")
    assert all(node in done.stdout for node in ("decode", "cnn", "mlp", "ensemble", "label"))


def test_the_version_can_be_asked():
    assert flowyard("--version").stdout.strip() == "0.1.0"
