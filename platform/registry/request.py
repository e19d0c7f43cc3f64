"""What a caller wants registered, and how it is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from flowyard.platform.archives.names import check_name, check_version
from flowyard.platform.registry.history import CALLER, now
from flowyard.platform.registry.records import Record
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.plan import Plan


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants registered.

    Attributes:
        url: Where the archive is, or empty for an upload.
        upload: The uploaded file.
        filename: What the uploaded file is called, where the caller said so.
        name: Name to serve it under; that of the workflow file, or inferred from the URL, when empty.
        version: Version; that of the workflow file when empty.
        spec: What is said about the model, or about every model of the workflow.
        operator: Whether the operator asks, who may name any path.
        kind: `workflow` refuses what is none; `any` takes a single model as well.
        wait: Whether to wait for the workers, and for what has to be fetched.
        sha256: What the digest of the archive has to be, in hex; empty for any.
        replace: Whether it takes the place of what has its name and version, which answers until this one is up.
        infer_name: Whether a model that neither the caller nor its archive names is called after the URL; else it is refused.
    """

    url: str = ""
    upload: Path | None = None
    filename: str = ""
    name: str = ""
    version: str = ""
    spec: ModelSpec = msgspec.field(default_factory=ModelSpec)
    operator: bool = False
    kind: str = "any"
    wait: bool = True
    sha256: str = ""
    replace: bool = False
    infer_name: bool = True


def identity(request: Request, plan: Plan) -> tuple[str, str]:
    """Name and version to register under: what the caller says, else what the file says.

    Raises:
        InvalidRequestError: There can be no such name or version.
    """
    version = request.version or plan.version or ""
    return check_name(request.name or plan.name), check_version(version) if version else ""


def kind_of(kind: str) -> Literal["model", "workflow"]:
    """What a record says that was asked for as `workflow` or as `any`."""
    return "workflow" if kind == "workflow" else "model"


def record_of(request: Request, name: str, version: str, kind: str, digest: str) -> Record:
    """The record of what is registered now, by whoever asks for it.

    Args:
        request: What was asked for.
        name: Its name.
        version: Its version, empty for none.
        kind: Whether it is a workflow or a model.
        digest: Of its archive in the store, empty while that has not been fetched.
    """
    return Record(
        name=name,
        version=version,
        kind=kind_of(kind),
        url=request.url,
        digest=digest,
        spec=request.spec,
        created=now(),
        sha256=request.sha256,
        who=CALLER.get(),
    )


def request_of(record: Record) -> Request:
    """What was asked for, to take up again where a record has nothing or something in the store."""
    return Request(
        url=record.url,
        name=record.name,
        version=record.version,
        spec=record.spec,
        kind="workflow" if record.kind == "workflow" else "any",
        sha256=record.sha256,
    )
