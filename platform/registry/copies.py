"""Copies of what is recorded, one small file for each name: what a damaged database is rebuilt from.

A copy is written after its change is on disk and before it is acknowledged. Nothing reads copies while the database is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from flowyard.platform.registry.records import Record
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic

log = structlog.stdlib.get_logger(__name__)


class Named(msgspec.Struct, frozen=True):
    """All that is recorded of one name.

    Attributes:
        records: Its versions, in the order of registration.
        traffic: What is said about them.
    """

    records: list[Record] = []
    traffic: Traffic = NO_TRAFFIC


class Copies:
    """A folder of copies.

    Args:
        folder: The folder, made on the first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, named: Named) -> None:
        """Writes the copy of a name, or removes it where nothing is left. That it cannot be written is said in the log.

        Args:
            name: The name.
            named: What is recorded of it.
        """
        path = self._path(name)
        try:
            if named.records:
                self._replace(path, msgspec.json.encode(named))
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the copy of a record cannot be written", name=name, reason=error.strerror)
            # Better none than one that says something else.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def read(self) -> dict[str, Named]:
        """All copies that can be read, by name, the oldest registration first."""
        found = [named for path in sorted(self._files()) if (named := _read(path)) is not None]
        found.sort(key=lambda named: min(record.created for record in named.records))
        return {named.records[0].name: named for named in found}

    def equal(self, recorded: Mapping[str, Named]) -> None:
        """Makes the copies what is recorded.

        Args:
            recorded: Everything, by name.
        """
        wanted = {self._path(name): msgspec.json.encode(named) for name, named in recorded.items()}
        for path in self._files():
            if path not in wanted:
                path.unlink(missing_ok=True)
        for name, named in recorded.items():
            path = self._path(name)
            if not path.is_file() or path.read_bytes() != wanted[path]:
                self.write(name, named)

    def _files(self) -> list[Path]:
        return list(self._folder.iterdir()) if self._folder.is_dir() else []

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"

    def _replace(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _read(path: Path) -> Named | None:
    try:
        named = msgspec.json.decode(path.read_bytes(), type=Named)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        log.error("the copy of a record cannot be read", file=path.name, reason=str(error))
        return None
    return named if named.records else None
