"""What an archive is and needs, told without executing anything of it."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from flowyard.engines import discovery
from flowyard.engines.djl import folder as djl
from flowyard.engines.onnx_graph import read_signature
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.names import infer_model_name
from flowyard.platform.archives.recognise import recognise
from flowyard.platform.archives.store import ArchiveStore, tree_digest
from flowyard.platform.archives.view import FolderView
from flowyard.platform.registry.checking import check_place
from flowyard.platform.registry.layout import WORKFLOW_FILES, find_workflow
from flowyard.schemas.errors import FlowyardError, InvalidRequestError, Problem
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import NOT_JSON

#: Manifests that TorchServe and MMS put into their archives.
_MANIFESTS = ("MAR-INF/MANIFEST.json", "WAR-INF/MANIFEST.json")
_MAX_MANIFEST_BYTES = 2**20
_REQUIREMENTS = "requirements.txt"


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One file: where it is, its size and SHA-256."""

    path: str
    size_bytes: int
    sha256: str


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model.

    Attributes:
        name: Its name; in a workflow the local one.
        url: Where it is, relative to the archive, or elsewhere.
        engine: The engine that loads it, empty where none recognises it.
        file: The file that the engine loads.
        signature: What it takes and gives, where the file says so.
        parameters: What the workflow file, or a `serving.properties`, says about serving it.
        problem: Why it cannot be told what it is.
    """

    name: str
    url: str = ""
    engine: str = ""
    file: str = ""
    signature: Signature | None = None
    parameters: dict[str, str] = {}
    problem: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an archive is and needs.

    Attributes:
        format: `zip`, `tar`, `tar.gz`, `directory`, `onnx`, `torch`, `workflow` or `model` (any other single file).
        kind: `workflow` or `model`.
        name: What it is registered as when nobody says otherwise.
        version: The same.
        digest: What the server's store calls it.
        sha256: Of the file, for the parameter `sha256`; empty for a folder.
        size_bytes: Of the file, or of all files of a folder.
        unpacked_bytes: Of all files in it.
        models: Its models.
        functions: Functions of a workflow, by name.
        requirements: Lines of its `requirements.txt`.
        torchserve: What the manifest of TorchServe or MMS in it says.
        problems: What a registration would refuse, or warn of.
        files: All files in it.
    """

    format: str
    kind: str
    name: str = ""
    version: str = ""
    digest: str
    sha256: str = ""
    size_bytes: int
    unpacked_bytes: int
    models: tuple[ModelFacts, ...] = ()
    functions: dict[str, str] = {}
    requirements: tuple[str, ...] = ()
    torchserve: dict[str, Any] = {}
    problems: tuple[Problem, ...] = ()
    files: tuple[FileFacts, ...] = ()


def inspect(path: Path, limits: Limits | None = None) -> Manifest:
    """Tells what a file or folder is.

    Args:
        path: An archive, a model file, a workflow file or a folder.
        limits: How much it may hold.

    Returns:
        Its manifest.

    Raises:
        InvalidRequestError: There is nothing.
        InvalidArchiveError: It is broken or refused.
        TooLargeError: It is over a limit.
    """
    if not path.exists():
        raise InvalidRequestError(f"{path}: no such file or folder")
    limits = limits or Limits()
    with _opened(path, limits) as (folder, form, digest):
        files = tuple(_files(folder))
        unpacked = sum(file.size_bytes for file in files)
        packed = path.is_file()
        facts = _contents(folder, path.name)
        manifest = Manifest(
            format=form,
            kind=facts["kind"],
            digest=digest,
            sha256=_sha256(path) if packed else "",
            size_bytes=path.stat().st_size if packed else unpacked,
            unpacked_bytes=unpacked,
            requirements=_requirements(folder),
            torchserve=_torchserve(folder),
            files=files,
        )
        return msgspec.structs.replace(manifest, **facts)


@contextlib.contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[tuple[Path, str, str]]:
    """The files of it, unpacked where it is packed; with its format and digest."""
    if path.is_dir() or path.name in WORKFLOW_FILES:
        folder = (path if path.is_dir() else path.parent).resolve()
        yield folder, "directory", tree_digest(folder)
        return
    form = recognise(path, limits)
    with tempfile.TemporaryDirectory(prefix="flowyard-inspect-") as scratch:
        stored = ArchiveStore(Path(scratch)).add_file(path, path.name, limits)
        yield stored.folder, str(form), stored.digest


def _files(folder: Path) -> Iterator[FileFacts]:
    for name in FolderView(folder).names():
        path = folder / name
        yield FileFacts(path=name, size_bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contents(folder: Path, filename: str) -> dict[str, Any]:
    """Kind, name, version, models, functions and problems."""
    place = find_workflow(folder)
    if place is None:
        name = _inferred(filename)
        return {"kind": "model", "name": name, "models": (_model(name, ModelSpec(url="."), folder),)}
    checked = check_place(place, folder, place.file.relative_to(folder).as_posix(), name=_inferred(filename))
    plan, definition = checked.plan, checked.definition
    facts: dict[str, Any] = {"kind": "workflow", "problems": checked.problems}
    if definition is not None:
        facts["models"] = tuple(_model(name, spec, folder) for name, spec in definition.models.items())
    if plan is not None:
        facts |= {"name": plan.name, "version": plan.version or "", "functions": dict(plan.functions)}
    return facts


def _inferred(filename: str) -> str:
    try:
        return infer_model_name(filename)
    except FlowyardError:
        return ""


def _model(name: str, spec: ModelSpec, folder: Path) -> ModelFacts:
    said = {
        key: str(value) for key, value in msgspec.to_builtins(spec).items() if key not in ("url", "engine", "inputs", "outputs")
    }
    declared = Signature(inputs=spec.inputs, outputs=spec.outputs) if spec.inputs or spec.outputs else None
    facts = ModelFacts(name=name, url=spec.url or spec.model, engine=spec.engine or "", signature=declared, parameters=said)
    path = (folder / spec.url).resolve()
    if not spec.url or not path.is_relative_to(folder.resolve()) or not path.exists():
        return facts
    try:
        return _found(facts, spec, path, folder)
    except FlowyardError as error:
        return msgspec.structs.replace(facts, problem=error.message)


def _found(facts: ModelFacts, spec: ModelSpec, path: Path, folder: Path) -> ModelFacts:
    found = djl.recognise(path, spec.engine)
    if found is not None:
        parameters = facts.parameters | found.parameters
        engine, file = found.engine, found.folder / found.path
        facts = msgspec.structs.replace(facts, parameters=parameters)
    elif spec.engine is None:
        engine, file = discovery.infer(path)
    else:
        adapter = discovery.find(spec.engine)
        engine, file = adapter.name, adapter.recognise(path) or path
    signature = facts.signature
    if signature is None and file.suffix == ".onnx" and file.is_file():
        signature = read_signature(file)
    place = file.resolve()
    shown = place.relative_to(folder.resolve()).as_posix() if place.is_relative_to(folder.resolve()) else str(file.name)
    return msgspec.structs.replace(facts, engine=engine, file=shown, signature=signature)


def _requirements(folder: Path) -> tuple[str, ...]:
    text = FolderView(folder).read(_REQUIREMENTS)
    lines = text.decode("utf-8", "replace").splitlines() if text is not None else []
    return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def _torchserve(folder: Path) -> dict[str, Any]:
    for name in _MANIFESTS:
        path = folder / name
        if path.is_file() and path.stat().st_size <= _MAX_MANIFEST_BYTES:
            with contextlib.suppress(*NOT_JSON):
                return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    return {}
