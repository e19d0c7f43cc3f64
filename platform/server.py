"""Runs the application on uvicorn: binds, loads, serves, drains."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import uvicorn
import uvloop

from flowyard.platform.app import build_app
from flowyard.platform.archives.names import LoadItem, parse_load_item
from flowyard.platform.http.connection import OneWriteProtocol
from flowyard.platform.registry.registry import Registry
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidRequestError

#: Requests are freed by counting references. Looking for cycles after every few of them would be in vain, and costs.
GC_THRESHOLD = 20_000

log = structlog.stdlib.get_logger(__name__)


class Server(uvicorn.Server):
    """uvicorn without its signal handling: it would end the process by the signal, where we promise exit status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `serve`."""
        yield


def run(settings: Settings, ready_file: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        settings: The settings.
        ready_file: Gets the base URL once requests are accepted.

    Raises:
        FlowyardError: The server cannot start: address taken, state directory in use, something to load that cannot be.
    """
    uvloop.run(_serve(settings, ready_file))


async def _serve(settings: Settings, ready_file: Path | None) -> None:
    items = [parse_load_item(text) for text in settings.load]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    with _bind(settings) as listener:
        registry = Registry(settings)
        try:
            starting: asyncio.Task[Any] = asyncio.ensure_future(_start(registry, items))
            stopping: asyncio.Task[Any] = asyncio.ensure_future(stop.wait())
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await _accept(registry, listener, ready_file, stopping)
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
        finally:
            await registry.close()
    log.info("stopped")


async def _start(registry: Registry, items: list[LoadItem]) -> None:
    await registry.open()
    for item in items:
        await registry.load(item)


async def _accept(registry: Registry, listener: socket.socket, ready_file: Path | None, stopping: asyncio.Task[Any]) -> None:
    """Serves until told to stop; requests that are in flight then are finished."""
    config = uvicorn.Config(
        build_app(registry),
        http=OneWriteProtocol,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=False,
        backlog=2048,
        timeout_graceful_shutdown=int(registry.settings.drain_timeout_s) + 1,
    )
    server = Server(config)
    serving: asyncio.Task[Any] = asyncio.ensure_future(server.serve([listener]))
    host, port = listener.getsockname()[:2]
    base_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    # What exists now stays: the collector need not walk through it again and again while requests come and go.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    log.info("ready", url=base_url)
    if ready_file is not None:
        _write_ready(ready_file, base_url)
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    server.should_exit = True
    await serving


def _write_ready(path: Path, base_url: str) -> None:
    """In one step, so that nobody reads half an address."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(base_url + "\n", encoding="utf-8")
    partial.replace(path)


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise InvalidRequestError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from None
    listener.listen(2048)
    return listener
