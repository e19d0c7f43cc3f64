"""What workers print, line by line."""

from __future__ import annotations

import os
import threading

import pytest

from flowyard.platform.workers.output import LINE_BYTES, OutputReader


class Lines:
    """Takes lines, and tells when one has come."""

    def __init__(self) -> None:
        self.all: list[bytes] = []
        self.last = threading.Event()

    def __call__(self, line: bytes) -> None:
        self.all.append(line)
        if line == b"last":
            self.last.set()


@pytest.fixture
def reader():
    reader = OutputReader()
    yield reader
    reader.close(5)


def written(fd: int, *pieces: bytes) -> None:
    for piece in pieces:
        os.write(fd, piece)
    os.close(fd)


def test_lines_are_put_together(reader):
    one, other = Lines(), Lines()
    written(reader.open(one), b"a\nb", b"c\n\n", b"last")
    written(reader.open(other), b"x\r\nlast\n")
    assert one.last.wait(5)
    assert other.last.wait(5)
    assert one.all == [b"a", b"bc", b"", b"last"]
    assert other.all == [b"x", b"last"]


def test_a_line_without_end_comes_in_pieces(reader):
    lines = Lines()
    written(reader.open(lines), b"x" * (2 * LINE_BYTES + 1), b"\nlast\n")
    assert lines.last.wait(5)
    assert lines.all == [b"x" * LINE_BYTES, b"x" * LINE_BYTES, b"x", b"last"]


def test_closing_reads_what_is_there_and_waits_for_nobody():
    reader = OutputReader()
    lines = Lines()
    fd = reader.open(lines)
    os.write(fd, b"a\npart")
    reader.close(5)
    assert lines.all == [b"a", b"part"]
    os.close(fd)


def test_closing_without_having_read():
    OutputReader().close(5)
