"""Loads what the operator asks for at the start. What the operator says wins over what is recorded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
import structlog

from flowyard.platform.archives.names import LoadItem, check_name, infer_model_name
from flowyard.platform.archives.store import StoredArchive
from flowyard.platform.registry.compiling import Compiler
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import now
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.registration import Registration
from flowyard.platform.registry.request import Request, identity
from flowyard.platform.registry.restoring import Restoration
from flowyard.platform.registry.staging import Staging
from flowyard.platform.registry.startup import AtStart, with_defaults
from flowyard.platform.registry.tasks import Tasks
from flowyard.platform.registry.traffic_changes import TrafficChanges
from flowyard.schemas.errors import ConflictError, FlowyardError, InvalidRequestError, InvalidWorkflowError, Problem
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.plan import Plan

log = structlog.stdlib.get_logger(__name__)


class Loading:
    """Loads items of the settings.

    Args:
        at_start: What the settings say of what is loaded.
        endpoints: What is registered.
        staging: Puts archives into the store.
        compiler: Checks them.
        registration: Registers them.
        restoration: What goes first.
        traffic_changes: Makes a version the default one.
        tasks: Where it is under way.
    """

    def __init__(
        self,
        at_start: AtStart,
        endpoints: Endpoints,
        staging: Staging,
        compiler: Compiler,
        registration: Registration,
        restoration: Restoration,
        traffic_changes: TrafficChanges,
        tasks: Tasks,
    ) -> None:
        self._at_start = at_start
        self._endpoints = endpoints
        self._staging = staging
        self._compiler = compiler
        self._registration = registration
        self._restoration = restoration
        self._traffic_changes = traffic_changes
        self._tasks = tasks
        self._under_way: asyncio.Task[None] | None = None

    async def load(self, item: LoadItem) -> None:
        """Loads one item. It replaces what the record has under that name.

        Raises:
            UserError: It cannot be loaded; the message says which it is.
        """
        try:
            await self._load(item)
        except InvalidWorkflowError as error:
            raise InvalidWorkflowError((Problem(message=f"cannot load {item}"), *error.problems)) from error
        except FlowyardError as error:
            raise InvalidRequestError(f"cannot load {item}: {error}") from error
        except OSError as error:
            raise InvalidRequestError(f"cannot load {item}: {error.strerror or error}") from error

    def load_later(self, items: Sequence[LoadItem]) -> None:
        """Loads items while requests are answered already. What cannot be loaded stays, as `FAILED`.

        Args:
            items: What to load; one after the other, after everything that is in the record.
        """
        self._under_way = self._tasks.start(self._load_one_by_one([(item, self._announce(item)) for item in items]))

    async def finished(self) -> None:
        """Waits until all of that is up, or could not be brought up."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way])

    async def _load_one_by_one(self, announced: list[tuple[LoadItem, Entry | None]]) -> None:
        await self._restoration.finished()
        for item, entry in announced:
            if entry is not None and not self._endpoints.holds(entry):
                continue
            try:
                await self._load(item, entry)
            except (FlowyardError, OSError) as error:
                log.error("could not load", item=str(item), reason=str(error))
                if entry is not None:
                    entry.failed(str(error))

    def _announce(self, item: LoadItem) -> Entry | None:
        """An entry that says that something is being loaded, until it is; none where there is one of that name."""
        try:
            name = check_name(item.name or infer_model_name(item.url))
        except InvalidRequestError:
            return None
        record = Record(
            name=name, version=item.version or "", kind="model", url=item.url, digest="", spec=ModelSpec(), created=now()
        )
        entry = Entry(record, at_startup=True)
        try:
            self._endpoints.add(entry)
        except ConflictError:
            return None
        return entry

    async def _load(self, item: LoadItem, announced: Entry | None = None) -> None:
        spec = self._at_start.spec(item)
        request = Request(url=item.url, name=item.name or "", version=item.version or "", spec=spec, operator=True)
        async with self._staging.stored(request, announced) as (asked, stored):
            source, plan, kind = self._compile(asked, stored)
            if announced is not None:
                if not self._endpoints.holds(announced):
                    return
                self._endpoints.remove(announced)
            try:
                await self._load_stored(source, stored, plan, kind)
                await self._choose(*identity(source, plan))
            except FlowyardError:
                if announced is not None:
                    with contextlib.suppress(ConflictError):
                        self._endpoints.add(announced)
                raise

    def _compile(self, request: Request, stored: StoredArchive) -> tuple[Request, Plan, str]:
        """What is in an archive that the operator has loaded, served as the setting `models` has it."""
        plan, kind = self._compiler.compile(request, stored)
        said = self._at_start.said(*identity(request, plan))
        if said is None:
            return request, plan, kind
        request = msgspec.structs.replace(request, spec=with_defaults(request.spec, said))
        return request, *self._compiler.compile(request, stored)

    async def _choose(self, name: str, version: str) -> None:
        """Makes a version the default one where a snapshot says so, and another one is."""
        said = self._at_start.said(name, version)
        if said is None or not said.default_version:
            return
        chosen = self._endpoints.traffic(name).default
        try:
            now = self._endpoints.versions(name)[0].record.version if chosen is None else chosen
            if now != version:
                await self._traffic_changes.set_default(name, version)
        except FlowyardError as error:
            log.warning("this version could not be made the default one", name=name, version=version, reason=str(error))

    async def _load_stored(self, source: Request, stored: StoredArchive, plan: Plan, kind: str) -> None:
        """Registers what the operator asked for, unless just that is there already."""
        name, version = identity(source, plan)
        entry = self._endpoints.get(name, version)
        if entry is None:
            await self._registration.register_stored(source, stored, plan, kind)
            return
        is_same = entry.record.digest == stored.digest and entry.record.spec == source.spec
        if is_same and entry.deployment is not None:
            entry.at_startup = True
            return
        log.info("replacing what was registered by what the operator says", name=name, version=version or None, url=source.url)
        replacing = msgspec.structs.replace(source, replace=True)
        await self._registration.register_stored(replacing, stored, plan, kind)
