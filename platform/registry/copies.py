"""Copies of what is recorded: what a damaged database is rebuilt from.

    folder/<digest of a name>.json    all that is recorded of the name
    folder/former.json                what has ended, and could be taken up again
    folder/….damaged                  a copy that could not be read when it was needed

A copy is written after its change is on disk and before it is acknowledged. Nothing reads copies while the database is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from flowyard.platform.registry.records import Former, Record
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic

log = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")

FORMER = "former.json"
#: What the name of a copy that cannot be read ends with from then on.
DAMAGED = ".damaged"


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
        self._write(self._path(name), msgspec.json.encode(named) if named.records else b"")

    def write_former(self, former: Sequence[Former]) -> None:
        """Writes the copy of what has ended, as `write`.

        Args:
            former: All that is recorded of it.
        """
        self._write(self._folder / FORMER, msgspec.json.encode(former) if former else b"")

    def read(self) -> dict[str, Named]:
        """All copies that can be read, by name, the oldest registration first. Those that cannot be read are set aside."""
        paths = sorted(path for path in self._folder.glob("*.json") if path.name != FORMER)
        found = [_read(path, Named) for path in paths]
        kept = [named for named in found if named is not None and named.records]
        kept.sort(key=lambda named: min(record.created for record in named.records))
        return {named.records[0].name: named for named in kept}

    def read_former(self) -> list[Former]:
        """The copy of what has ended; nothing where it cannot be read."""
        path = self._folder / FORMER
        return (_read(path, list[Former]) if path.exists() else None) or []

    def equal(self, recorded: Mapping[str, Named], former: Sequence[Former]) -> None:
        """Makes the copies what is recorded.

        Args:
            recorded: Everything, by name.
            former: What has ended.
        """
        wanted = {self._path(name): msgspec.json.encode(named) for name, named in recorded.items()}
        if former:
            wanted[self._folder / FORMER] = msgspec.json.encode(former)
        for path in self._files():
            if path not in wanted:
                path.unlink(missing_ok=True)
        for path, content in wanted.items():
            if not path.is_file() or path.read_bytes() != content:
                self._write(path, content)

    def damaged(self) -> list[Path]:
        """Copies that could not be read when they were needed: what they said is not known any more."""
        return sorted(self._folder.glob(f"*{DAMAGED}"))

    def _files(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.suffix != DAMAGED] if self._folder.is_dir() else []

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            if content:
                self._replace(path, content)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the copy of a record cannot be written", file=path.name, reason=error.strerror)
            # Better none than one that says something else.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _replace(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        aside = path.with_name(path.name + DAMAGED)
        log.error("the copy of a record cannot be read, and was set aside", file=aside.name, reason=str(error))
        with contextlib.suppress(OSError):
            path.rename(aside)
        return None
