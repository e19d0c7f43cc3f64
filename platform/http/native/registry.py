"""What is recorded, as a whole: `GET /state`, and what was changed: `GET /audit`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response, get
from msgspec import Meta

from flowyard.platform.http.native.management import answer, query
from flowyard.platform.http.native.parameters import MAX_LIMIT, Limit, Nothing
from flowyard.platform.http.native.registrations import HttpRequest
from flowyard.platform.registry.endpoints import Entry
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.registry import Registry
from flowyard.schemas.models import ModelSpec

#: SQLite's largest number.
_LAST = 2**63 - 1
Number = Annotated[int, Meta(ge=0, le=_LAST, description="Where the page starts: `nextPageToken` of the page before.")]


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
    next_page_token: Number = _LAST


@get("/state", summary="All that is registered", operation_id="getState", tags=["Registry"])
async def state(request: HttpRequest, registry: Registry) -> Response[bytes]:
    """Tells what was registered, as it was said, with weights and the like: what `flowyard export` writes."""
    query(request, Nothing)
    return answer(RegistryState([_name_state(registry, name) for name in registry.endpoints.names()]))


@get("/audit", summary="What was changed", operation_id="getHistory", tags=["Registry"])
async def audit(request: HttpRequest, registry: Registry) -> Response[bytes]:
    """Tells who changed what and when, the last change first."""
    page = query(request, HistoryPage)
    limit = min(page.limit, MAX_LIMIT)
    found = await registry.history(name=page.name or None, before=page.next_page_token, limit=limit)
    token = str(found[-1][0]) if found and len(found) == limit else None
    return answer(History(changes=[_change_view(number, change) for number, change in found], next_page_token=token))


def _name_state(registry: Registry, name: str) -> NameState:
    traffic = registry.endpoints.traffic(name)
    return NameState(
        name=name,
        versions=[_version_state(entry) for entry in registry.endpoints.versions(name)],
        weights={_shown(version): weight for version, weight in traffic.weights.items()},
        default=None if traffic.default is None else _shown(traffic.default),
        shadows=tuple(_shown(version) for version in traffic.shadows),
    )


def _version_state(entry: Entry) -> VersionState:
    record = entry.record
    return VersionState(
        version=record.version,
        kind=record.kind,
        url=record.url,
        digest=record.digest,
        sha256=record.sha256,
        parameters=record.spec,
        workers=record.workers,
        created=record.created,
        who=record.who,
        status=entry.status,
    )


def _shown(version: str) -> str:
    return version or "default"


def _change_view(number: int, change: Change) -> ChangeView:
    return ChangeView(number=number, **msgspec.structs.asdict(change))
