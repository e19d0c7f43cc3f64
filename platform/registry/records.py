"""A registration as it is recorded."""

from __future__ import annotations

from typing import Literal

import msgspec

from flowyard.schemas.adapters import Adapter
from flowyard.schemas.models import ModelSpec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One registration, as it is to be brought up again.

    Attributes:
        name: Name of the model or workflow.
        version: Its version, empty for none.
        kind: Whether the archive is a workflow or a single model.
        url: Where it came from, as the caller said; `upload:sha256:…` for an upload.
        digest: Of the archive in the store; empty while a remote one that nobody waits for has not been fetched.
        spec: What the registration said about the model, or about every model of the workflow.
        created: ISO 8601, UTC.
        workers: What scaling has set since: minimum and maximum by model and device.
        sha256: What the digest of the archive has to be, empty for any.
        adapters: By model, all adapters that it has since one was registered, changed or unregistered.
        who: Who registered it.
        parts: Digests of models that have a place of their own in the store, by URL: remote ones, and archives in the archive.
    """

    name: str
    version: str = ""
    kind: Literal["model", "workflow"]
    url: str
    digest: str
    spec: ModelSpec
    created: str
    workers: dict[str, dict[str, tuple[int, int]]] = {}
    sha256: str = ""
    adapters: dict[str, tuple[Adapter, ...]] = {}
    who: str = ""
    parts: dict[str, str] = {}

    @property
    def digests(self) -> tuple[str, ...]:
        """All that it needs of the store."""
        return (self.digest, *self.parts.values())


class Former(msgspec.Struct, frozen=True):
    """A registration that has ended, and can be taken up again by a rollback.

    Attributes:
        number: Counts up.
        ended: When it ended, as seconds since 1970.
        record: What it was.
    """

    number: int
    ended: float
    record: Record
