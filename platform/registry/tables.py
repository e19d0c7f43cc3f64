"""The tables of the registry's database: what goes into them, as statements, and what comes out of them."""

from __future__ import annotations

import sqlite3
from typing import Any, TypeAlias

import msgspec

from flowyard.platform.registry.copies import Named
from flowyard.platform.registry.history import Change
from flowyard.platform.registry.records import Former, Record
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic

#: A statement and what goes in its places.
Statement: TypeAlias = tuple[str, tuple[Any, ...]]

#: Number of the tables below; a database says in `user_version` which it has. Those of before there was a number have 0.
SCHEMA = 1
TABLES = """
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
_SELECT_CHANGES = "SELECT number, change FROM changes WHERE number < ? {} ORDER BY number DESC LIMIT ?"

_encoder = msgspec.json.Encoder()
_decode_record = msgspec.json.Decoder(Record).decode
_decode_traffic = msgspec.json.Decoder(Traffic).decode


# ---- what goes in ----


def put(record: Record) -> Statement:
    """Records a registration."""
    return _PUT, (record.name, record.version, _encoder.encode(record))


def delete(name: str, version: str) -> Statement:
    """Forgets a registration."""
    return "DELETE FROM registrations WHERE name = ? AND version = ?", (name, version)


def put_traffic(name: str, traffic: Traffic) -> Statement:
    """Records what is said about the versions of a name."""
    if traffic == NO_TRAFFIC:
        return "DELETE FROM traffic WHERE name = ?", (name,)
    return "INSERT OR REPLACE INTO traffic VALUES (?, ?)", (name, _encoder.encode(traffic))


def add_former(record: Record, ended: float) -> Statement:
    """Remembers a registration that has ended."""
    return "INSERT INTO former (name, ended, record) VALUES (?, ?, ?)", (record.name, ended, _encoder.encode(record))


def bring_back_former(former: Former) -> Statement:
    """The same out of a copy, with its number."""
    encoded = _encoder.encode(former.record)
    return "INSERT OR IGNORE INTO former VALUES (?, ?, ?, ?)", (former.number, former.record.name, former.ended, encoded)


def drop_former(number: int) -> Statement:
    """Forgets one that had ended."""
    return "DELETE FROM former WHERE number = ?", (number,)


def add_change(change: Change) -> Statement:
    """Adds to the history."""
    return "INSERT INTO changes (name, change) VALUES (?, ?)", (change.name, _encoder.encode(change))


def bring_back_change(number: int, change: Change) -> Statement:
    """The same out of a damaged database, with its number."""
    return "INSERT INTO changes VALUES (?, ?, ?)", (number, change.name, _encoder.encode(change))


def trim_changes(size: int) -> Statement:
    """Forgets all changes but so many."""
    return "DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?", (size,)


# ---- what comes out ----


def all_records(connection: sqlite3.Connection) -> list[Record]:
    """Every registration, in the order they were made."""
    return [_decode_record(record) for (record,) in connection.execute("SELECT record FROM registrations ORDER BY rowid")]


def all_traffic(connection: sqlite3.Connection) -> dict[str, Traffic]:
    """What is said about the versions of each name."""
    return {name: _decode_traffic(record) for name, record in connection.execute("SELECT name, record FROM traffic")}


def all_former(connection: sqlite3.Connection) -> list[Former]:
    """The registrations that have ended, the oldest first."""
    rows = connection.execute("SELECT number, ended, record FROM former ORDER BY number")
    return [Former(number, ended, _decode_record(record)) for number, ended, record in rows]


def all_named(connection: sqlite3.Connection) -> dict[str, Named]:
    """All that is recorded, by name."""
    names = [name for (name,) in connection.execute("SELECT DISTINCT name FROM registrations")]
    return {name: named(connection, name) for name in names}


def named(connection: sqlite3.Connection, name: str) -> Named:
    """All that is recorded of a name."""
    records = connection.execute("SELECT record FROM registrations WHERE name = ? ORDER BY rowid", (name,))
    found = [_decode_record(record) for (record,) in records]
    row = connection.execute("SELECT record FROM traffic WHERE name = ?", (name,)).fetchone()
    return Named(found, _decode_traffic(row[0]) if row is not None else NO_TRAFFIC)


def changes(connection: sqlite3.Connection, name: str | None, before: int, limit: int) -> list[tuple[int, Change]]:
    """Changes with their numbers, the last first; arguments as for `RegistryStore.history`."""
    condition, values = ("", ()) if name is None else ("AND name = ?", (name,))
    rows = connection.execute(_SELECT_CHANGES.format(condition), (before, *values, limit))
    return [(number, msgspec.json.decode(change, type=Change)) for number, change in rows]


def unreadable(connection: sqlite3.Connection) -> str:
    """Which registration cannot be read, and why; the first of them, empty for none."""
    for name, version, record in connection.execute("SELECT name, version, record FROM registrations"):
        try:
            _decode_record(record)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return f"the record of {name}:{version} cannot be read: {error}"
    return ""
