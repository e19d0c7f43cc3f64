"""The access log: one line per request, handed on in batches and written by a thread.

A line is put together by hand: structlog takes about 9 µs for one, this takes about one. Query and headers are left out: they
may hold what is secret.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from flowyard.platform.telemetry.logs import Logs

#: Longest that a request waits for others.
FLUSH_S = 0.1
#: Requests that are not kept waiting for more. Lines made one after the other cost half of what they cost one at a time.
FLUSH_LINES = 512
#: Characters of a path that are logged.
PATH_LENGTH = 1000

#: A request that was served: milliseconds since 1970, method, path, client, request id, name and version of what answered, status
#: of the answer, seconds that it took, bytes of the request's body and of the answer's.
Served: TypeAlias = tuple[int, str, str, tuple[str, int] | None, str, tuple[str, str], int, float, int, int]


class AccessLog:
    """Makes a line of every request that was served. Belongs to the event loop's thread.

    Args:
        logs: Gets the lines, unless its level is above `info`.
    """

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._waiting: list[Served] = []

    @property
    def enabled(self) -> bool:
        """Whether anybody wants the lines."""
        return self._logs.level <= logging.INFO

    def add(self, served: Served) -> None:
        """Takes a request whose answer is complete."""
        waiting = self._waiting
        waiting.append(served)
        if len(waiting) == 1:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        elif len(waiting) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Hands on what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        lines = _lines(waiting)
        if not self._logs.structured:
            lines = [self._logs.line(msgspec.json.decode(line, type=dict[str, Any])).decode() for line in lines]
        self._logs.writer.write("".join(lines).encode())


def _lines(waiting: Iterable[Served]) -> list[str]:
    lines: list[str] = []
    stamp, stamped = "", 0
    for millisecond, method, path, client, request_id, model, status, elapsed_s, bytes_in, bytes_out in waiting:
        if millisecond != stamped:
            stamp, stamped = _stamp(millisecond), millisecond
        quoted_id = _escaped(request_id) if '"' in request_id or "\\" in request_id else request_id
        lines.append(
            f'{{{_target(method, path[:PATH_LENGTH])},"status":{status},"duration_ms":{elapsed_s * 1000:.3f},'
            f'"request_id":"{quoted_id}"{_model(model)},"bytes_in":{bytes_in},"bytes_out":{bytes_out}{_client(client)},'
            f'"event":"request","level":"info","timestamp":"{stamp}"}}\n'
        )
    return lines


def _stamp(millisecond: int) -> str:
    second, fraction = divmod(millisecond, 1000)
    return f"{_second(second)}.{fraction:03d}Z"


@functools.lru_cache(maxsize=4)
def _second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _escaped(text: str) -> str:
    return _quoted(text)[1:-1]


@functools.lru_cache(maxsize=1024)
def _target(method: str, path: str) -> str:
    return f'"method":{_quoted(method)},"path":{_quoted(path)}'


@functools.lru_cache(maxsize=4096)
def _model(model: tuple[str, str]) -> str:
    name, version = model
    return (f',"model":{_quoted(name)}' if name else "") + (f',"version":{_quoted(version)}' if version else "")


@functools.lru_cache(maxsize=4096)
def _client(client: tuple[str, int] | None) -> str:
    return f',"client":"{client[0]}:{client[1]}"' if client is not None else ""
