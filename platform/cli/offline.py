"""What the command line does with a workflow without a server."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.store import ArchiveStore
from flowyard.platform.archives.view import FolderView
from flowyard.platform.registry.layout import WORKFLOW_FILES, workflow_file
from flowyard.schemas.errors import InvalidRequestError
from flowyard.workflows.check import Checked, check


def check_path(path: Path) -> Checked:
    """Checks a workflow file, a folder or an archive.

    Args:
        path: What to check. A file called `workflow.yaml`, `.yml` or `.json`, or any other YAML or JSON file, is checked with the
            folder around it as its archive.

    Returns:
        What was found; places in files are relative to the archive or as `path` says.

    Raises:
        InvalidRequestError: There is nothing, or no workflow in it.
        InvalidArchiveError: The archive is broken or refused.
    """
    if not path.exists():
        raise InvalidRequestError(f"{path}: no such file or folder")
    if path.is_dir():
        return _check_folder(path, str(path))
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        return check(path.read_bytes(), str(path), FolderView(path.resolve().parent))
    with tempfile.TemporaryDirectory(prefix="flowyard-check-") as scratch:
        stored = ArchiveStore(Path(scratch)).add_file(path, path.name, Limits())
        return _check_folder(stored.folder, str(path))


def _check_folder(folder: Path, shown: str) -> Checked:
    file = workflow_file(folder)
    if file is None:
        raise InvalidRequestError(f"{shown}: no workflow in it: none of {', '.join(WORKFLOW_FILES)} at its root")
    return check(file.read_bytes(), f"{shown.rstrip('/')}/{file.name}", FolderView(folder))
