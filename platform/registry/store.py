"""The record of what is registered, in SQLite: what was acknowledged is there after a crash.

One thread owns the connection; every change is committed to disk (WAL, synchronous=FULL) before its method returns. Beside the
database each name has a copy of what is recorded of it, for the day the database is damaged.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from flowyard.platform.registry import tables
from flowyard.platform.registry.database import Database
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.records import Former, Record
from flowyard.platform.registry.traffic import Traffic
from flowyard.schemas.errors import InternalError, StorageError

T = TypeVar("T")

_NO_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


class RegistryStore:
    """The tables of registrations, of what is said about the versions of a name, and of what was changed.

    Args:
        path: The database.
        history_size: Most changes that are remembered.

    Attributes:
        on_change: Is told of every change of what is registered, once it is on disk.
    """

    def __init__(self, path: Path, history_size: int = 10_000) -> None:
        self._database = Database(path, history_size)
        self.on_change: Callable[[Change], None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")

    @property
    def has_lost(self) -> bool:
        """Whether something was registered of which nobody knows any more what it was, but that it may need its archives."""
        return self._database.has_lost

    async def open(self) -> Path | None:
        """Opens the database and creates what is missing. A damaged one is set aside; a new one gets what the copies say.

        Returns:
            Where a damaged database is now, `None` when there was none.

        Raises:
            ConflictError: The file is of a newer version, or no database of ours; it is left as it is.
            StorageError: It cannot be read or written.
        """
        return await self._call(self._database.open)

    async def close(self) -> None:
        """Closes the database."""
        await self._call(self._database.close)
        self._thread.shutdown()

    # ---- changes: each is on disk when its method returns ----

    async def put(self, *records: Record, change: Change | None = None, traffic: Traffic | None = None) -> None:
        """Records registrations of one name, all or none.

        Args:
            records: The registrations.
            change: What goes into the history.
            traffic: What is said about the versions from now on; `None` leaves it as it is.
        """
        name = records[0].name
        await self._write(
            name,
            [*map(tables.put, records), *([] if traffic is None else [tables.put_traffic(name, traffic)])],
            change,
        )

    async def put_traffic(self, name: str, traffic: Traffic, change: Change | None = None) -> None:
        """Records what is said about the versions of a name."""
        await self._write(name, [tables.put_traffic(name, traffic)], change)

    async def delete(self, name: str, versions: Sequence[str], traffic: Traffic, change: Change | None = None) -> None:
        """Forgets registrations, all or none.

        Args:
            name: Their name.
            versions: Their versions.
            traffic: What is still said about the versions that stay.
            change: What goes into the history.
        """
        deletes = [tables.delete(name, version) for version in versions]
        await self._write(name, [*deletes, tables.put_traffic(name, traffic)], change)

    async def keep_former(self, records: Sequence[Record], ended: float) -> None:
        """Remembers registrations that have ended."""
        await self._write(None, [tables.add_former(record, ended) for record in records], None)

    async def drop_former(self, numbers: Sequence[int]) -> None:
        """Forgets registrations that had ended."""
        await self._write(None, [tables.drop_former(number) for number in numbers], None)

    # ---- what is recorded ----

    async def all(self) -> list[Record]:
        """Every registration, in the order they were made."""
        return await self._read(tables.all_records)

    async def all_traffic(self) -> dict[str, Traffic]:
        """What is said about the versions of each name."""
        return await self._read(tables.all_traffic)

    async def all_former(self) -> list[Former]:
        """The registrations that have ended, the oldest first."""
        return await self._read(tables.all_former)

    async def history(self, *, name: str | None, before: int, limit: int) -> list[tuple[int, Change]]:
        """Changes, the last first.

        Args:
            name: Whose, `None` for all.
            before: Only those with a number below this.
            limit: How many at most.

        Returns:
            Each with its number.
        """
        return await self._read(functools.partial(tables.changes, name=name, before=before, limit=limit))

    async def _call(self, work: Callable[[], T]) -> T:
        # Shielded: a caller that is cancelled must not leave its change half known.
        try:
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))
        except sqlite3.Error as error:
            raise _told(error) from error

    async def _write(self, name: str | None, statements: Sequence[tables.Statement], change: Change | None) -> None:
        await self._call(functools.partial(self._database.write, name, statements, change))
        if change is not None and self.on_change is not None:
            self.on_change(change)

    async def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return await self._call(lambda: read(self._database.connection))


def _told(error: sqlite3.Error) -> Exception:
    """An error of the database as ours; the code is not there for errors of the module itself."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF
    if code in _NO_SPACE:
        return StorageError(f"the change cannot be recorded, and was not made: {error}; free space for the state directory")
    return InternalError(f"the registry's database failed: {error}")
