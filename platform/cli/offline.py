"""What the command line does with a workflow without a server."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.store import ArchiveStore
from flowyard.platform.registry.checking import check_place
from flowyard.platform.registry.layout import WAR_MANIFEST, WORKFLOW_FILES, WorkflowPlace, find_workflow
from flowyard.schemas.errors import InvalidRequestError, Problem, UserError
from flowyard.workflows.check import Checked
from flowyard.workflows.drawing import to_dot, to_mermaid
from flowyard.workflows.plan import Plan

GraphFormat: TypeAlias = Literal["mermaid", "dot", "svg"]
TEXTS = (".yaml", ".yml", ".json")


class Report(msgspec.Struct, frozen=True):
    """What `flowyard check --json` prints.

    Attributes:
        path: What was checked, as the caller gave it.
        valid: Whether it has no errors; warnings do not count.
        name: Name of the workflow, as far as it could be read.
        version: Its version, likewise.
        problems: Everything that is wrong, by place.
    """

    path: str
    valid: bool
    name: str
    version: str
    problems: tuple[Problem, ...]


def report(path: Path, checked: Checked) -> Report:
    """Sums up a check.

    Args:
        path: What was checked.
        checked: What was found.

    Returns:
        The report.
    """
    definition = checked.definition
    name, version = (definition.name, definition.version) if definition is not None else ("", "")
    return Report(path=str(path), valid=checked.plan is not None, name=name, version=version, problems=checked.problems)


def check_path(path: Path, model_store: Path | None = None, handler: str | None = None) -> Checked:
    """Checks a workflow file, a folder or an archive.

    Args:
        path: What to check. A YAML or JSON file of any name is checked with the folder around it as its archive.
        model_store: Folder in which a `.mar` may be.
        handler: For a TorchServe spec without a manifest: the Python file with its functions, relative to the spec.

    Returns:
        What was found; places in files are relative to the archive or as `path` says.

    Raises:
        InvalidRequestError: There is nothing, or no workflow in it.
        InvalidArchiveError: The archive is broken or refused.
    """
    if not path.exists():
        raise InvalidRequestError(f"{path}: no such file or folder")
    if model_store is not None and not model_store.is_dir():
        raise InvalidRequestError(f"--model-store {model_store}: no such folder")
    try:
        return _check(path, model_store, handler)
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or path}: {error.strerror or error}") from None


def _check(path: Path, model_store: Path | None, handler: str | None) -> Checked:
    if path.is_dir():
        return _check_folder(path, str(path), model_store, handler)
    if path.suffix.lower() in TEXTS:
        place = WorkflowPlace(path, handler)
        return check_place(place, path.resolve().parent, str(path), store=model_store)
    with tempfile.TemporaryDirectory(prefix="flowyard-check-") as scratch:
        stored = ArchiveStore(Path(scratch)).add_file(path, path.name, Limits())
        return _check_folder(stored.folder, str(path), model_store, handler)


def _check_folder(folder: Path, shown: str, model_store: Path | None, handler: str | None) -> Checked:
    place = find_workflow(folder)
    if place is None:
        raise InvalidRequestError(f"{shown}: no workflow in it: none of {', '.join((*WORKFLOW_FILES, WAR_MANIFEST))}")
    if handler is not None:
        place = msgspec.structs.replace(place, handler=handler)
    name = place.file.relative_to(folder).as_posix()
    return check_place(place, folder, f"{shown.rstrip('/')}/{name}", store=model_store)


def archive_name(folder: Path, plan: Plan) -> str:
    """What the archive of a folder is called unless the caller says otherwise.

    Args:
        folder: The folder.
        plan: Its workflow.

    Returns:
        The name of the workflow with `.war` for one of TorchServe, else `.zip`.
    """
    return f"{plan.name}.war" if (folder / WAR_MANIFEST).is_file() else f"{plan.name}.zip"


def draw(plan: Plan, output_format: GraphFormat) -> str:
    """Draws a workflow.

    Args:
        plan: The workflow.
        output_format: Of the drawing.

    Returns:
        Its text.

    Raises:
        UserError: An SVG image, and Graphviz is not installed or fails.
    """
    if output_format == "mermaid":
        return to_mermaid(plan)
    text = to_dot(plan)
    return text if output_format == "dot" else _svg(text)


def _svg(text: str) -> str:
    dot = shutil.which("dot")
    if dot is None:
        raise UserError("--format svg needs Graphviz, whose command `dot` is not installed; --format dot prints what it takes")
    done = subprocess.run([dot, "-Tsvg"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"Graphviz failed: {done.stderr.strip()[:500]}")
    return done.stdout
