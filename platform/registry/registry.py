"""All that is registered, on disk and running: puts the rooms of the registry together, and is the door to them.

Each job is done in a room of its own. What must not be left half done runs to its end even when its caller goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from flowyard.platform.archives.names import LoadItem
from flowyard.platform.archives.store import ArchiveStore
from flowyard.platform.devices import discover, parse_device
from flowyard.platform.held import held_of
from flowyard.platform.registry.adapters import Served
from flowyard.platform.registry.admission import Admission
from flowyard.platform.registry.changes import Changes
from flowyard.platform.registry.compiling import Compiler
from flowyard.platform.registry.deploying import Deployer
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.loading import Loading
from flowyard.platform.registry.planner import Planner
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.registration import Registration
from flowyard.platform.registry.removal import Removal
from flowyard.platform.registry.request import Request
from flowyard.platform.registry.requirements import Requirements
from flowyard.platform.registry.restoring import Restoration
from flowyard.platform.registry.retention import Retention
from flowyard.platform.registry.rollback import Rollback
from flowyard.platform.registry.scaling import Scaling
from flowyard.platform.registry.sources import Sources
from flowyard.platform.registry.staging import Staging
from flowyard.platform.registry.startup import AtStart
from flowyard.platform.registry.store import RegistryStore
from flowyard.platform.registry.tasks import Tasks
from flowyard.platform.registry.templates import Templates
from flowyard.platform.registry.traffic_changes import TrafficChanges
from flowyard.platform.registry.unattended import Unattended
from flowyard.platform.registry.workplaces import Workplaces
from flowyard.platform.settings import Settings
from flowyard.platform.state_dir import DATABASE, StateDirLock, let_through
from flowyard.platform.workers.confinement import check_can_work
from flowyard.platform.workers.watchers import Watchers
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import UnavailableError


class Registry:
    """All that is registered.

    Attributes:
        settings: The settings of the server.
        held: What requests take of the server's memory.
        endpoints: Who answers requests.
        registrations: How many registrations were accepted and refused.
        templates: Workflows that callers may fill in.
        watchers: Are told what workers do.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held = held_of(settings.max_held_size_bytes, settings.max_request_size)
        self.endpoints = endpoints = Endpoints()
        self.watchers = Watchers()
        self.templates = Templates(Path(settings.workflow_templates) if settings.workflow_templates else None)
        state_dir = Path(settings.state_dir).resolve()
        self._lock = StateDirLock(state_dir)
        archives = ArchiveStore(state_dir / "archives")
        self._store = store = RegistryStore(state_dir / DATABASE, settings.history_size)
        self._tasks = tasks = Tasks()
        self._sources = Sources(settings, archives)
        self._available = discover()
        planner = Planner(settings, self._available)
        self._requirements = Requirements(settings, state_dir / "requirements", planner.confinement)
        account = planner.confinement.account
        if account is not None:
            check_can_work(account)
            let_through((state_dir, *archives.folders), account.gid)

        retention = Retention(settings, endpoints, store, archives, self._requirements)
        self._staging = staging = Staging(archives, self._sources, retention, tasks)
        compiler = Compiler(settings, endpoints)
        workplaces = Workplaces(state_dir / "workplaces", planner.confinement)
        deployer = Deployer(settings, planner, staging, self._requirements, retention, self.watchers, workplaces, self.held)
        self._removal = Removal(settings, endpoints, store, retention, tasks)
        admission = Admission(endpoints, store, deployer, self._removal)
        unattended = Unattended(endpoints, store, staging, compiler, deployer, tasks)
        self._registration = Registration(endpoints, store, self._sources, staging, compiler, admission, unattended)
        self.registrations = self._registration.measures
        self._restoration = Restoration(settings, endpoints, store, staging, compiler, unattended, retention, tasks)
        self._traffic_changes = TrafficChanges(endpoints, store)
        self._loading = Loading(
            AtStart(settings, len(self.gpus)),
            endpoints,
            staging,
            compiler,
            self._registration,
            self._restoration,
            self._traffic_changes,
            tasks,
        )
        self._changes = Changes(endpoints, store)
        self._rollback = Rollback(endpoints, retention, staging, compiler, admission, self._traffic_changes)

    # ---- life ----

    async def open(self, *, wait: bool = True) -> None:
        """Opens the record and brings back what is in it, in parallel. One that fails stays, as `FAILED`.

        Args:
            wait: Whether to wait until all of it is up.
        """
        await self._store.open()
        await self._restoration.restore(wait=wait)

    async def close(self) -> None:
        """Drains and ends everything that runs. The record stays as it is."""
        self._requirements.stop()
        await self._tasks.stop()
        running = [entry.deployment for entry in self.endpoints if entry.deployment is not None]
        await asyncio.gather(*(deployment.close(self.settings.drain_timeout_s) for deployment in running))
        await self._tasks.finish()
        self.watchers.close()
        await self._store.close()
        self._lock.release()

    def stop_fetching(self) -> None:
        """Cuts short what somebody waits for, as `Tasks.stop_fetching`."""
        self._tasks.stop_fetching()

    async def load(self, item: LoadItem) -> None:
        """Loads what the operator asked for at the start, as `Loading.load`."""
        await self._loading.load(item)

    def load_later(self, items: Sequence[LoadItem]) -> None:
        """Loads what the operator asked for while requests are answered already, as `Loading.load_later`."""
        self._loading.load_later(items)

    async def settled(self) -> None:
        """Waits until what is recorded and what the operator asked for is up, or could not be brought up."""
        await self._restoration.finished()
        await self._loading.finished()

    def watch_changes(self, told: Callable[[Change], None] | None) -> None:
        """Has somebody told of every change of what is registered, once it is on disk; `None` for nobody any more."""
        self._store.on_change = told

    # ---- what callers may name ----

    @property
    def default_name(self) -> str | None:
        """The one name that the operator loaded at the start, which requests without a name mean (DJL §2.3)."""
        names = {entry.record.name for entry in self.endpoints if entry.at_startup}
        return names.pop() if len(names) == 1 else None

    @property
    def gpus(self) -> list[Device]:
        """The GPUs of this machine."""
        return [device for device in self._available if device.type == "gpu"]

    def device(self, name: str) -> Device:
        """A device by name.

        Raises:
            InvalidRequestError: No such name, or no such device here.
        """
        return parse_device(name, self._available)

    def check_url(self, url: str) -> None:
        """Checks a caller's URL before anything of it is read.

        Raises:
            UserError: It is not well formed, not allowed, or a path where nothing is.
        """
        self._sources.check(url)

    def has_file(self, url: str) -> bool:
        """Whether a caller's path leads to something that callers may name."""
        return self._sources.has_file(url)

    def allows_url(self, url: str) -> bool:
        """Whether the settings allow a remote URL, as far as its text says."""
        return self._sources.allows(url)

    def from_url(self, url: str) -> list[Entry]:
        """Everything that was registered from a URL, in the order in which it was."""
        return sorted((entry for entry in self.endpoints if entry.record.url == url), key=lambda entry: entry.record.created)

    # ---- registration and removal ----

    def temporary_file(self) -> AbstractContextManager[Path]:
        """Lends a file for an upload, on the file system of the archives."""
        return self._staging.temporary_file()

    async def register(self, request: Request) -> Entry:
        """Registers a model or workflow, as `Registration.register`."""
        return await self._tasks.unbroken(self._registration.register(request))

    async def unregister(
        self, name: str, version: str | None = None, *, drain_s: float | None = None, keep_busy: bool = False
    ) -> None:
        """Removes one version of a name, or all. It is gone from the record, and its workers have ended, when this returns.

        Args:
            name: The name.
            version: The version, `None` for all.
            drain_s: How long running requests get to finish, `None` for what the settings say.
            keep_busy: Whether what answers requests longer than that stays; else these are ended.

        Raises:
            NotFoundError: There is no such name or version.
            DeadlineError: It stays.
        """
        await self._removal.unregister(self.endpoints.versions(name, version), drain_s, keep_busy=keep_busy)

    async def unregister_entry(self, entry: Entry) -> None:
        """Removes one entry, as `unregister`; does nothing when it is not there any more."""
        if self.endpoints.holds(entry):
            await self._removal.unregister([entry])

    async def rollback(self, name: str, version: str | None = None) -> Record:
        """Lets an earlier version answer, as `Rollback.rollback`."""
        return await self._tasks.unbroken(self._rollback.rollback(name, version))

    # ---- changes ----

    async def scale(self, name: str, version: str | None, scaling: Scaling, *, wait: bool) -> int:
        """Changes the number of workers of one version of a name, or of all. It is recorded on disk when this returns.

        Args:
            name: Name of the endpoint.
            version: Its version, `None` for all.
            scaling: What to change.
            wait: Whether to wait until the workers are ready.

        Returns:
            The number of models scaled.

        Raises:
            ModelNotFoundError: There is no such name or version.
            UnavailableError: It does not run, or the new workers cannot be started.
            InvalidRequestError: The minimum would be over the maximum, or the device is not here.
        """
        entries = self.endpoints.versions(name, version)
        running = [(entry, entry.deployment) for entry in entries if entry.deployment is not None]
        if len(running) < len(entries):
            raise UnavailableError(f"Model or workflow is not ready: {name}")
        return await self._tasks.unbroken(self._changes.scale(running, scaling, wait=wait))

    async def change_adapters(self, served: Served, work: Coroutine[Any, Any, str]) -> str:
        """Changes the adapters of a model, as `Changes.change_adapters`."""
        return await self._tasks.unbroken(self._changes.change_adapters(served, work))

    async def set_weights(self, name: str, weights: Mapping[str, int]) -> None:
        """Sets the shares of the versions of a name, as `TrafficChanges.set_weights`."""
        await self._tasks.unbroken(self._traffic_changes.set_weights(name, weights))

    async def set_default(self, name: str, version: str) -> None:
        """Chooses the version that answers, as `TrafficChanges.set_default`."""
        await self._tasks.unbroken(self._traffic_changes.set_default(name, version))

    async def clear_default(self, name: str, version: str) -> None:
        """Takes that choice back, as `TrafficChanges.clear_default`."""
        await self._tasks.unbroken(self._traffic_changes.clear_default(name, version))

    async def set_shadow(self, name: str, version: str, *, on: bool) -> None:
        """Makes a version a shadow or an ordinary one, as `TrafficChanges.set_shadow`."""
        await self._tasks.unbroken(self._traffic_changes.set_shadow(name, version, on=on))

    # ---- history ----

    async def history(self, *, name: str | None, before: int, limit: int) -> list[tuple[int, Change]]:
        """Changes with their numbers, the last first, as `RegistryStore.history`."""
        return await self._store.history(name=name, before=before, limit=limit)
