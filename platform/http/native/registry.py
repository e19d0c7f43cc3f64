"""What is recorded, as a whole: `GET /state`, and what was changed: `GET /audit`."""

from __future__ import annotations

import msgspec
from litestar import Response, get

from flowyard.platform.http.native.management import answer, query
from flowyard.platform.http.native.parameters import MAX_LIMIT, Nothing
from flowyard.platform.http.native.registrations import HttpRequest
from flowyard.platform.http.native.registry_views import (
    ChangeView,
    History,
    HistoryPage,
    NameState,
    RegistryState,
    VersionState,
)
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.registry import Registry
from flowyard.schemas.adapters import AdapterSpec


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
        adapters={model: tuple(map(AdapterSpec.of, adapters)) for model, adapters in record.adapters.items()},
        created=record.created,
        who=record.who,
        status=entry.status,
    )


def _shown(version: str) -> str:
    return version or "default"


def _change_view(number: int, change: Change) -> ChangeView:
    return ChangeView(number=number, **msgspec.structs.asdict(change))
