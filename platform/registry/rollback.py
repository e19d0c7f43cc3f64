"""Back to an earlier version: which one that is (pure), and how it is brought up again."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec
import structlog

from flowyard.platform.registry.admission import Admission
from flowyard.platform.registry.compiling import Compiler
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import Change, change
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.request import request_of
from flowyard.platform.registry.retention import Retention
from flowyard.platform.registry.staging import Staging
from flowyard.platform.registry.traffic import DEFAULT, Traffic
from flowyard.platform.registry.traffic_changes import TrafficChanges
from flowyard.schemas.errors import ConflictError, ModelNotFoundError

log = structlog.stdlib.get_logger(__name__)


class Choice(msgspec.Struct, frozen=True):
    """What a rollback goes back to.

    Attributes:
        record: The registration.
        former: Whether it has ended, and has to be brought up again.
    """

    record: Record
    former: bool


def choose(name: str, registered: Sequence[Record], traffic: Traffic, former: Sequence[Record], version: str | None) -> Choice:
    """Chooses where to go back to.

    What answers now is the default version, else the one that was registered last. A rollback goes to the one that was registered
    before it, whether it still is registered or was unregistered or replaced since; or to the version that is named.

    Args:
        name: The name.
        registered: Its versions that can answer.
        traffic: What is said about them.
        former: Its versions that have ended.
        version: Where to go, `None` for the one before.

    Returns:
        The choice.

    Raises:
        ModelNotFoundError: There is nothing to go back to.
        ConflictError: The named version is the one that answers now, and has no predecessor.
    """
    answering = [record for record in registered if record.version not in traffic.shadows]
    default = next((record for record in answering if record.version == traffic.default), None)
    current = default or max(answering, key=lambda record: record.created, default=None)
    choices = [Choice(record, former=False) for record in answering if record is not current]
    known = {(record.version, record.created) for record in registered}
    choices += [Choice(record, former=True) for record in former if (record.version, record.created) not in known]
    if version is not None:
        exact = "" if version == DEFAULT else version
        choices = [choice for choice in choices if choice.record.version == exact]
    elif current is not None:
        choices = [choice for choice in choices if choice.record.created < current.created]
    if choices:
        return max(choices, key=lambda choice: choice.record.created)
    if version is not None and current is not None and current.version == version:
        raise ConflictError(f"Version {version} of {name} answers already, and nothing is kept of an earlier one.")
    if version is not None:
        raise ModelNotFoundError(f"No version {version} of {name} is registered or kept for a rollback.")
    raise ModelNotFoundError(f"Nothing to roll back to: no earlier version of {name} is registered or kept.")


class Rollback:
    """Goes back to earlier versions.

    Args:
        endpoints: What is registered.
        retention: What has ended and can be taken up again.
        staging: Its archives.
        compiler: Reads them.
        admission: Brings it up.
        traffic_changes: Lets it answer.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        retention: Retention,
        staging: Staging,
        compiler: Compiler,
        admission: Admission,
        traffic_changes: TrafficChanges,
    ) -> None:
        self._endpoints = endpoints
        self._retention = retention
        self._staging = staging
        self._compiler = compiler
        self._admission = admission
        self._traffic_changes = traffic_changes

    async def rollback(self, name: str, version: str | None = None) -> Record:
        """Lets an earlier version answer, which is brought up again where it was unregistered or replaced; see `choose`.

        Args:
            name: The name.
            version: The version, `None` for the one before.

        Returns:
            What answers now; recorded on disk. Weights of the name are taken back.

        Raises:
            NotFoundError: There is nothing to go back to.
            ConflictError: The named version answers already.
            FlowyardError: It cannot be brought up; everything is as it was.
        """
        registered = [entry.record for entry in self._endpoints if entry.record.name == name and entry.deployment is not None]
        choice = choose(name, registered, self._endpoints.traffic(name), self._retention.former(name), version)
        made = change("rollback", name, choice.record.version, digest=choice.record.digest)
        if choice.former:
            await self._take_up(choice.record, made)
        # Nothing that was said may keep requests from it, and it is the default only where there are others.
        exact = choice.record.version
        shadows = tuple(shadow for shadow in self._endpoints.traffic(name).shadows if shadow != exact)
        alone = len(self._endpoints.versions(name)) == 1
        traffic = Traffic(default=None if alone else exact, shadows=shadows)
        restore = functools.partial(self._endpoints.restore_traffic, name, traffic)
        await self._traffic_changes.make(name, restore, None if choice.former else made)
        log.info("rolled back", name=name, version=exact or None)
        return choice.record

    async def _take_up(self, record: Record, made: Change) -> None:
        """Registers anew what has ended, in the place of what has its version now."""
        async with self._retention.adding():
            stored = self._staging.open(record.digest)
            plan, _ = self._compiler.compile(request_of(record), stored)
            entry = Entry(record)
            before = self._endpoints.get(record.name, record.version)
            if before is not None:
                await self._admission.replace(before, entry, plan, stored, made)
                return
            self._endpoints.add(entry, again=True)
            try:
                deployment = await self._admission.bring_up(entry, plan, stored, made)
            except BaseException:
                self._endpoints.remove(entry)
                raise
            self._endpoints.ready(entry, deployment)
