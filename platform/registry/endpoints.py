"""Names and versions in memory: which deployment answers a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.store import Record
from flowyard.schemas.errors import ConflictError, ModelNotFoundError, NotReadyError

Status = Literal["PENDING", "READY", "FAILED"]


class Progress(msgspec.Struct, frozen=True):
    """How far the fetch of a remote archive is.

    Attributes:
        fetched_bytes: Bytes that are there.
        total_bytes: How many there will be, `None` where the server does not say.
    """

    fetched_bytes: int
    total_bytes: int | None = None


class Entry:
    """One version of an endpoint.

    Attributes:
        record: What was registered.
        status: `PENDING` while its workers start, `FAILED` when they could not.
        reason: Why it failed.
        deployment: What runs, once it does.
        at_startup: Whether the operator asked for it when starting the server.
        progress: How far what it needs has been fetched; `None` when there is nothing to fetch.
    """

    __slots__ = ("at_startup", "deployment", "progress", "reason", "record", "status")

    def __init__(self, record: Record, *, at_startup: bool = False) -> None:
        self.record = record
        self.status: Status = "PENDING"
        self.reason = ""
        self.deployment: Deployment | None = None
        self.at_startup = at_startup
        self.progress: Progress | None = None

    def fetched(self, fetched_bytes: int, total_bytes: int | None) -> None:
        """Some more of what it needs is there."""
        self.progress = Progress(fetched_bytes, total_bytes)

    def keep_part(self, url: str, digest: str) -> None:
        """The model at a URL is in the store, and has to stay there."""
        self.record = msgspec.structs.replace(self.record, parts=self.record.parts | {url: digest})

    def ready(self, deployment: Deployment) -> None:
        """The deployment is up."""
        self.deployment = deployment
        self.status = "READY"

    def failed(self, reason: str) -> None:
        """The deployment could not be brought up."""
        self.status = "FAILED"
        self.reason = reason


class Endpoints:
    """All names with their versions, in the order the versions were registered."""

    def __init__(self) -> None:
        self._by_name: dict[str, dict[str, Entry]] = {}
        self._turn: dict[str, int] = {}

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by name, then in order of registration."""
        for name in sorted(self._by_name):
            yield from self._by_name[name].values()

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._by_name)

    def has(self, name: str, version: str) -> bool:
        """Whether exactly this version is registered."""
        return version in self._by_name.get(name, {})

    def holds(self, entry: Entry) -> bool:
        """Whether this very entry is registered."""
        return self._by_name.get(entry.record.name, {}).get(entry.record.version) is entry

    def has_failed(self, name: str, version: str) -> bool:
        """Whether exactly this version is registered, and has failed."""
        entry = self._by_name.get(name, {}).get(version)
        return entry is not None and entry.status == "FAILED"

    def remove_failed(self, name: str, version: str) -> bool:
        """Makes room for another attempt where the last one has failed; tells whether there was one."""
        if not self.has_failed(name, version):
            return False
        self.remove(self._by_name[name][version])
        return True

    def add(self, entry: Entry) -> None:
        """Takes an entry in.

        Raises:
            ConflictError: The name and version are taken, or an unversioned entry would follow a versioned one (DJL §1.3).
        """
        record = entry.record
        self.check_free(record.name, record.version)
        self._by_name.setdefault(record.name, {})[record.version] = entry

    def check_free(self, name: str, version: str) -> None:
        """Checks that an entry could be taken in.

        Raises:
            ConflictError: The name and version are taken, or an unversioned entry would follow a versioned one (DJL §1.3).
        """
        versions = self._by_name.get(name, {})
        if version in versions or (versions and not version):
            shown = f"{name}:{version}" if version else name
            raise ConflictError(f"Workflow {shown} is already registered.")

    def remove(self, entry: Entry) -> None:
        """Takes an entry out; does nothing when it is not in."""
        record = entry.record
        versions = self._by_name.get(record.name, {})
        if versions.get(record.version) is entry:
            del versions[record.version]
        if not versions:
            self._by_name.pop(record.name, None)
            self._turn.pop(record.name, None)

    def versions(self, name: str, version: str | None = None) -> list[Entry]:
        """The entries of a name, or the one of a version. `default` is the unversioned one (DJL §1.3).

        Raises:
            ModelNotFoundError: There is none.
        """
        versions = self._by_name.get(name)
        if not versions:
            raise ModelNotFoundError(f"Model or workflow not found: {name}")
        if version is None:
            return list(versions.values())
        entry = versions.get(version) or (versions.get("") if version == "default" else None)
        if entry is None:
            raise ModelNotFoundError(f"Model or workflow not found: {name}")
        return [entry]

    def route(self, name: str, version: str | None = None) -> Deployment:
        """The deployment that answers a request: the named version, or the ready ones in turn (DJL §2.3).

        Raises:
            ModelNotFoundError: No such name or version.
            NotReadyError: It is there, but does not run.
        """
        versions = self._by_name.get(name)
        if versions is not None and version is None and len(versions) == 1:
            (entry,) = versions.values()
            if entry.deployment is not None:
                return entry.deployment
        ready = [entry.deployment for entry in self.versions(name, version) if entry.deployment is not None]
        if not ready:
            raise NotReadyError(f"Model is not ready: {name}")
        turn = self._turn.get(name, 0)
        self._turn[name] = turn + 1
        return ready[turn % len(ready)]
