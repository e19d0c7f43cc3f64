"""The access log: one line per request, handed on in batches and written by a thread.

A line is put together by hand: structlog takes about 10 µs for one, this takes about one. Query and headers are left out: they
may hold what is secret.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowyard.platform.telemetry.logs import Logs

#: Longest that a line waits for others.
FLUSH_S = 0.1
#: Lines that are not kept waiting for more.
FLUSH_LINES = 512
#: Characters of a path that are logged.
PATH_LENGTH = 1000


class AccessLog:
    """Makes a line of every request that was served. Belongs to the event loop's thread.

    Args:
        logs: Gets the lines, unless its level is above `info`.
    """

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._told = _json if logs.structured else self._console
        self._waiting: list[str] = []
        self._millisecond = 0
        self._stamp = ""

    def add(
        self,
        scope: Mapping[str, Any],
        request_id: str,
        model: tuple[str, str],
        status: int,
        elapsed_s: float,
        sizes: tuple[int, int],
    ) -> None:
        """Takes a request whose answer is complete.

        Args:
            scope: ASGI's.
            request_id: Its id.
            model: Name and version of what answered; empty where nothing was asked.
            status: Status of the answer.
            elapsed_s: Seconds from the request's head to the end of the answer.
            sizes: Bytes of the request's body and of the answer's.
        """
        if self._logs.level > logging.INFO:
            return
        millisecond = int(time.time() * 1000)
        if millisecond != self._millisecond:
            self._millisecond, self._stamp = millisecond, _stamp(millisecond)
        waiting = self._waiting
        waiting.append(self._told(self._stamp, scope, request_id, model, status, elapsed_s, sizes))
        if len(waiting) == 1:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        elif len(waiting) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Hands on what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._logs.writer.write("".join(waiting).encode())

    def _console(self, stamp: str, *served: Any) -> str:
        """The same for people."""
        event = msgspec.json.decode(_json(stamp, *served), type=dict[str, Any])
        return self._logs.line(event).decode()


def _json(
    stamp: str,
    scope: Mapping[str, Any],
    request_id: str,
    model: tuple[str, str],
    status: int,
    elapsed_s: float,
    sizes: tuple[int, int],
) -> str:
    if '"' in request_id or "\\" in request_id:
        request_id = _quoted(request_id)[1:-1]
    return (
        f'{{"method":{_quoted(scope["method"])},"path":{_quoted(scope["path"][:PATH_LENGTH])},"status":{status},'
        f'"duration_ms":{elapsed_s * 1000:.3f},"request_id":"{request_id}"{_model(model)},"bytes_in":{sizes[0]},'
        f'"bytes_out":{sizes[1]}{_client(scope["client"])},"event":"request","level":"info","timestamp":"{stamp}"}}\n'
    )


def _stamp(millisecond: int) -> str:
    second, fraction = divmod(millisecond, 1000)
    return f"{_second(second)}.{fraction:03d}Z"


@functools.lru_cache(maxsize=2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@functools.lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


@functools.lru_cache(maxsize=4096)
def _model(model: tuple[str, str]) -> str:
    name, version = model
    return (f',"model":{_quoted(name)}' if name else "") + (f',"version":{_quoted(version)}' if version else "")


@functools.lru_cache(maxsize=4096)
def _client(client: tuple[str, int] | None) -> str:
    return f',"client":"{client[0]}:{client[1]}"' if client is not None else ""
