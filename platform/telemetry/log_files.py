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
from collections.abc import Mapping
from pathlib import Path

#: A file of that size is put aside, as is one of an earlier day (TorchServe, log4j2.xml).
ROTATE_BYTES = 100 * 1024 * 1024
#: Files that were put aside and are kept, the latest ones.
KEPT_FILES = 5
#: Characters that may wait for the disk; what comes then is dropped and counted.
PENDING_CHARS = 32 * 1024 * 1024
#: What a line takes besides its text while it waits.
LINE_OVERHEAD = 1000
#: Length of a line; what is over it is cut.
LINE_CHARS = 16_384
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class RotatedFile(logging.handlers.BaseRotatingHandler):
    """One file.

    Args:
        path: Where it is.
        layout: Makes a line of a record.
        rotate_bytes: Size from which it is put aside.
    """

    def __init__(self, path: Path, layout: logging.Formatter, rotate_bytes: int = ROTATE_BYTES) -> None:
        super().__init__(str(path), "a", encoding="utf-8", errors="backslashreplace", delay=False)
        self.setFormatter(layout)
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
        """Counts a line that could not be written: there is nobody to tell."""
        del record
        self.failed += 1
        if self.stream is None or self.stream.closed:
            with contextlib.suppress(OSError):
                self.stream = self._open()


class Layout(logging.Formatter):
    """A line as log4j's patterns make it: `2026-11-26T17:05:21,123 …`, in local time.

    Args:
        detailed: Whether level, thread and logger come before the text.
    """

    def __init__(self, *, detailed: bool) -> None:
        super().__init__()
        self._detailed = detailed

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        text = record.msg
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        head = f"{second},{int(record.created * 1000) % 1000:03d}"
        if not self._detailed:
            return f"{head} - {text}"
        return f"{head} [{record.levelname:<5}] {record.threadName} {record.name} - {text}"


class LogFiles:
    """Some files, and the thread that writes them.

    Args:
        files: By what `write` calls them.
    """

    def __init__(self, files: Mapping[str, RotatedFile]) -> None:
        self._files = files
        self._waiting: list[tuple[tuple[str, ...], logging.LogRecord]] = []
        self._pending_chars = 0
        self._dropped = 0
        self._closing = False
        self._changed = threading.Condition()
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
        record = logging.makeLogRecord({"name": logger, "levelname": level, "threadName": thread, "msg": text[:LINE_CHARS]})
        with self._changed:
            if self._closing or self._pending_chars >= PENDING_CHARS:
                self._dropped += 1
                return
            self._pending_chars += _length(record)
            self._waiting.append((files, record))
            self._changed.notify()

    def close(self, limit_s: float) -> None:
        """Writes what waits and closes the files; gives up on a disk that takes longer."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(limit_s)

    def _run(self) -> None:
        while lines := self._next():
            for files, record in lines:
                for name in files:
                    self._files[name].handle(record)
                with self._changed:
                    self._pending_chars -= _length(record)
        for file in self._files.values():
            # A full disk: what could not be written has been counted.
            with contextlib.suppress(OSError):
                file.close()

    def _next(self) -> list[tuple[tuple[str, ...], logging.LogRecord]]:
        """What waits, as soon as something does; empty at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            lines, self._waiting = self._waiting, []
        return lines


def _length(record: logging.LogRecord) -> int:
    """Characters that a line takes, what is around its text included."""
    return len(record.msg) + LINE_OVERHEAD


def _day(at: float) -> tuple[int, int, int]:
    local = time.localtime(at)
    return local.tm_year, local.tm_mon, local.tm_mday


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, which need not be there yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
