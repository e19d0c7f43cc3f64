"""Log files that are rotated, written by a thread: whoever has a line never waits for the disk.

The files are handlers of the standard library. Its own ones rotate by size or by the day, not by both, and neither pack nor name
what is put aside as log4j does, whose files these are like: `access_log.log`, `access_log.26-Nov.log.gz`.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import logging.handlers
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

#: A file of that size is put aside, as is one of an earlier day (TorchServe, log4j2.xml).
ROTATE_BYTES = 100 * 1024 * 1024
#: Files that were put aside and are kept, the latest ones.
KEPT_FILES = 5
#: Characters that may wait for the disk; what comes then is dropped and counted.
PENDING_CHARS = 32 * 1024 * 1024
#: What a line takes besides its text while it waits.
LINE_OVERHEAD = 500
#: Longest that a line waits for others.
FLUSH_S = 0.1
#: Length of a line; what is over it is cut.
LINE_CHARS = 16_384
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class RotatedFile(logging.handlers.BaseRotatingHandler):
    """One file. Its records are lines that are complete, one or several of them.

    Args:
        path: Where it is.
        detailed: Whether level, thread and logger come before the text of a line.
        rotate_bytes: Size from which it is put aside.
    """

    def __init__(self, path: Path, *, detailed: bool, rotate_bytes: int = ROTATE_BYTES) -> None:
        super().__init__(str(path), "a", encoding="utf-8", errors="backslashreplace", delay=False)
        self.detailed = detailed
        self.failed = 0
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._day = _day(path.stat().st_mtime if path.stat().st_size else time.time())

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 - the library's name
        """Whether the file is full, or of an earlier day."""
        assert self.stream is not None
        return self.stream.tell() >= self._rotate_bytes or _day(record.created) > self._day

    def doRollover(self) -> None:  # noqa: N802 - the library's name
        """Puts the file aside, packed."""
        day, self._day = self._day, _day(time.time())
        assert self.stream is not None
        if not self.stream.tell():
            return
        self.stream.close()
        name = f"{self._path.stem}.{day[2]:02d}-{_MONTHS[day[1] - 1]}"
        aside = self._free(name)
        with self._path.open("rb") as full, gzip.open(aside, "wb", compresslevel=1) as packed:
            shutil.copyfileobj(full, packed)
        self._path.unlink()
        self.stream = self._open()
        self._forget_old()

    def _free(self, name: str) -> Path:
        """A name that is not taken: there may be several a day."""
        number = 0
        while True:
            path = self._path.with_name(f"{name}{f'-{number}' if number else ''}.log.gz")
            if not path.exists():
                return path
            number += 1

    def _forget_old(self) -> None:
        there = sorted(self._path.parent.glob(f"{self._path.stem}.*.log.gz"), key=lambda path: path.stat().st_mtime)
        for path in there[:-KEPT_FILES]:
            path.unlink(missing_ok=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Counts lines that could not be written: there is nobody to tell."""
        self.failed += record.msg.count("\n") + 1
        if self.stream is None or self.stream.closed:
            with contextlib.suppress(OSError):
                self.stream = self._open()


#: A line that waits: the files it goes into, when it came about, level, thread, logger, text.
Line: TypeAlias = tuple[tuple[str, ...], float, str, str, str, str]


class LogFiles:
    """Some files, and the thread that writes them, ten times a second: one line after the other would cost many times as much.

    Args:
        files: By what `write` calls them.
    """

    def __init__(self, files: Mapping[str, RotatedFile]) -> None:
        self._files = files
        self._waiting: list[Line] = []
        self._pending_chars = 0
        self._dropped = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log files", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that could not be written, or that the disk was too slow for."""
        return self._dropped + sum(file.failed for file in self._files.values())

    def write(self, files: tuple[str, ...], level: str, thread: str, logger: str, text: str) -> None:
        """Takes a line. Never waits and never fails; any thread may call it.

        Args:
            files: Which files it goes into.
            level: Its level, as log4j calls it.
            thread: Who has it.
            logger: What it is about.
            text: What it says; further lines of it follow as they are.
        """
        with self._lock:
            if self._closing.is_set() or self._pending_chars >= PENDING_CHARS:
                self._dropped += 1
                return
            self._pending_chars += len(text) + LINE_OVERHEAD
            self._waiting.append((files, time.time(), level, thread, logger, text[:LINE_CHARS]))
        if not self._some.is_set():
            self._some.set()

    def close(self, limit_s: float) -> None:
        """Writes what waits and closes the files; gives up on a disk that takes longer."""
        self._closing.set()
        self._some.set()
        self._thread.join(limit_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._closing.wait(FLUSH_S)
            self._flush()
        self._flush()
        for file in self._files.values():
            # A full disk: what could not be written has been counted.
            with contextlib.suppress(OSError):
                file.close()

    def _flush(self) -> None:
        """Writes what waits."""
        self._some.clear()
        with self._lock:
            lines, self._waiting = self._waiting, []
        for name, told in _by_file(lines, {name: file.detailed for name, file in self._files.items()}).items():
            self._files[name].handle(logging.makeLogRecord({"msg": "\n".join(told), "created": lines[-1][1]}))
        with self._lock:
            self._pending_chars = sum(len(line[5]) + LINE_OVERHEAD for line in self._waiting)


def _by_file(lines: Iterable[Line], detailed: Mapping[str, bool]) -> dict[str, list[str]]:
    """Lines as log4j's patterns make them, in local time: `2026-11-26T17:05:21,123 - text`."""
    told: dict[str, list[str]] = {}
    stamp, stamped = "", -1
    for files, at, level, thread, logger, text in lines:
        millisecond = int(at * 1000)
        if millisecond != stamped:
            second = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))
            stamp, stamped = f"{second},{millisecond % 1000:03d}", millisecond
        for name in files:
            line = f"{stamp} [{level:<5}] {thread} {logger} - {text}" if detailed[name] else f"{stamp} - {text}"
            told.setdefault(name, []).append(line)
    return told


def _day(at: float) -> tuple[int, int, int]:
    local = time.localtime(at)
    return local.tm_year, local.tm_mon, local.tm_mday


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, which need not be there yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
