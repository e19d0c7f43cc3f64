"""Structured logs on stderr: for people on a terminal, as JSON lines otherwise."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal, cast

import msgspec
import structlog

from flowyard.platform.telemetry.writer import LineWriter

#: Levels by every name they are called, here and by DJL's users (log4j's); there is nothing finer than `debug`.
LEVELS = {
    "all": logging.DEBUG,
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "critical": logging.CRITICAL,
    "off": logging.CRITICAL,
}
#: Time that a slow reader gets to take the last lines.
CLOSE_LIMIT_S = 5.0

Renderer = structlog.typing.Processor


class Logs:
    """The log of the process.

    Attributes:
        writer: Where lines go.
        level: Events below it are dropped; a number of the `logging` module.
        copied_to: Gets every event as well, `None` for nobody.
    """

    def __init__(self, writer: LineWriter, render: Renderer) -> None:
        self.writer = writer
        self.level = logging.INFO
        self.copied_to: Callable[[Mapping[str, Any]], None] | None = None
        self._render = render

    def set_level(self, name: str) -> None:
        """Changes the level, for all loggers at once.

        Args:
            name: A key of `LEVELS`.
        """
        self.level = LEVELS[name]
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(self.level))

    def line(self, event: Mapping[str, Any]) -> bytes:
        """One event as the line it becomes."""
        line = self._render(None, "", dict(event))
        return (line if isinstance(line, bytes) else str(line).encode()) + b"\n"

    @property
    def structured(self) -> bool:
        """Whether lines are JSON."""
        return self._render is render_json

    def copy(self, logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Hands on an event, on its way to become a line."""
        if self.copied_to is not None:
            self.copied_to(event)
        return event

    def close(self) -> None:
        """Writes what waits; gives up on a reader that does not read."""
        self.writer.close(CLOSE_LIMIT_S)


def render_json(logger: Any, method: str, event: structlog.typing.EventDict) -> bytes:
    """An event as JSON."""
    return msgspec.json.encode(event, enc_hook=str)


def render_console(*, colors: bool) -> Renderer:
    """What makes a line for people of an event."""
    render = structlog.dev.ConsoleRenderer(colors=colors)
    return lambda logger, method, event: str(render(logger, method, event)).encode("utf-8", "backslashreplace")


def configure_logs(level: Literal["debug", "info", "warning", "error"], style: Literal["auto", "console", "json"]) -> Logs:
    """Sets up logging for the process.

    Args:
        level: Events below it are dropped.
        style: `console` for people, `json` for machines, `auto` for whichever stderr is.

    Returns:
        The log, to be closed at the end: its lines are written by a thread.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    console = style == "console" or (style == "auto" and terminal)
    render = render_console(colors=terminal) if console else render_json
    logs = Logs(
        LineWriter(sys.stderr.fileno() if sys.stderr is not None else -1, lambda count: logs.line(_dropped(count))), render
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            logs.copy,
            render,
        ],
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, logs.writer)),
        # A logger that is kept would keep its level.
        cache_logger_on_first_use=False,
    )
    logs.set_level(level)
    return logs


def _dropped(count: int) -> dict[str, Any]:
    return {"event": "log lines dropped", "count": count, "level": "warning", "timestamp": datetime.now(UTC)}
