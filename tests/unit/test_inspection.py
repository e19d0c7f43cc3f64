"""What an archive is and needs, told without running it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import pytest
from support.archives import linear_onnx, zipped

from flowyard.platform.inspection import inspect
from flowyard.schemas.errors import InvalidArchiveError, InvalidRequestError

ONNX = linear_onnx([[1.0, 2.0]])
FLOW = """name: flow
version: v1
models: {m: {url: model.onnx, batch_size: 4}}
functions: {f: steps:f}
workflow:
  out: [f, [m, in]]
"""
STEPS = "raise SystemExit('nobody may run this')\ndef f(x):\n    return x\n"


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def test_a_workflow_with_its_models_and_files(tmp_path):
    body = zipped({"workflow.yaml": FLOW, "model.onnx": ONNX, "steps.py": STEPS, "requirements.txt": "# none\nnumpy>=2\n"})
    told = inspect(written(tmp_path, "any.name", body))
    assert (told.format, told.kind, told.name, told.version) == ("zip", "workflow", "flow", "v1")
    assert told.digest == told.sha256 == hashlib.sha256(body).hexdigest()
    assert (told.size_bytes, told.functions, told.requirements) == (len(body), {"f": "steps:f"}, ("numpy>=2",))
    (model,) = told.models
    assert (model.engine, model.file, model.parameters) == ("OnnxRuntime", "model.onnx", {"batch_size": "4"})
    assert [str(tensor) for tensor in model.signature.inputs] == ["x: float32[?, 1]"]
    assert [(file.path, file.size_bytes) for file in told.files if file.path.endswith("onnx")] == [("model.onnx", len(ONNX))]
    assert told.files[0].sha256 == hashlib.sha256(ONNX).hexdigest()
    assert not told.problems


def test_single_models_folders_and_tar_archives(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        info = tarfile.TarInfo("model.onnx")
        info.size = len(ONNX)
        packed.addfile(info, io.BytesIO(ONNX))
    folder = tmp_path / "folder"
    folder.mkdir()
    written(folder, "model.onnx", ONNX)
    told = [inspect(written(tmp_path, "m.onnx", ONNX)), inspect(written(tmp_path, "m.tgz", buffer.getvalue())), inspect(folder)]
    assert [(item.format, item.kind, item.models[0].engine) for item in told] == [
        ("onnx", "model", "OnnxRuntime"),
        ("tar.gz", "model", "OnnxRuntime"),
        ("directory", "model", "OnnxRuntime"),
    ]
    assert told[2].sha256 == ""


def test_facts_of_manifests_and_property_files(tmp_path):
    manifest = {"runtime": "python", "model": {"modelName": "a", "handler": "h.py", "modelVersion": "1.0"}}
    mar = zipped({"MAR-INF/MANIFEST.json": json.dumps(manifest), "h.py": "def handle(data, context):\n    return data\n"})
    assert inspect(written(tmp_path, "a.mar", mar)).torchserve == manifest
    djl = zipped(
        {"serving.properties": "engine=Python\noption.entryPoint=model.py\nbatch_size=4\n", "model.py": "def handle(i): ...\n"}
    )
    (model,) = inspect(written(tmp_path, "d.zip", djl)).models
    assert (model.engine, model.parameters["entryPoint"], model.parameters["batch_size"]) == ("Python", "model.py", "4")


def test_problems_are_told_and_broken_archives_refused(tmp_path):
    told = inspect(
        written(tmp_path, "w.zip", zipped({"workflow.yaml": FLOW.replace("model.onnx", "gone.onnx"), "steps.py": STEPS}))
    )
    assert any("gone.onnx" in str(problem) for problem in told.problems)
    unknown = inspect(written(tmp_path, "n.zip", zipped({"notes.txt": "nothing", "more.txt": "nothing"})))
    assert "Failed to detect engine" in unknown.models[0].problem
    with pytest.raises(InvalidRequestError, match="no such file"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(InvalidArchiveError):
        inspect(written(tmp_path, "broken.zip", b"PK\x03\x04 broken"))
