"""Archives of TorchServe, made by its own archivers, and of Multi Model Server, laid out as its archiver does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.archives import zipped

MODEL_ARCHIVER = "from model_archiver.model_packaging import generate_model_archive as main; main()"
WORKFLOW_ARCHIVER = "from workflow_archiver.workflow_packaging import generate_workflow_archive as main; main()"


def pack_model(store: Path, work: Path, name: str, files: dict[str, str], *arguments: str, handler: str = "") -> None:
    """Runs `torch-model-archiver`; the first file is the handler unless another one is named."""
    written = write(work / name, files)
    first = handler or next(iter(files))
    common = ["--model-name", name, "--version", "1.0", "--handler", first, "--export-path", str(store), "--force"]
    subprocess.run([sys.executable, "-c", MODEL_ARCHIVER, *common, *arguments], cwd=written, check=True)


def pack_workflow(store: Path, work: Path, name: str, spec: str, functions: str) -> None:
    """Runs `torch-workflow-archiver`."""
    written = write(work / name, {"spec.yaml": spec, "functions.py": functions})
    arguments = ["--workflow-name", name, "--spec-file", "spec.yaml", "--handler", "functions.py", "--export-path", str(store)]
    subprocess.run([sys.executable, "-c", WORKFLOW_ARCHIVER, *arguments, "--force"], cwd=written, check=True)


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def mms_archive(name: str, code: str) -> bytes:
    """What `model-archiver` makes of a handler."""
    manifest = {
        "specificationVersion": "1.0",
        "implementationVersion": "1.0",
        "description": name,
        "modelServerVersion": "1.0",
        "license": "Apache 2.0",
        "runtime": "python",
        "model": {"modelName": name, "handler": "service.py:handle"},
    }
    return zipped({"service.py": code, "MAR-INF/MANIFEST.json": json.dumps(manifest)})
