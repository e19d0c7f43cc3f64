"""Changes of workers and adapters of what runs: made, recorded, and taken back where they cannot be recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from flowyard.platform.registry.adapters import Served
from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.history import Change, change
from flowyard.platform.registry.scaling import Scaling
from flowyard.platform.registry.store import RegistryStore

#: Entries that run, with what runs of them.
Running = list[tuple[Entry, Deployment]]


class Changes:
    """Scales, and changes adapters.

    Args:
        endpoints: What is registered.
        store: The record.
    """

    def __init__(self, endpoints: Endpoints, store: RegistryStore) -> None:
        self._endpoints = endpoints
        self._store = store

    async def scale(self, running: Running, scaling: Scaling, *, wait: bool) -> int:
        """Changes the number of workers of entries of one name. It is recorded on disk when this returns.

        Args:
            running: What is scaled.
            scaling: What to change.
            wait: Whether to wait until the workers are ready.

        Returns:
            The number of models scaled.

        Raises:
            UnavailableError: The new workers cannot be started.
            InvalidRequestError: The minimum would be over the maximum, or the device is not here.
            ConflictError: Something of it was unregistered meanwhile.
        """
        for entry, _ in running:
            self._endpoints.check_held(entry)
        before = [(entry, deployment, entry.record.workers, deployment.numbers()) for entry, deployment in running]
        try:
            for entry, deployment in running:
                entry.record = msgspec.structs.replace(entry.record, workers=deployment.scale(scaling))
            await self._store.put(*(entry.record for entry, _ in running), change=_scaled(running, scaling))
        except BaseException:
            for entry, deployment, workers, numbers in before:
                deployment.restore(numbers)
                entry.record = msgspec.structs.replace(entry.record, workers=workers)
            raise
        if wait:
            await asyncio.gather(*(deployment.settled() for _, deployment in running))
        return sum(len(entry.record.workers) for entry, _ in running)

    async def change_adapters(self, served: Served, work: Coroutine[Any, Any, str]) -> str:
        """Changes the adapters of a model. The change is recorded on disk when this returns.

        Args:
            served: The model.
            work: What is to be done with its adapters.

        Returns:
            What the handler says about it.

        Raises:
            FlowyardError: The change was refused; nothing has changed.
        """
        before = served.adapters.known()
        said = await work
        entry = served.entry
        recorded = entry.record.adapters
        entry.record = msgspec.structs.replace(entry.record, adapters=recorded | {served.key: tuple(served.adapters)})
        if self._endpoints.holds(entry):
            made = change("adapters", entry.record.name, entry.record.version, model=served.key)
            try:
                await self._store.put(entry.record, change=made)
            except BaseException:
                entry.record = msgspec.structs.replace(entry.record, adapters=recorded)
                served.adapters.restore(before)
                raise
        return said


def _scaled(running: Running, scaling: Scaling) -> Change:
    (first, _), *others = running
    numbers = {
        "min_worker": scaling.min_worker,
        "max_worker": scaling.max_worker,
        "device": scaling.device,
        "model": scaling.model,
    }
    said = {key: str(value) for key, value in numbers.items() if value is not None}
    return change("scale", first.record.name, "" if others else first.record.version, **said)
