"""Writes TorchServe's snapshots: at the start, after each change, and at the stop (TorchServe reference §1.2).

They are for those who read, keep or hand them back; what is registered is remembered in the state directory. A thread writes
them, so that nobody waits for the disk, and a disk that fails is a warning.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import structlog

from flowyard.engines.torchserve.folder import HANDLER
from flowyard.platform.archives.remote import is_remote
from flowyard.platform.http.torchserve.descriptions import configured_of, runtime_of, served_as
from flowyard.platform.http.torchserve.entries import Model, Models
from flowyard.platform.http.torchserve.urls import base_name
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.registry import Registry
from flowyard.platform.settings import Settings
from flowyard.platform.torchserve_config import properties_of
from flowyard.platform.torchserve_snapshots import (
    FOLDER,
    KEY,
    MAX_BYTES,
    STATE_DIR,
    Kind,
    ModelDefaults,
    Snapshot,
    name_of,
    snapshots_in,
    stamp_of,
    state_dir_of,
    value_of,
)
from flowyard.schemas.properties import format_properties

log = structlog.stdlib.get_logger(__name__)

#: Time in which several changes, as those of one request are, come into one snapshot.
GATHER_S = 0.02
#: Snapshots that are kept, the latest ones; those that others have written stay.
MOST_KEPT = 200
#: Those that may wait for the disk; what comes then is left out.
MOST_WAITING = 8
#: Time that the disk gets for the last ones.
CLOSE_LIMIT_S = 5.0


class Snapshots:
    """Writes snapshots.

    Args:
        registry: Tells of changes.
        models: What there is.
        folder: The folder of the logs.
        kept: Keys of the configuration that do nothing here.
    """

    def __init__(self, registry: Registry, models: Models, folder: Path, kept: Mapping[str, str]) -> None:
        self._registry = registry
        self._models = models
        self._settings = registry.settings
        self._logs = folder.absolute()
        self._state_dir = Path(self._settings.state_dir).absolute()
        said = properties_of(self._settings, Settings())
        if self._settings.keystore is None:
            said.pop("keystore_pass", None)
        self._properties = {**kept, **said, STATE_DIR: str(self._state_dir)}
        self._mode = 0o600 if "keystore_pass" in self._properties else 0o666
        self._last = next((stamp for file in reversed(snapshots_in(folder)) if (stamp := stamp_of(file.name))), None)
        self._has_started = False
        self._foreign: set[str] = set()
        self._waiting: queue.SimpleQueue[tuple[str, Snapshot] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="snapshots", daemon=True)
        self._thread.start()
        registry.watch_changes(self.changed)
        self._starting = asyncio.ensure_future(self._start())
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, change: Change) -> None:
        """Something is registered otherwise than before; what the server does itself is part of its start until that is over."""
        if change.who == "server" and not self._has_started:
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._gathered)

    def _gathered(self) -> None:
        self._timer = None
        self._take("snapshot")

    def close(self) -> None:
        """The server stops; the last snapshot says what it has served."""
        self._registry.watch_changes(None)
        self._starting.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._take("shutdown")
        self._waiting.put(None)
        self._thread.join(CLOSE_LIMIT_S)

    async def _start(self) -> None:
        await self._registry.settled()
        self._has_started = True
        self._take("startup")

    def _take(self, kind: Kind) -> None:
        """Hands what there is now to the thread."""
        if self._waiting.qsize() < MOST_WAITING:
            self._waiting.put(self._made(kind))
        else:
            log.warning("a snapshot could not be written", snapshot=kind, reason="the disk is too slow")

    def _write(self) -> None:
        while (made := self._waiting.get()) is not None:
            self._save(*made)

    def _made(self, kind: Kind) -> tuple[str, Snapshot]:
        """The name and content of a snapshot of now."""
        now = datetime.now()  # noqa: DTZ005 - local, as Java's
        name, self._last = name_of(kind, now, self._last)
        models = {
            name: versions
            for name in {model.name: None for model in self._models.default_models() if not model.key}
            if (
                versions := {model.version: self._state(model) for model in self._models.versions(name) if model.pool is not None}
            )
        }
        count = sum(map(len, models.values()))
        return name, Snapshot(name=name, model_count=count, created=int(now.timestamp() * 1000), models=models)

    def _state(self, model: Model) -> ModelDefaults:
        served = served_as(model, self._settings)
        url = model.entry.record.url
        return ModelDefaults(
            default_version=self._models.is_default(model),
            mar_name=base_name(url) if is_remote(url) else Path(url).name,
            min_workers=served.min_workers,
            max_workers=served.max_workers,
            batch_size=served.batch_size,
            max_batch_delay=served.max_batch_delay,
            response_timeout=served.response_timeout,
            startup_timeout=served.startup_timeout,
            runtime_type=runtime_of(model),
            parallel_level=configured_of(model.pool).parallel_level or None,
            handler=model.entry.record.spec.options.get(HANDLER),
        )

    def _save(self, name: str, snapshot: Snapshot) -> None:
        """Writes a file in one step. It is begun where nobody looks for snapshots: TorchServe minds any other name there."""
        now = datetime.now().astimezone()
        text = format_properties(
            {**self._properties, KEY: value_of(snapshot)}, "Saving snapshot", now.strftime("%a %b %d %H:%M:%S %Z %Y")
        )
        partial = self._logs / f".{name}.{os.getpid()}"
        try:
            if len(text) > MAX_BYTES:
                raise OSError(f"it would have more than {MAX_BYTES} bytes")
            folder = self._logs / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            with open(partial, "x", encoding="ascii", opener=self._open) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(folder / name)
            self._forget_old()
        except OSError as error:
            log.warning("a snapshot could not be written", snapshot=name, reason=error.strerror or str(error))
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _open(self, path: str, flags: int) -> int:
        return os.open(path, flags, self._mode)

    def _forget_old(self) -> None:
        for file in snapshots_in(self._logs)[:-MOST_KEPT]:
            if file.name in self._foreign:
                continue
            if state_dir_of(file) == self._state_dir:
                file.unlink(missing_ok=True)
            else:
                self._foreign.add(file.name)


def snapshots(registry: Registry, models: Models, kept: Mapping[str, str]) -> Snapshots | None:
    """What writes snapshots, `None` where the settings want none or there is no folder for them.

    Args:
        registry: Tells of changes.
        models: What there is.
        kept: Keys of the configuration that do nothing here.
    """
    settings = registry.settings
    if settings.log_location is None or not settings.config_snapshots:
        return None
    return Snapshots(registry, models, Path(settings.log_location), kept)
