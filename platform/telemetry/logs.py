"""Structured logs on stderr: for people on a terminal, as JSON lines otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import msgspec
import structlog


def _render_json(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def configure_logs(level: Literal["debug", "info", "warning", "error"], style: Literal["auto", "console", "json"]) -> None:
    """Sets up logging for the process.

    Args:
        level: Events below it are dropped.
        style: `console` for people, `json` for machines, `auto` for whichever stderr is.
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if console else _render_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
