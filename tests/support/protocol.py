"""Applications on our HTTP protocol, over real connections."""

from __future__ import annotations

import asyncio
import contextlib

import uvicorn
from uvicorn.server import ServerState

from flowyard.platform.http.connections import Connections
from flowyard.platform.http.protocol import BoundedProtocol


class Served:
    """An application on `BoundedProtocol`, on a port of its own, with a clock that is turned by `ticks`."""

    def __init__(self, app, limit, **bounds):
        self.app = app
        self.bounds = Connections(limit, **bounds)
        self.writers = []
        self.tasks = ServerState()

    async def __aenter__(self):
        config = uvicorn.Config(
            self.app, lifespan="off", log_config=None, access_log=False, date_header=False, ws="none", proxy_headers=False
        )
        config.load()
        state = self.tasks
        self.server = await asyncio.get_running_loop().create_server(
            lambda: BoundedProtocol(config, state, {}, bounds=self.bounds), "127.0.0.1", 0
        )
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        self.server.close()
        await self.server.wait_closed()
        await asyncio.gather(*self.tasks.tasks, return_exceptions=True)

    async def connect(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def settle(self, condition):
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what is waited for is in the server
                await asyncio.sleep(0)

    def ticks(self, count):
        for _ in range(count):
            self.bounds.tick()


def serve(app, test, limit=100, *, new_loop=None, **bounds):
    """Runs a test, a coroutine function that is given the server, against an application."""

    async def main():
        async with Served(app, limit, **bounds) as served:
            await test(served)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def read_all(reader):
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def read_until(reader, end):
    async with asyncio.timeout(20):
        return await reader.readuntil(end)


def head(*lines, start=b"POST /bad HTTP/1.1"):
    return b"\r\n".join([start, b"host: x", *lines]) + b"\r\n\r\n"
