"""Log files: layout, rotation, and that nobody waits for them."""

from __future__ import annotations

import gzip
import logging
import os
import re
import threading
import time
from pathlib import Path

from support.server import wait_until

from flowyard.platform.telemetry.log_files import KEPT_FILES, LINE_CHARS, LINE_OVERHEAD, LogFiles, RotatedFile, can_be_written

DAY_S = 86_400


def record(text: str, created: float | None = None) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "created": time.time() if created is None else created})


def packed(folder) -> dict[str, str]:
    return {path.name: gzip.decompress(path.read_bytes()).decode() for path in folder.glob("*.gz")}


def test_a_full_file_is_put_aside(tmp_path):
    file = RotatedFile(tmp_path / "x.log", detailed=False, rotate_bytes=100)
    for number in range(9):
        file.handle(record(f"a line of some length, number {number}"))
    file.close()
    today = time.strftime("%d-%b")
    aside = packed(tmp_path)
    assert set(aside) == {f"x.{today}.log.gz", f"x.{today}-1.log.gz"}
    text = aside[f"x.{today}.log.gz"] + aside[f"x.{today}-1.log.gz"] + (tmp_path / "x.log").read_text()
    assert text.splitlines() == [f"a line of some length, number {number}" for number in range(9)]


def test_a_file_of_an_earlier_day_is_put_aside(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("old\n")
    yesterday = time.time() - DAY_S
    os.utime(path, (yesterday, yesterday))
    file = RotatedFile(path, detailed=False)
    file.handle(record("new"))
    # One that has waited since before midnight belongs to the new file.
    file.handle(record("late", yesterday))
    file.close()
    assert packed(tmp_path) == {f"x.{time.strftime('%d-%b', time.localtime(yesterday))}.log.gz": "old\n"}
    assert path.read_text() == "new\nlate\n"


def test_only_the_latest_are_kept(tmp_path):
    file = RotatedFile(tmp_path / "x.log", detailed=False, rotate_bytes=1)
    for number in range(KEPT_FILES + 4):
        file.handle(record(f"line {number}"))
        for place, path in enumerate(sorted(tmp_path.glob("*.gz"), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (place, place))
    file.close()
    kept = sorted(text.strip() for text in packed(tmp_path).values())
    assert kept == [f"line {number}" for number in range(3, KEPT_FILES + 3)]


def test_lines_go_into_their_files_in_order(tmp_path):
    files = LogFiles({name: RotatedFile(tmp_path / f"{name}.log", detailed=name == "a") for name in ("a", "b")})
    for number in range(100):
        files.write(("a", "b") if number % 2 else ("a",), "WARN", "main", "x.y", f"{number}")
    files.close(5)
    written = {name: (tmp_path / f"{name}.log").read_text().splitlines() for name in ("a", "b")}
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
    assert all(re.fullmatch(rf"{stamp} \[WARN \] main x\.y - {number}", line) for number, line in enumerate(written["a"]))
    assert all(re.fullmatch(rf"{stamp} - {number}", line) for number, line in zip(range(1, 100, 2), written["b"], strict=True))
    assert (len(written["a"]), files.dropped) == (100, 0)


def test_lines_are_there_soon(tmp_path):
    files = LogFiles({"a": RotatedFile(tmp_path / "a.log", detailed=False)})
    for text in ("one", "two"):
        files.write(("a",), "INFO", "main", "x", text)
        wait_until(lambda text=text: text in (tmp_path / "a.log").read_text())
    files.close(5)


def test_a_long_line_is_cut(tmp_path):
    files = LogFiles({"a": RotatedFile(tmp_path / "a.log", detailed=False)})
    files.write(("a",), "INFO", "main", "x", "y" * 100_000)
    files.close(5)
    assert (tmp_path / "a.log").read_text().count("y") == LINE_CHARS


class Slow(RotatedFile):
    """A file on a disk that does not answer."""

    def __init__(self, path, go: threading.Event) -> None:
        super().__init__(path, detailed=False)
        self.go = go

    def emit(self, record: logging.LogRecord) -> None:
        self.go.wait(10)
        super().emit(record)


def test_a_slow_disk_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr("flowyard.platform.telemetry.log_files.PENDING_CHARS", 10 * LINE_OVERHEAD)
    go = threading.Event()
    files = LogFiles({"a": Slow(tmp_path / "a.log", go)})
    for number in range(50):
        files.write(("a",), "INFO", "main", "x", f"{number}")
    assert files.dropped >= 38
    go.set()
    files.close(5)
    assert len((tmp_path / "a.log").read_text().splitlines()) + files.dropped == 50


def test_a_full_disk_is_counted(tmp_path):
    file = RotatedFile(tmp_path / "a.log", detailed=False)
    file.close()
    file.stream = Path("/dev/full").open("a", encoding="utf-8")  # noqa: SIM115 - as the handler keeps it
    files = LogFiles({"a": file})
    files.write(("a",), "INFO", "main", "x", "text")
    files.close(5)
    assert files.dropped == 1


def test_where_files_can_be_written(tmp_path):
    assert can_be_written(tmp_path / "new" / "folder")
    (tmp_path / "file").write_text("")
    assert not can_be_written(tmp_path / "file")
    assert not can_be_written(tmp_path / "file" / "below")
