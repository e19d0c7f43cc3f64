"""Runs the application on uvicorn: binds, loads, serves, drains."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import structlog
import uvicorn
import uvloop

from flowyard.platform.access.keyring import Keyring, TokenFile
from flowyard.platform.app import FrontDoor, build_app, build_dialects
from flowyard.platform.archives.names import LoadItem
from flowyard.platform.doors import Door, doors, open_to_others
from flowyard.platform.http.connections import Connections
from flowyard.platform.http.cors import CrossOrigin
from flowyard.platform.http.gate import Gate
from flowyard.platform.http.handshake import Handshake
from flowyard.platform.http.mms.api import Mms
from flowyard.platform.http.protocol import BoundedProtocol
from flowyard.platform.http.torchserve.api import EMPTY, TorchServe
from flowyard.platform.listeners import BACKLOG, Listener
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.startup import items_at_start
from flowyard.platform.registry.watching import check_store, watch
from flowyard.platform.rpc.binding import bind as bind_rpc
from flowyard.platform.settings import Settings
from flowyard.platform.telemetry.dialect_logs import dialect_logs
from flowyard.platform.telemetry.logs import Logs
from flowyard.platform.telemetry.traffic import Traffic
from flowyard.platform.tls import tls_context
from flowyard.platform.workers import log_level
from flowyard.schemas.errors import InvalidRequestError

if TYPE_CHECKING:
    # An extra, which takes 0.15 s to import.
    from flowyard.platform.rpc.server import RpcServer

#: Requests are freed by counting references. Looking for cycles after every few of them would be in vain, and costs.
GC_THRESHOLD = 20_000

log = structlog.stdlib.get_logger(__name__)


class Server(uvicorn.Server):
    """uvicorn without its signal handling: it would end the process by the signal, where we promise exit status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `serve`."""
        yield


def run(
    settings: Settings,
    logs: Logs,
    ready_file: Path | None = None,
    on_ready: Callable[[], None] | None = None,
    kept: Mapping[str, str] = EMPTY,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        settings: The settings.
        logs: The log of the process; its life is its owner's.
        ready_file: Gets the base URL once requests are accepted, and in a second line that of the management API where it has an
            address of its own.
        on_ready: Is called then, too.
        kept: Keys of a TorchServe's configuration that do nothing here; its snapshots have them.

    Raises:
        FlowyardError: The server cannot start: address taken, state directory in use, something to load that cannot be.
    """
    uvloop.run(_serve(settings, logs, ready_file, on_ready, kept))


async def _serve(
    settings: Settings, logs: Logs, ready_file: Path | None, on_ready: Callable[[], None] | None, kept: Mapping[str, str]
) -> None:
    began = time.monotonic()
    log_level.WORKERS.set(logs.level)
    items = items_at_start(settings)
    keyring = Keyring(TokenFile(Path(settings.state_dir)))
    _check_exposure(settings, keyring)
    watched = check_store(settings.model_store) if settings.watch_model_store else None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    with _listen(settings) as (opened, tls):
        rpc = bind_rpc(settings)
        registry = Registry(settings)
        traffic = Traffic(logs, access_log=settings.access_log)
        traffic.log_files = log_files = dialect_logs(settings, logs)
        if log_files is not None:
            registry.watchers.all.append(log_files)
            logs.copied_to = log_files.event
        try:
            starting: asyncio.Task[Any] = asyncio.ensure_future(_start(registry, items))
            stopping: asyncio.Task[Any] = asyncio.ensure_future(stop.wait())
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                traffic.startup_s = time.monotonic() - began
                front = build_app(registry, traffic, logs, keyring)
                announce = functools.partial(_announce, opened, rpc, ready_file, on_ready)
                with _watching(registry, watched):
                    apis = Apis(front, build_dialects(registry, front.predictions.traces, log_files, kept))
                    await _accept(registry, apis, keyring, opened, rpc, tls, announce, stopping)
            starting.cancel()
            stopping.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
        finally:
            await registry.close()
            traffic.flush()
            if log_files is not None:
                logs.copied_to = None
                log_files.close()
    log.info("stopped")


async def _start(registry: Registry, items: Sequence[LoadItem]) -> None:
    """Brings up what is to be there from the start, before or while requests are accepted, as the settings have it."""
    if not registry.settings.wait_model_loading:
        await registry.open(wait=False)
        registry.load_later(items)
        return
    await registry.open()
    for item in items:
        await registry.load(item)


class Apis(NamedTuple):
    """What is served."""

    native: FrontDoor
    dialects: Mapping[str, TorchServe | Mms]


class Opened(NamedTuple):
    """An address that is listened on."""

    door: Door
    listener: Listener


@contextlib.contextmanager
def _watching(registry: Registry, store: Path | None) -> Iterator[None]:
    """Follows the model store for the time of the context, where there is one to follow."""
    if store is None:
        yield
        return
    task = asyncio.ensure_future(watch(registry, store))
    task.add_done_callback(_watched)
    try:
        yield
    finally:
        task.cancel()


