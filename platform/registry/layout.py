"""Where in an archive its workflow is, and where the folder is that the file calls `{model_dir}`.

It is a workflow file at the root, or the spec that the manifest of a `.war` names.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import msgspec

from flowyard.platform.archives.names import is_archive_url
from flowyard.schemas.errors import InvalidArchiveError
from flowyard.schemas.values import NOT_JSON

#: Names of a workflow file, in the order they are looked for (DJL §3.3 has JSON first; a folder has one of them).
WORKFLOW_FILES = ("workflow.yaml", "workflow.yml", "workflow.json")
SUFFIXES = (".yaml", ".yml", ".json")
_MODEL_DIR = rb"(?:file:(?://)?)?\{model_dir\}"
_ANYWHERE = re.compile(_MODEL_DIR)
_UPWARDS = re.compile(_MODEL_DIR + rb"(?=/\.\./)")
WAR_MANIFEST = "WAR-INF/MANIFEST.json"
MAX_MANIFEST_BYTES = 1 << 20


class WorkflowPlace(msgspec.Struct, frozen=True):
    """Where a workflow is.

    Attributes:
        file: Its file.
        handler: Path of the Python file that the functions of a TorchServe spec are in, relative to the folder.
        name: What the manifest calls the workflow.
    """

    file: Path
    handler: str | None = None
    name: str = ""


class _Workflow(msgspec.Struct, frozen=True, rename="camel"):
    workflow_name: str | None = None
    spec_file: str | None = None
    handler: str | None = None


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    workflow: _Workflow | None = None
    archiver_version: str | None = None
    created_on: str | None = None


def find_workflow(folder: Path) -> WorkflowPlace | None:
    """Finds the workflow of an archive.

    Args:
        folder: The unpacked archive.

    Returns:
        Its place, `None` when it has none.

    Raises:
        InvalidArchiveError: The manifest of a `.war` cannot be read or leads nowhere.
    """
    manifest = folder / WAR_MANIFEST
    if manifest.is_file():
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            raise InvalidArchiveError(f"{WAR_MANIFEST} has more than {MAX_MANIFEST_BYTES} bytes")
        return _of_manifest(folder, manifest.read_bytes())
    file = workflow_file(folder)
    return WorkflowPlace(file) if file is not None else None


def workflow_file(folder: Path) -> Path | None:
    """The workflow file at the root of an archive, `None` when it has none."""
    return next((folder / name for name in WORKFLOW_FILES if (folder / name).is_file()), None)


def locate_model_dir(text: bytes, url: str, *, alone: bool) -> bytes:
    """Puts the URL of the folder that a workflow was registered from in the place of `{model_dir}` (DJL §3.3).

    Only where that is not the archive: what it leads to inside of a folder was registered with it.

    Args:
        text: The workflow file.
        url: Where it was registered from.
        alone: Whether the file was registered without the folder around it. Else only what leads out of the folder is replaced.

    Returns:
        The file. That of an archive, an upload or a relative URL stays as it is.
    """
    path = re.sub(r"^file:(//(?=/))?", "", url)
    if not path.startswith("/") or is_archive_url(path):
        return text
    # A path is taken as it is, a URL is quoted already.
    folder = path if url.startswith("file:") else quote(path)
    if path.endswith(SUFFIXES):
        folder = str(PurePosixPath(folder).parent)
    place = f"file:{folder.rstrip('/')}".encode()
    return (_ANYWHERE if alone else _UPWARDS).sub(lambda _: place, text)


def _of_manifest(folder: Path, text: bytes) -> WorkflowPlace:
    """Reads a manifest; what TorchServe refuses too is told with its words first."""
    try:
        found = msgspec.json.decode(text, type=_Manifest)
    except msgspec.ValidationError as error:
        raise InvalidArchiveError(f"{WAR_MANIFEST}: {error}") from None
    except NOT_JSON as error:
        raise InvalidArchiveError(f"Failed to parse signature.json. ({WAR_MANIFEST}: {error})") from None
    workflow = found.workflow or _Workflow()
    if not workflow.workflow_name:
        raise InvalidArchiveError(f"Workflow name is not defined. ({WAR_MANIFEST})")
    for path in (workflow.spec_file or "", *([workflow.handler] if workflow.handler else [])):
        if not _is_inside(path) or not (folder / path).is_file():
            raise InvalidArchiveError(f'{WAR_MANIFEST}: no file "{path}" in the archive')
    for said, words in ((found.archiver_version, "archive version"), (found.created_on, "archive createdOn")):
        if not said:
            raise InvalidArchiveError(f"Workflow {words} is not defined. ({WAR_MANIFEST})")
    return WorkflowPlace(folder / str(workflow.spec_file), workflow.handler, workflow.workflow_name)


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path)
    return bool(path) and "\0" not in path and not parts.is_absolute() and ".." not in parts.parts
