"""Lines of the access log: JSON whatever the request holds, handed on in batches, nothing above `info`."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from flowyard.platform.telemetry.access import FLUSH_LINES, PATH_LENGTH, AccessLog
from flowyard.platform.telemetry.logs import Logs, render_console, render_json


class Written:
    """A writer that keeps what it gets."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.some = asyncio.Event()

    def write(self, lines: bytes) -> None:
        self.chunks.append(lines)
        self.some.set()


def served(*requests, render=render_json):
    """What the log gets of these requests."""
    written = Written()

    async def serve():
        log = AccessLog(Logs(written, render))
        for request in requests:
            log.add(request)
        log.flush()

    asyncio.run(serve())
    return written.chunks


def request(path="/predictions/m", request_id="id", model=("m", "1"), client=("127.0.0.1", 4711)):
    return (1_767_225_600_007, "POST", path, client, request_id, model, 200, 0.0012345, 3, 5)


def test_a_line_tells_the_request():
    (chunk,) = served(request())
    line = json.loads(chunk)
    assert line == {
        "timestamp": "2026-01-01T00:00:00.007Z",
        "event": "request",
        "level": "info",
        "method": "POST",
        "path": "/predictions/m",
        "status": 200,
        "duration_ms": 1.234,
        "request_id": "id",
        "model": "m",
        "version": "1",
        "bytes_in": 3,
        "bytes_out": 5,
        "client": "127.0.0.1:4711",
    }


def test_what_is_not_known_is_left_out():
    (chunk,) = served(request(model=("", ""), client=None))
    assert not {"model", "version", "client"} & json.loads(chunk).keys()


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "\x00\x1b[31m", "ü€😀", "</script>", "x" * 5000])
def test_whatever_the_path_is_the_line_is_one_line_of_json(text):
    (chunk,) = served(request(path="/predictions/" + text))
    assert chunk.count(b"\n") == 1
    assert json.loads(chunk)["path"] == ("/predictions/" + text)[:PATH_LENGTH]


@pytest.mark.parametrize("request_id", ['"', "\\", '","status":"0', "a\\"])
def test_a_request_id_cannot_break_out_of_its_place(request_id):
    (chunk,) = served(request(request_id=request_id))
    line = json.loads(chunk)
    assert (line["request_id"], line["status"]) == (request_id, 200)


def test_many_lines_are_handed_on_together():
    chunks = served(*[request(request_id=str(number)) for number in range(FLUSH_LINES + 1)])
    assert [chunk.count(b"\n") for chunk in chunks] == [FLUSH_LINES, 1]


def test_a_line_waits_for_others_only_so_long():
    written = Written()

    async def serve():
        log = AccessLog(Logs(written, render_json))
        log.add(request())
        await written.some.wait()

    asyncio.run(asyncio.wait_for(serve(), 10))
    assert len(written.chunks) == 1


@pytest.mark.parametrize(("level", "enabled"), [(logging.DEBUG, True), (logging.INFO, True), (logging.WARNING, False)])
def test_it_is_silent_above_info(level, enabled):
    logs = Logs(Written(), render_json)
    logs.level = level
    assert AccessLog(logs).enabled is enabled


def test_people_get_text():
    (chunk,) = served(request(), render=render_console(colors=False))
    text = chunk.decode()
    assert text.count("\n") == 1
    assert "request" in text
    assert "path=/predictions/m" in text
    assert "duration_ms=1.234" in text
