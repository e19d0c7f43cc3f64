"""The record of what is registered, in SQLite: what was acknowledged is there after a crash.

One thread owns the connection; every change is committed to disk (WAL, synchronous=FULL) before its method returns. Beside the
database each name has a copy of what is recorded of it, for the day the database is damaged.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from flowyard.platform.registry.copies import Copies, Named
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.records import Former, Record
from flowyard.platform.registry.salvage import readable_history
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic
from flowyard.schemas.errors import ConflictError, InternalError, StorageError

log = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")

#: Number of the tables below; a database says in `user_version` which it has. Those of before there was a number have 0.
SCHEMA = 1
#: Most registrations that are remembered after they were unregistered, of all names.
MOST_FORMER = 100
_TABLES = """
CREATE TABLE IF NOT EXISTS registrations (
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;
CREATE TABLE IF NOT EXISTS traffic (
    name TEXT NOT NULL PRIMARY KEY,
    record BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS former (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    ended REAL NOT NULL,
    record BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    change BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS changes_by_name ON changes (name, number);
"""
# An update in place keeps the order of registration, which `INSERT OR REPLACE` would not.
_PUT = "INSERT INTO registrations VALUES (?, ?, ?) ON CONFLICT (name, version) DO UPDATE SET record = excluded.record"
_DELETE = "DELETE FROM registrations WHERE name = ? AND version = ?"
_PUT_TRAFFIC = "INSERT OR REPLACE INTO traffic VALUES (?, ?)"
_DELETE_TRAFFIC = "DELETE FROM traffic WHERE name = ?"
_ADD_FORMER = "INSERT INTO former (name, ended, record) VALUES (?, ?, ?)"
_DROP_FORMER = "DELETE FROM former WHERE number = ?"
_ADD_CHANGE = "INSERT INTO changes (name, change) VALUES (?, ?)"
_TRIM_CHANGES = "DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?"
_SELECT_CHANGES = "SELECT number, change FROM changes WHERE number < ? {} ORDER BY number DESC LIMIT ?"
_RECORDS_OF = "SELECT record FROM registrations WHERE name = ? ORDER BY rowid"
_TRAFFIC_OF = "SELECT record FROM traffic WHERE name = ?"

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NO_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

#: A statement and what goes in its places.
_Statement = tuple[str, tuple[Any, ...]]


class DamagedError(Exception):
    """The database is no database any more, or one that contradicts itself."""


class RegistryStore:
    """The tables of registrations, of what is said about the versions of a name, and of what was changed.

    Args:
        path: The database.
        history_size: Most changes that are remembered.

    Attributes:
        on_change: Is told of every change of what is registered, once it is on disk.
        has_lost: Whether something was registered of which nobody knows any more what it was, but that it may need its archives.
    """

    def __init__(self, path: Path, history_size: int = 10_000) -> None:
        self._path = path
        self._history_size = history_size
        self._copies = Copies(path.with_name("copies"))
        self.on_change: Callable[[Change], None] | None = None
        self.has_lost = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._connection: sqlite3.Connection | None = None
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Record)
        self._traffic_decoder = msgspec.json.Decoder(Traffic)

    async def open(self) -> Path | None:
        """Opens the database and creates what is missing. A damaged one is set aside; a new one gets what the copies say.

        Returns:
            Where a damaged database is now, `None` when there was none.

        Raises:
            ConflictError: The file is of a newer version, or no database of ours; it is left as it is.
            StorageError: It cannot be read or written.
        """
        return await self._call(self._open)

    async def close(self) -> None:
        """Closes the database."""
        await self._call(self._close)
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
            [(_PUT, (record.name, record.version, self._encoder.encode(record))) for record in records]
            + ([] if traffic is None else [self._traffic_change(name, traffic)]),
            change,
        )

    async def put_traffic(self, name: str, traffic: Traffic, change: Change | None = None) -> None:
        """Records what is said about the versions of a name."""
        await self._write(name, [self._traffic_change(name, traffic)], change)

    async def delete(self, name: str, versions: Sequence[str], traffic: Traffic, change: Change | None = None) -> None:
        """Forgets registrations, all or none.

        Args:
            name: Their name.
            versions: Their versions.
            traffic: What is still said about the versions that stay.
            change: What goes into the history.
        """
        deletes: list[_Statement] = [(_DELETE, (name, version)) for version in versions]
        await self._write(name, [*deletes, self._traffic_change(name, traffic)], change)

    async def keep_former(self, records: Sequence[Record], ended: float) -> None:
        """Remembers registrations that have ended."""
        await self._write(None, [(_ADD_FORMER, (item.name, ended, self._encoder.encode(item))) for item in records], None)

    async def drop_former(self, numbers: Sequence[int]) -> None:
        """Forgets registrations that had ended."""
        await self._write(None, [(_DROP_FORMER, (number,)) for number in numbers], None)

    def _traffic_change(self, name: str, traffic: Traffic) -> _Statement:
        if traffic == NO_TRAFFIC:
            return _DELETE_TRAFFIC, (name,)
        return _PUT_TRAFFIC, (name, self._encoder.encode(traffic))

    # ---- what is recorded ----

    async def all(self) -> list[Record]:
        """Every registration, in the order they were made."""
        rows = await self._select("SELECT record FROM registrations ORDER BY rowid")
        return [self._decoder.decode(record) for (record,) in rows]

    async def all_traffic(self) -> dict[str, Traffic]:
        """What is said about the versions of each name."""
        rows = await self._select("SELECT name, record FROM traffic")
        return {name: self._traffic_decoder.decode(record) for name, record in rows}

    async def all_former(self) -> list[Former]:
        """The registrations that have ended, the oldest first."""
        return await self._call(self._former)

    async def history(self, *, name: str | None, before: int, limit: int) -> list[tuple[int, Change]]:
        """Changes, the last first.

        Args:
            name: Whose, `None` for all.
            before: Only those with a number below this.
            limit: How many at most.

        Returns:
            Each with its number.
        """
        condition, values = ("", ()) if name is None else ("AND name = ?", (name,))
        rows = await self._select(_SELECT_CHANGES.format(condition), (before, *values, limit))
        return [(number, msgspec.json.decode(change, type=Change)) for number, change in rows]

    async def _call(self, work: Callable[[], T]) -> T:
        # Shielded: a caller that is cancelled must not leave its change half known.
        try:
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))
        except sqlite3.Error as error:
            raise _told(error) from error

    async def _write(self, name: str | None, statements: Sequence[_Statement], change: Change | None) -> None:
        """Makes changes of a name, or of what has ended, in one transaction, then in the copy."""

        def write() -> None:
            assert self._connection is not None
            with self._connection:
                for statement, values in statements:
                    self._connection.execute(statement, values)
                if change is not None:
                    self._connection.execute(_ADD_CHANGE, (change.name, self._encoder.encode(change)))
                    self._connection.execute(_TRIM_CHANGES, (self._history_size,))
            if name is not None:
                self._copies.write(name, self._named(name))
            else:
                self._copies.write_former(self._former())

        await self._call(write)
        if change is not None and self.on_change is not None:
            self.on_change(change)

    async def _select(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        def select() -> list[tuple[Any, ...]]:
            assert self._connection is not None
            return self._connection.execute(statement, values).fetchall()

        return await self._call(select)

    def _named(self, name: str) -> Named:
        """All that is recorded of a name."""
        assert self._connection is not None
        records = [self._decoder.decode(record) for (record,) in self._connection.execute(_RECORDS_OF, (name,))]
        row = self._connection.execute(_TRAFFIC_OF, (name,)).fetchone()
        return Named(records, self._traffic_decoder.decode(row[0]) if row is not None else NO_TRAFFIC)

    def _former(self) -> list[Former]:
        assert self._connection is not None
        rows = self._connection.execute("SELECT number, ended, record FROM former ORDER BY number")
        return [Former(number, ended, self._decoder.decode(record)) for number, ended, record in rows]

    # ---- opening ----

    def _open(self) -> Path | None:
        aside: Path | None = None
        try:
            self._connect()
        except DamagedError as error:
            self._close()
            aside = self._set_aside()
            log.error("the registry is damaged and was set aside", reason=str(error), aside=str(aside))
            self._connect(readable_history(aside, self._history_size))
        self._bring_copies_up_to_date()
        lost = self._copies.damaged()
        self.has_lost = bool(lost)
        if lost:
            files = ", ".join(path.name for path in lost)
            log.error(
                "some of what was registered is not known any more; all archives stay until these are removed", copies=files
            )
        return aside

    def _connect(self, history: Sequence[tuple[int, Change]] = ()) -> None:
        # What SQLite puts beside it takes the mode of the database.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._path.chmod(0o600)
        self._connection = sqlite3.connect(self._path)
        try:
            schema = self._check()
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_TABLES)
            (count,) = self._connection.execute("SELECT count(*) FROM registrations").fetchone()
            if schema < SCHEMA:
                self._begin(history, with_copies=not count)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in _DAMAGED:
                raise DamagedError(str(error)) from None
            raise

    def _check(self) -> int:
        """Looks whether it is a database of ours, of a version that is known here, and whole.

        Returns:
            Its version.

        Raises:
            ConflictError: It is another's, or of a newer version.
            DamagedError: It is not whole.
        """
        assert self._connection is not None
        (schema,) = self._connection.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if schema > SCHEMA:
            raise ConflictError(
                f"{self._path} was written by a newer flowyard (tables of version {schema}, this one knows {SCHEMA}); "
                "serve it with that one, or give this one its own --state-dir"
            )
        if tables and "registrations" not in tables:
            raise ConflictError(f"{self._path} is a database of something else; give this server its own --state-dir")
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise DamagedError(str(verdict))
        if tables:
            self._check_records()
        return int(schema)

    def _check_records(self) -> None:
        assert self._connection is not None
        for name, version, record in self._connection.execute("SELECT name, version, record FROM registrations"):
            try:
                self._decoder.decode(record)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise DamagedError(f"the record of {name}:{version} cannot be read: {error}") from None

    def _set_aside(self) -> Path:
        """Moves the database and what belongs to it out of the way, under a name that nothing has yet."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        count = 0
        while (aside := self._path.with_name(f"{self._path.name}.damaged-{stamp}{f'-{count}' if count else ''}")).exists():
            count += 1
        # The database last: a crash on the way leaves it where it is found again.
        for suffix in ("-wal", "-shm", ""):
            part = Path(f"{self._path}{suffix}")
            if part.exists():
                part.rename(f"{aside}{suffix}")
        return aside

    def _begin(self, history: Sequence[tuple[int, Change]], *, with_copies: bool) -> None:
        """Gives a database its version, and what the copies say where there was none: a crash on the way begins it anew."""
        assert self._connection is not None
        found = self._copies.read() if with_copies else {}
        former = self._copies.read_former() if with_copies else []
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            for name, named in found.items():
                for record in named.records:
                    self._connection.execute(_PUT, (name, record.version, self._encoder.encode(record)))
                if named.traffic != NO_TRAFFIC:
                    self._connection.execute(*self._traffic_change(name, named.traffic))
            for item in former:
                self._connection.execute(
                    "INSERT OR IGNORE INTO former VALUES (?, ?, ?, ?)",
                    (item.number, item.record.name, item.ended, self._encoder.encode(item.record)),
                )
            for number, change in history:
                self._connection.execute(
                    "INSERT INTO changes VALUES (?, ?, ?)", (number, change.name, self._encoder.encode(change))
                )
            self._connection.execute(f"PRAGMA user_version={SCHEMA}")
        if found or former:
            count = sum(len(named.records) for named in found.values())
            log.error("the registry was rebuilt from its copies", registrations=count, ended=len(former), history=len(history))

    def _bring_copies_up_to_date(self) -> None:
        """A crash may have come between a change and its copy."""
        assert self._connection is not None
        names = [name for (name,) in self._connection.execute("SELECT DISTINCT name FROM registrations")]
        self._copies.equal({name: self._named(name) for name in names}, self._former())

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _told(error: sqlite3.Error) -> Exception:
    """An error of the database as ours; the code is not there for errors of the module itself."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF
    if code in _NO_SPACE:
        return StorageError(f"the change cannot be recorded, and was not made: {error}; free space for the state directory")
    return InternalError(f"the registry's database failed: {error}")
