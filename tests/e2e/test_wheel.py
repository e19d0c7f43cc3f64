"""The wheel, installed alone in a clean environment, serves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from pathlib import Path

import pytest
from support.archives import linear_onnx
from support.server import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A virtual environment with the wheel and, through a path file, the libraries it needs; nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("engines", "platform", "schemas", "workflows"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", source],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    home = folder / "venv"
    venv.create(home)
    site = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--no-compile", wheel], check=True, cwd=folder)
    # A plain path entry: path files inside that folder, such as the one of the editable installation, are not read.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def test_holds_no_file_of_the_checkout(installed):
    code = "import flowyard.platform.server, flowyard.engines, flowyard.schemas, flowyard.workflows, sys;"
    code += "print([m.__file__ for n, m in sys.modules.items() if n.startswith('flowyard') and getattr(m, '__file__', None)])"
    out = subprocess.run([installed / "bin" / "python", "-c", code], check=True, capture_output=True, text=True, cwd=installed)
    assert str(ROOT) not in out.stdout
    assert str(installed) in out.stdout


def test_serves(installed, tmp_path):
    model, ready = tmp_path / "linear.onnx", tmp_path / "ready"
    model.write_bytes(linear_onnx([[4.0]]))
    command = [installed / "bin" / "flowyard", "serve", "--port", "0", "--state-dir", tmp_path / "state"]
    command += ["--ready-file", ready, "--load", f"linear={model}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with subprocess.Popen([str(part) for part in command], cwd=tmp_path, env=environment) as server:
        try:
            wait_until(lambda: ready.exists() or server.poll() is not None)
            request = urllib.request.Request(
                ready.read_text().strip() + "/predictions/linear", b"[2]", {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert json.load(answer) == [8.0]
        finally:
            server.terminate()
        assert server.wait(30) == 0
