"""The record of what is registered, in SQLite: what was acknowledged is there after a crash.

One thread owns the connection; every change is committed to disk (WAL, synchronous=FULL) before its method returns.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from flowyard.platform import state_dir as state
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic
from flowyard.schemas.adapters import Adapter
from flowyard.schemas.errors import ConflictError
from flowyard.schemas.models import ModelSpec

T = TypeVar("T")

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
"""
# An update in place keeps the order of registration, which `INSERT OR REPLACE` would not.
_PUT = "INSERT INTO registrations VALUES (?, ?, ?) ON CONFLICT (name, version) DO UPDATE SET record = excluded.record"
_DELETE = "DELETE FROM registrations WHERE name = ? AND version = ?"
_PUT_TRAFFIC = "INSERT OR REPLACE INTO traffic VALUES (?, ?)"
_DELETE_TRAFFIC = "DELETE FROM traffic WHERE name = ?"

#: A statement and what goes in its places.
_Change = tuple[str, tuple[Any, ...]]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One registration, as it is to be brought up again.

    Attributes:
        name: Name of the model or workflow.
        version: Its version, empty for none.
        kind: Whether the archive is a workflow or a single model.
        url: Where it came from, as the caller said; `upload:sha256:…` for an upload.
        digest: Of the archive in the store; empty while a remote one that nobody waits for has not been fetched.
        spec: What the registration said about the model, or about every model of the workflow.
        created: ISO 8601, UTC.
        workers: What scaling has set since: minimum and maximum by model and device.
        sha256: What the digest of the archive has to be, empty for any.
        parts: Digests of models that have a place of their own in the store, by URL: remote ones, and archives in the archive.
        adapters: By model, all adapters that it has since one was registered, changed or unregistered.
    """

    name: str
    version: str = ""
    kind: Literal["model", "workflow"]
    url: str
    digest: str
    spec: ModelSpec
    created: str
    workers: dict[str, dict[str, tuple[int, int]]] = {}
    sha256: str = ""
    parts: dict[str, str] = {}
    adapters: dict[str, tuple[Adapter, ...]] = {}

    @property
    def digests(self) -> tuple[str, ...]:
        """All that it needs of the store."""
        return (self.digest, *self.parts.values())


class StateDirLock:
    """Holds a state directory for one server; the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, state_dir: Path) -> None:
        """Takes the lock.

        Raises:
            ConflictError: Another server has it.
        """
        state.prepare(state_dir)
        self._fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise ConflictError(
                f"the state directory {state_dir} is in use by another server (process {holder or 'unknown'}); "
                "stop it, or give this one its own --state-dir"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets go of the directory."""
        os.close(self._fd)


class RegistryStore:
    """The tables of registrations, and of what is said about the versions of a name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._connection: sqlite3.Connection | None = None
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Record)
        self._traffic_decoder = msgspec.json.Decoder(Traffic)

    async def open(self) -> None:
        """Opens the database and creates what is missing.

        Raises:
            ConflictError: The file is no database of ours, or it is damaged. It is left as it is.
        """
        try:
            await self._call(self._open)
        except sqlite3.DatabaseError as error:
            raise ConflictError(f"{self._path} cannot be used: {error}; move it away to start with an empty registry") from error

    async def close(self) -> None:
        """Closes the database."""
        await self._call(self._close)
        self._thread.shutdown()

    async def put(self, record: Record) -> None:
        """Records a registration; it is on disk when this returns."""
        await self._write([(_PUT, (record.name, record.version, self._encoder.encode(record)))])

    async def put_traffic(self, name: str, traffic: Traffic) -> None:
        """Records what is said about the versions of a name; it is on disk when this returns."""
        await self._write([self._traffic_change(name, traffic)])

    async def delete(self, name: str, versions: Sequence[str], traffic: Traffic) -> None:
        """Forgets registrations, all or none; gone from disk when this returns.

        Args:
            name: Their name.
            versions: Their versions.
            traffic: What is still said about the versions that stay.
        """
        await self._write([*((_DELETE, (name, version)) for version in versions), self._traffic_change(name, traffic)])

    def _traffic_change(self, name: str, traffic: Traffic) -> _Change:
        if traffic == NO_TRAFFIC:
            return _DELETE_TRAFFIC, (name,)
        return _PUT_TRAFFIC, (name, self._encoder.encode(traffic))

    async def all(self) -> list[Record]:
        """Every registration, in the order they were made."""
        rows = await self._select("SELECT record FROM registrations ORDER BY rowid")
        return [self._decoder.decode(record) for (record,) in rows]

    async def all_traffic(self) -> dict[str, Traffic]:
        """What is said about the versions of each name."""
        rows = await self._select("SELECT name, record FROM traffic")
        return {name: self._traffic_decoder.decode(record) for name, record in rows}

    async def _call(self, work: Callable[[], T]) -> T:
        # Shielded: a caller that is cancelled must not leave its change half known.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))

    async def _write(self, changes: Sequence[_Change]) -> None:
        """Makes changes in one transaction."""

        def write() -> None:
            assert self._connection is not None
            with self._connection:
                for statement, values in changes:
                    self._connection.execute(statement, values)

        await self._call(write)

    async def _select(self, statement: str) -> list[tuple[Any, ...]]:
        def select() -> list[tuple[Any, ...]]:
            assert self._connection is not None
            return self._connection.execute(statement).fetchall()

        return await self._call(select)

    def _open(self) -> None:
        # What SQLite puts beside it takes the mode of the database.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._path.chmod(0o600)
        self._connection = sqlite3.connect(self._path)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_TABLES)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
