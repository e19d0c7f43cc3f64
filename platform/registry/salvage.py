"""What can still be read of a damaged database: its history, which has no copy."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from flowyard.platform.registry.history import Change

#: Longest time that is spent on it: pages that refer to each other in circles could keep SQLite busy for ever.
LIMIT_S = 10.0
_STEPS = 10_000
_FROM_THE_END = "SELECT number, change FROM changes ORDER BY number DESC LIMIT ?"
_FROM_THE_BEGINNING = "SELECT number, change FROM changes ORDER BY number LIMIT ?"


def readable_history(path: Path, size: int) -> list[tuple[int, Change]]:
    """Reads what is left of the history, from both ends up to where it is broken. The file is only read.

    Args:
        path: The database that was set aside.
        size: Most changes that are wanted.

    Returns:
        Changes with their numbers, the oldest first; none where nothing can be read.
    """
    found: dict[int, Change] = {}
    until = time.monotonic() + LIMIT_S
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_read_only(path)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
        for select in (_FROM_THE_END, _FROM_THE_BEGINNING):
            with contextlib.suppress(sqlite3.Error):
                for row in connection.execute(select, (size,)):
                    found.update(_changes(*row))
    return sorted(found.items())[-size:]


def _read_only(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def _changes(number: Any, change: Any) -> Iterator[tuple[int, Change]]:
    """The change of a row, where it is one."""
    if isinstance(number, int) and isinstance(change, bytes):
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            yield number, msgspec.json.decode(change, type=Change)