def _watched(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the model store is not watched any more", exc_info=error)


@contextlib.contextmanager
def _listen(settings: Settings) -> Iterator[tuple[list[Opened], ssl.SSLContext | None]]:
    """Binds the addresses; the inference address is the first."""
    wanted = doors(settings)
    tls = tls_context(settings) if any(door.address.scheme == "https" for door in wanted) else None
    with contextlib.ExitStack() as opened:
        yield [Opened(door, opened.enter_context(Listener(door.address))) for door in wanted], tls


def _check_exposure(settings: Settings, keyring: Keyring) -> None:
    """Refuses to serve other machines without asking them for tokens, unless the operator says that this is meant."""
    exposed = open_to_others(settings, has_tokens=keyring.is_required)
    if not exposed or settings.insecure:
        return
    raise InvalidRequestError(
        f"{' and '.join(exposed)} can be reached from other machines, and there is no token: anybody there could run code here."
        f" Create one (flowyard tokens create --scope management,inference --state-dir {settings.state_dir}),"
        " or start with --insecure if something else keeps strangers out"
    )


def _native_app(front: FrontDoor, door: Door, settings: Settings) -> Any:
    """The native API at one address: all of it, or the inference or the management API alone."""
    app: Any = front if len(door.parts) > 1 else Gate(front, "inference" if "inference" in door.parts else "management")
    origin = settings.cors_allowed_origin
    if origin is None:
        return app
    further = (settings.cors_allowed_methods, settings.cors_allowed_headers, settings.request_id_header_key.lower())
    return CrossOrigin(app, origin, *further)


async def _accept(
    registry: Registry,
    apis: Apis,
    keyring: Keyring,
    opened: list[Opened],
    rpc: Sequence[RpcServer],
    tls: ssl.SSLContext | None,
    announce: Callable[[], None],
    stopping: asyncio.Task[Any],
) -> None:
    """Serves until told to stop; requests that are in flight then are finished."""
    settings = registry.settings
    drain_s = int(settings.drain_timeout_s) + 1
    front, dialects = apis
    apps = [
        _native_app(front, door, registry.settings)
        if door.dialect == "native"
        else dialects[door.dialect].door(door.parts, front.traffic)
        for door, _ in opened
    ]
    bounds = [Connections(settings.max_connections, settings.slow_reader_limit_s) for _ in opened]
    servers = [
        Server(_config(app, _protocol(tls if listener.address.scheme == "https" else None, bound, settings), settings, drain_s))
        for app, (_, listener), bound in zip(apps, opened, bounds, strict=True)
    ]
    serving: list[asyncio.Task[Any]] = [
        asyncio.ensure_future(server.serve([listener.socket])) for server, (_, listener) in zip(servers, opened, strict=True)
    ]
    for one in rpc:
        await one.serve(cast(TorchServe, dialects["torchserve"]), front.traffic)
    watching = [asyncio.ensure_future(watch) for watch in (keyring.follow(), *(bound.watch() for bound in bounds))]
    # What exists now stays: the collector need not walk through it again and again while requests come and go.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    announce()
    await asyncio.wait([*serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    # Whoever waits for something to be fetched is answered before the connection is closed.
    cutting = asyncio.get_running_loop().call_later(registry.settings.drain_timeout_s, registry.stop_fetching)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*serving, *(one.stop(drain_s) for one in rpc))
    cutting.cancel()
    for dialect in dialects.values():
        dialect.close()
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


def _announce(
    opened: list[Opened], rpc: Sequence[RpcServer], ready_file: Path | None, on_ready: Callable[[], None] | None
) -> None:
    """Tells that requests are accepted."""
    urls = [str(listener.address) for _, listener in opened]
    further = {f"grpc_{one.place.part}_url": str(one.place) for one in rpc}
    log.info("ready", url=urls[0], **({"management_url": urls[1]} if len(urls) > 1 else {}), **further)
    if ready_file is not None:
        _write_ready(ready_file, [*urls, *further.values()])
    if on_ready is not None:
        on_ready()


def _protocol(tls: ssl.SSLContext | None, bounds: Connections, settings: Settings) -> Callable[..., asyncio.Protocol]:
    """What makes the protocol of a new connection."""
    if tls is None:
        return functools.partial(BoundedProtocol, bounds=bounds)

    def handshake(*arguments: Any, **named: Any) -> Handshake:
        return Handshake(BoundedProtocol(*arguments, bounds=bounds, **named), tls, bounds, settings.tls_handshake_limit_s)

    return handshake


def _config(app: Any, protocol: Callable[..., asyncio.Protocol], settings: Settings, drain_s: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=cast(Any, protocol),
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=cast(int, settings.keep_alive_limit_s),
        timeout_graceful_shutdown=drain_s,
    )


def _write_ready(path: Path, urls: list[str]) -> None:
    """One line for each address, in one step, so that nobody reads half of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text("".join(f"{url}\n" for url in urls), encoding="utf-8")
    partial.replace(path)
