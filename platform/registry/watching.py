"""Follows the model store: what comes, changes and goes is registered, replaced and unregistered, once it is quiet."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import structlog
from watchfiles import DefaultFilter, awatch

from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.names import LoadItem
from flowyard.platform.registry.history import CALLER
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.startup import no_model
from flowyard.schemas.errors import FlowyardError, InvalidRequestError

log = structlog.stdlib.get_logger(__name__)

#: How long nothing may change before an entry is taken for complete.
QUIET_S = 1.5
#: How often what is not quiet yet is looked at.
LOOK_MS = 300
#: Size, time of change and number of what is in an entry: another one means that it changed.
Fingerprint: TypeAlias = tuple[int, int, int]
CALLED = "model store"


class Watched:
    """Which entries have changed and been quiet since: pure, events come with their time.

    Args:
        quiet_s: How long they have to be quiet.
    """

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._done: dict[str, Fingerprint] = {}
        self._changing: dict[str, tuple[Fingerprint | None, float]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether something has changed that was not quiet yet."""
        return bool(self._changing)

    def seen(self, entries: Mapping[str, Fingerprint], now: float) -> list[str]:
        """Takes in what there is now.

        Args:
            entries: Fingerprints by name of all entries.
            now: The time in seconds.

        Returns:
            Entries that came, changed or went, and are quiet; each once.
        """
        for name in entries.keys() | self._done.keys() | self._changing.keys():
            there = entries.get(name)
            if there == self._done.get(name):
                self._changing.pop(name, None)
            elif name not in self._changing or self._changing[name][0] != there:
                self._changing[name] = (there, now)
        quiet = sorted(name for name, (_, since) in self._changing.items() if now - since >= self._quiet_s)
        for name in quiet:
            there, _ = self._changing.pop(name)
            if there is None:
                self._done.pop(name, None)
            else:
                self._done[name] = there
        return quiet


def check_store(settings_store: str | None) -> Path:
    """The folder that is to be followed.

    Raises:
        InvalidRequestError: There is none.
    """
    if not settings_store or not Path(settings_store).is_dir():
        raise InvalidRequestError("watch_model_store: there is no model store to watch (setting model_store)")
    return Path(settings_store).absolute()


async def watch(registry: Registry, store: Path) -> None:
    """Follows the store until it is cancelled. What cannot be registered is said once in the log, until it changes.

    Args:
        registry: Where entries are registered.
        store: The folder.
    """
    CALLER.set(CALLED)
    watched = Watched()
    limits = Limits.of(registry.settings)
    await _unregister_missing(registry, store)
    first = True
    async for changes in awatch(
        store, watch_filter=_Everything(), rust_timeout=LOOK_MS, yield_on_timeout=True, debounce=LOOK_MS, step=50
    ):
        if not (changes or watched.is_busy or first):
            continue
        first = False
        entries = await asyncio.to_thread(fingerprints, store)
        for name in watched.seen(entries, time.monotonic()):
            await _follow(registry, store / name, limits)


class _Everything(DefaultFilter):
    """Passes nothing over: what is hidden is, when entries are listed."""

    def __call__(self, change: object, path: str) -> bool:
        return True


def fingerprints(store: Path) -> dict[str, Fingerprint]:
    """Every entry that is not hidden, and what it looks like."""
    try:
        entries = [entry for entry in store.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return {}
    return {entry.name: found for entry in entries if (found := _fingerprint(entry)) is not None}


def _fingerprint(path: Path) -> Fingerprint | None:
    found = list(_stats(path))
    if not found:
        return None
    return sum(item.st_size for item in found), max(item.st_mtime_ns for item in found), hash(tuple(i.st_ino for i in found))


def _stats(path: Path) -> Iterator[os.stat_result]:
    try:
        yield path.stat()
        inner = sorted(os.scandir(path), key=lambda entry: entry.name) if path.is_dir() else []
    except OSError:
        # Gone while it was looked at: the next look sees that.
        return
    for entry in inner:
        if entry.is_symlink():
            continue
        yield from _stats(Path(entry.path))


async def _follow(registry: Registry, path: Path, limits: Limits) -> None:
    """Brings the registry in line with one entry."""
    if await asyncio.to_thread(_is_gone, path):
        await _unregister(registry, path)
        return
    reason = await asyncio.to_thread(no_model, path, limits)
    if reason:
        log.warning("not loaded from the model store", entry=path.name, reason=reason)
        return
    try:
        await registry.load(LoadItem(str(path)))
        # An archive may say another name or version than it did before.
        for entry in registry.from_url(str(path))[:-1]:
            await registry.unregister_entry(entry)
    except FlowyardError as error:
        log.error("could not load from the model store", entry=path.name, reason=error.message)


def _is_gone(path: Path) -> bool:
    return not path.exists()


async def _unregister(registry: Registry, path: Path) -> None:
    for entry in registry.from_url(str(path)):
        try:
            await registry.unregister_entry(entry)
        except FlowyardError as error:
            log.error("could not unregister what is gone from the model store", entry=path.name, reason=error.message)


async def _unregister_missing(registry: Registry, store: Path) -> None:
    """What went while nobody followed."""
    urls = {entry.record.url for entry in registry.endpoints}
    for url in sorted(urls):
        if url.startswith(f"{store}/") and await asyncio.to_thread(_is_gone, Path(url)):
            await _unregister(registry, Path(url))
