"""What is told of the registry as a whole: all that is registered, and what was changed."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from flowyard.platform.http.native.parameters import MAX_LIMIT, Limit
from flowyard.schemas.adapters import AdapterSpec
from flowyard.schemas.models import ModelSpec

#: SQLite's largest number.
LAST_NUMBER = 2**63 - 1
Number = Annotated[int, Meta(ge=0, le=LAST_NUMBER, description="Where the page starts: `nextPageToken` of the page before.")]


class VersionState(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One version as it was registered.

    Attributes:
        version: Its version, absent for none.
        kind: `model` or `workflow`.
        url: Where it came from, `upload:sha256:…` for an upload.
        digest: Of its archive in the store.
        sha256: What its digest had to be, where the registration said so.
        parameters: What the registration said about the model, or about each model of the workflow.
        workers: What scaling has set since: minimum and maximum by model and device.
        adapters: All adapters by model, where one was registered, changed or removed since.
        created: When it was registered.
        who: Who registered it.
        status: `PENDING`, `READY` or `FAILED`.
    """

    version: str = ""
    kind: str
    url: str
    digest: str = ""
    sha256: str = ""
    parameters: ModelSpec
    workers: dict[str, dict[str, tuple[int, int]]] = {}
    adapters: dict[str, tuple[AdapterSpec, ...]] = {}
    created: str = ""
    who: str = ""
    status: str


class NameState(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One name: its versions, and what is said about them; the version without a name is `default`."""

    name: str
    versions: list[VersionState]
    weights: dict[str, int] = {}
    default: str | None = None
    shadows: tuple[str, ...] = ()


class RegistryState(msgspec.Struct, frozen=True):
    """All that is registered."""

    names: list[NameState]


class ChangeView(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One change; see `Change`."""

    number: int
    time: str
    who: str
    action: str
    name: str
    version: str = ""
    detail: dict[str, str] = {}


class History(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A page of changes, the last first."""

    next_page_token: str | None = None
    changes: list[ChangeView]


class HistoryPage(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Parameters of the history; `name` for that of one model or workflow."""

    name: str = ""
    limit: Limit = MAX_LIMIT
    next_page_token: Number = LAST_NUMBER
