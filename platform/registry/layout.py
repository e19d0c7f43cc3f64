"""Where in an archive its workflow file is."""

from __future__ import annotations

from pathlib import Path

#: Names of a workflow file, in the order they are looked for (DJL §3.3 has JSON first; a folder has one of them).
WORKFLOW_FILES = ("workflow.yaml", "workflow.yml", "workflow.json")


def workflow_file(folder: Path) -> Path | None:
    """The workflow file at the root of an archive, `None` when it has none."""
    return next((folder / name for name in WORKFLOW_FILES if (folder / name).is_file()), None)
