"""The registry's database file: opened, checked, set aside where it is damaged, and written together with its copies.

All of this belongs to one thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from flowyard.platform.registry import tables
from flowyard.platform.registry.copies import Copies
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.salvage import readable_history
from flowyard.schemas.errors import ConflictError

log = structlog.stdlib.get_logger(__name__)

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class DamagedError(Exception):
    """The database is no database any more, or one that contradicts itself."""


class Database:
    """The database and its copies.

    Args:
        path: The file.
        history_size: Most changes that are remembered.

    Attributes:
        has_lost: Whether something was registered of which nobody knows any more what it was, but that it may need its archives.
    """

    def __init__(self, path: Path, history_size: int) -> None:
        self._path = path
        self._history_size = history_size
        self._copies = Copies(path.with_name("copies"))
        self.has_lost = False
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, of an open database."""
        assert self._connection is not None
        return self._connection

    def write(self, name: str | None, statements: Sequence[tables.Statement], change: Change | None) -> None:
        """Makes changes of a name, or of what has ended, in one transaction, then in the copy.

        Args:
            name: The name, `None` for what has ended.
            statements: The changes.
            change: What goes into the history.
        """
        history = () if change is None else (tables.add_change(change), tables.trim_changes(self._history_size))
        with self.connection:
            for statement, values in (*statements, *history):
                self.connection.execute(statement, values)
        if name is not None:
            self._copies.write(name, tables.named(self.connection, name))
        else:
            self._copies.write_former(tables.all_former(self.connection))

    def open(self) -> Path | None:
        """Opens it and creates what is missing. A damaged one is set aside; a new one gets what the copies say.

        Returns:
            Where a damaged database is now, `None` when there was none.

        Raises:
            ConflictError: The file is of a newer version, or no database of ours; it is left as it is.
            sqlite3.Error: It cannot be read or written.
        """
        aside: Path | None = None
        try:
            self._connect()
        except DamagedError as error:
            self.close()
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
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.executescript(tables.TABLES)
            (count,) = self.connection.execute("SELECT count(*) FROM registrations").fetchone()
            if schema < tables.SCHEMA:
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
        (schema,) = self.connection.execute("PRAGMA user_version").fetchone()
        there = {name for (name,) in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if schema > tables.SCHEMA:
            raise ConflictError(
                f"{self._path} was written by a newer flowyard (tables of version {schema}, this one knows {tables.SCHEMA}); "
                "serve it with that one, or give this one its own --state-dir"
            )
        if there and "registrations" not in there:
            raise ConflictError(f"{self._path} is a database of something else; give this server its own --state-dir")
        (verdict,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise DamagedError(str(verdict))
        if there and (problem := tables.unreadable(self.connection)):
            raise DamagedError(problem)
        return int(schema)

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
        found = self._copies.read() if with_copies else {}
        former = self._copies.read_former() if with_copies else []
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            for name, named in found.items():
                for record in named.records:
                    self.connection.execute(*tables.put(record))
                self.connection.execute(*tables.put_traffic(name, named.traffic))
            for item in former:
                self.connection.execute(*tables.bring_back_former(item))
            for number, change in history:
                self.connection.execute(*tables.bring_back_change(number, change))
            self.connection.execute(f"PRAGMA user_version={tables.SCHEMA}")
        if found or former:
            count = sum(len(named.records) for named in found.values())
            log.error("the registry was rebuilt from its copies", registrations=count, ended=len(former), history=len(history))

    def _bring_copies_up_to_date(self) -> None:
        """A crash may have come between a change and its copy."""
        self._copies.equal(tables.all_named(self.connection), tables.all_former(self.connection))

    def close(self) -> None:
        """Closes it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
