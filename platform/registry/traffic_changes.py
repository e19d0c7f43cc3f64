"""Changes of how requests are spread over versions: made, recorded, and taken back where they cannot be recorded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.history import Change, change
from flowyard.platform.registry.store import RegistryStore
from flowyard.platform.registry.traffic import shown_weights


class TrafficChanges:
    """Changes weights, default versions and shadows.

    Args:
        endpoints: What is registered.
        store: The record.
    """

    def __init__(self, endpoints: Endpoints, store: RegistryStore) -> None:
        self._endpoints = endpoints
        self._store = store

    async def set_weights(self, name: str, weights: Mapping[str, int]) -> None:
        """Sets the shares of the versions of a name, as `Endpoints.set_weights`; recorded on disk when this returns."""
        made = change("weights", name, weights=shown_weights(weights))
        await self.make(name, functools.partial(self._endpoints.set_weights, name, weights), made)

    async def set_default(self, name: str, version: str) -> None:
        """Chooses the version that answers, as `Endpoints.set_default`; recorded on disk when this returns."""
        made = change("set-default", name, version)
        await self.make(name, functools.partial(self._endpoints.set_default, name, version), made)

    async def clear_default(self, name: str, version: str) -> None:
        """Takes that choice back, as `Endpoints.clear_default`; recorded on disk when this returns."""
        made = change("clear-default", name, version)
        await self.make(name, functools.partial(self._endpoints.clear_default, name, version), made)

    async def set_shadow(self, name: str, version: str, *, on: bool) -> None:
        """Makes a version a shadow or an ordinary one, as `Endpoints.set_shadow`; recorded on disk when this returns."""
        made = change("shadow", name, version, on=str(on).lower())
        await self.make(name, functools.partial(self._endpoints.set_shadow, name, version, on=on), made)

    async def make(self, name: str, carry_out: Callable[[], None], made: Change | None) -> None:
        """Makes a change, and records it.

        Args:
            name: Whose traffic is changed.
            carry_out: Changes it in memory.
            made: What goes into the history.

        Raises:
            FlowyardError: It is refused or cannot be recorded; nothing has changed.
        """
        before = self._endpoints.traffic(name)
        carry_out()
        # Nothing may come between the change and its way to the store: the last one that is recorded must be the last one made.
        try:
            await self._store.put_traffic(name, self._endpoints.traffic(name), made)
        except BaseException:
            self._endpoints.restore_traffic(name, before)
            raise
