"""Engines by name, and the engine of a model by its files."""

import subprocess
import sys

import pytest

from flowyard.engines import discovery
from flowyard.schemas.errors import InvalidRequestError, ModelNotFoundError


@pytest.mark.parametrize(
    ("name", "expected"),
    [("OnnxRuntime", "OnnxRuntime"), ("onnxruntime", "OnnxRuntime"), ("ONNX", "OnnxRuntime"), ("onnx_runtime", "OnnxRuntime"),
     ("PyTorch", "PyTorch"), ("pytorch", "PyTorch"), ("torch", "PyTorch"), ("Python", "Python"), (" python ", "Python")],
)  # fmt: skip
def test_spellings(name, expected):
    assert discovery.canonical(name) == expected
    assert discovery.find(name).name == expected


def test_an_unknown_engine():
    with pytest.raises(InvalidRequestError, match=r"'PyTroch'.*OnnxRuntime, PyTorch, Python.*mean PyTorch\?"):
        discovery.find("PyTroch")
    with pytest.raises(InvalidRequestError, match=r"Python$"):
        discovery.find("TensorFlow-Lite")


def test_without_package_metadata(monkeypatch):
    monkeypatch.setattr(discovery, "entry_points", lambda **_: ())
    assert discovery.find("python").name == "Python"


def make(root, *files):
    for name in files:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("files", "engine", "model"),
    [
        (["m.onnx"], "OnnxRuntime", "m.onnx"),
        (["M.ONNX", "labels.txt"], "OnnxRuntime", "M.ONNX"),
        (["deep/er/net.pt2", ".hidden"], "PyTorch", "deep/er/net.pt2"),
        (["a.ts"], "PyTorch", "a.ts"),
        (["model.onnx", "other.onnx"], "OnnxRuntime", "model.onnx"),
        (["steps.py", "__init__.py"], "Python", "steps.py"),
        (["model.py", "weights.pt", "net.py"], "Python", "model.py"),
    ],
)
def test_infers_from_a_folder(tmp_path, files, engine, model):
    assert discovery.infer(make(tmp_path, *files)) == (engine, tmp_path / model)


def test_infers_from_a_file(tmp_path):
    make(tmp_path, "a.pt", "b.onnx")
    assert discovery.infer(tmp_path / "a.pt") == ("PyTorch", tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["a.onnx", "b.pt"], r"several models.*a.onnx \(OnnxRuntime\), b.pt \(PyTorch\)"),
        (["a.onnx", "b.onnx"], r"found a.onnx, b.onnx; recognised are \*.onnx"),
        (["readme.md", "sub/x.pt"], "found readme.md, sub/"),
        ([], "found nothing"),
        ([f"{n}.txt" for n in range(20)], "and 10 more"),
    ],
)
def test_what_cannot_be_inferred(tmp_path, files, says):
    with pytest.raises(ModelNotFoundError, match=says):
        discovery.infer(make(tmp_path, *files))


def test_an_absent_path(tmp_path):
    with pytest.raises(ModelNotFoundError, match="found nothing of that name"):
        discovery.infer(tmp_path / "absent")


def test_an_engine_that_cannot_be_imported(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(discovery.BUILT_IN, "Broken", "no_such_module_at_all:Engine")
    assert discovery.infer(make(tmp_path, "m.onnx"))[0] == "OnnxRuntime"
    assert "Broken" in caplog.text


def test_the_server_never_imports_an_engines_library(tmp_path):
    make(tmp_path, "m.onnx")
    program = (
        "import sys; from pathlib import Path; from flowyard.engines import discovery; discovery.infer(Path(sys.argv[1])); "
        "assert not {'torch', 'onnxruntime', 'onnx'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
