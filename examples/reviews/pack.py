"""Packs the two models and the workflow with TorchServe's own archivers: `python pack.py FOLDER`.

It does what these commands do:

    torch-model-archiver --model-name sentiment --version 1.0 --handler sentiment.py --extra-files words.json
    torch-model-archiver --model-name topics --version 1.0 --handler topics.py
    torch-workflow-archiver --workflow-name reviews --spec-file spec.yaml --handler functions.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL_ARCHIVER = "from model_archiver.model_packaging import generate_model_archive as main; main()"
WORKFLOW_ARCHIVER = "from workflow_archiver.workflow_packaging import generate_workflow_archive as main; main()"


def pack(store: Path) -> None:
    """Writes `sentiment.mar`, `topics.mar` and `reviews.war` into a folder."""
    store.mkdir(parents=True, exist_ok=True)
    for name, more in (("sentiment", ["--extra-files", "words.json"]), ("topics", [])):
        arguments = ["--model-name", name, "--version", "1.0", "--handler", f"{name}.py", *more]
        run(MODEL_ARCHIVER, *arguments, "--export-path", str(store), "--force")
    arguments = ["--workflow-name", "reviews", "--spec-file", "spec.yaml", "--handler", "functions.py"]
    run(WORKFLOW_ARCHIVER, *arguments, "--export-path", str(store), "--force")


def run(archiver: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", archiver, *arguments], cwd=HERE, check=True)


if __name__ == "__main__":
    pack(Path(sys.argv[1]).resolve())
