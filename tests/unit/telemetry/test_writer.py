"""Lines reach a slow reader or none at all, and whoever writes them never waits."""

from __future__ import annotations

import fcntl
import os

import pytest

from flowyard.platform.telemetry.writer import LineWriter


def dropped_line(count: int) -> bytes:
    return f"dropped {count}\n".encode()


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


def read_all(read: int, write: int) -> list[bytes]:
    os.close(write)
    with os.fdopen(read, "rb") as file:
        return file.read().splitlines(keepends=True)


def fill(write: int) -> int:
    """Fills a pipe to the brim, so that the next write to it waits; returns the bytes that it took."""
    flags = fcntl.fcntl(write, fcntl.F_GETFL)
    fcntl.fcntl(write, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    filled = 0
    try:
        while True:
            filled += os.write(write, b"#" * 4096)
    except BlockingIOError:
        pass
    fcntl.fcntl(write, fcntl.F_SETFL, flags)
    return filled


@pytest.mark.parametrize("length", [10, 5000, 100_000])
def test_every_line_arrives_whole_and_in_order(tmp_path, length):
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LineWriter(file.fileno(), dropped_line)
        lines = [f"{number} ".encode().ljust(length, b"x") + b"\n" for number in range(50)]
        for line in lines:
            writer.write(line)
        assert writer.close(10)
    assert path.read_bytes().splitlines(keepends=True) == lines
    assert writer.dropped == 0


def test_a_reader_that_does_not_read_holds_nobody_up_and_loses_only_what_is_over_the_bound(pipe):
    read, write = pipe
    filled = fill(write)
    writer = LineWriter(write, dropped_line, pending_bytes=1000)
    for number in range(300):
        writer.write(b"%03d\n" % number)
    assert writer.dropped == 50
    assert os.read(read, filled) == b"#" * filled
    assert writer.close(10)
    assert read_all(read, write) == [b"%03d\n" % number for number in range(250)] + [b"dropped 50\n"]


def test_what_a_dead_reader_does_not_get_is_counted_and_nothing_fails(pipe):
    read, write = pipe
    os.close(read)
    writer = LineWriter(write, dropped_line)
    writer.write(b"one\ntwo\n")
    assert writer.close(10)
    assert writer.dropped == 2


def test_a_reader_that_never_reads_does_not_keep_the_end_from_coming(pipe):
    read, write = pipe
    filled = fill(write)
    writer = LineWriter(write, dropped_line)
    writer.write(b"never\n")
    assert not writer.close(0.01)
    assert os.read(read, filled)
    assert writer.close(10)


def test_without_a_standard_error_lines_go_nowhere():
    writer = LineWriter(-1, dropped_line)
    writer.write(b"line\n")
    assert writer.close(10)
    writer.write(b"late\n")
    assert writer.dropped == 2


def test_a_pipe_that_does_not_block_is_waited_for(pipe):
    read, write = pipe
    filled = fill(write)
    os.set_blocking(write, False)
    writer = LineWriter(write, dropped_line)
    writer.write(b"line\n")
    assert os.read(read, filled)
    assert writer.close(10)
    assert read_all(read, write) == [b"line\n"]
