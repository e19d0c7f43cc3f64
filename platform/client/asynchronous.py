"""The client, for asyncio. What a method does is said at the method of the same name of `Client`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, Unpack, cast

import httpx2

from flowyard.platform.client import predictions
from flowyard.platform.client.calls import Call, Reply, refusal
from flowyard.platform.client.connection import FAILURES, TIMEOUT_S, Caller, Failure, is_repeated, transport_options
from flowyard.platform.client.methods import Item, Items, Pause, Steps
from flowyard.platform.client.operations import Operations
from flowyard.platform.client.pieces import EVENTS, decoder_of, event_of, events_of
from flowyard.platform.client.predictions import PredictOptions
from flowyard.platform.client.uploads import Upload
from flowyard.schemas.codecs.content import media_type
from flowyard.schemas.values import Value

P = ParamSpec("P")
T = TypeVar("T")


class AsyncClient(Caller, Operations):
    """Talks to a flowyard server from asyncio. Keeps connections open; one event loop each.

    Args:
        url: See `Client`.
        token: See `Client`.
        timeout_s: See `Client`.
        verify: See `Client`.
        transport: See `Client`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, timeout_s)
        carrier = transport or httpx2.AsyncHTTPTransport(**transport_options(self.address, verify))
        self._http = httpx2.AsyncClient(transport=carrier, **self._options(token))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def call(self, call: Call[T]) -> T:
        """Carries out a call.

        Returns:
            What the call reads out of its answer.
        """
        return call.read(await self.exchange(call))

    async def exchange(self, call: Call[Any]) -> Reply:
        """Carries out a call and gives its answer as it came, whatever its status."""
        async with self._answering(call) as response:
            return await self._read(call, response)

    async def _read(self, call: Call[Any], response: httpx2.Response) -> Reply:
        try:
            return self._reply(response, await response.aread())
        except FAILURES as error:
            raise self._broken_off(error, call) from error

    @contextlib.asynccontextmanager
    async def _answering(self, call: Call[Any]) -> AsyncIterator[httpx2.Response]:
        """An answer that has begun."""
        response = await self._send(call)
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(self, call: Call[Any]) -> httpx2.Response:
        attempt = 0
        while True:
            try:
                return await self._http.send(self._request(call), stream=True)
            except FAILURES as error:
                if not is_repeated(error, call, attempt):
                    raise self._told(error, call) from error
            attempt += 1

    def _request(self, call: Call[Any]) -> httpx2.Request:
        body = _in_threads(call.body.chunks()) if isinstance(call.body, Upload) else call.body
        return self._http.build_request(content=body, **self._request_options(call))

    def sending(self, make: Callable[P, Call[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """The method that sends the call which `make` makes."""

        @functools.wraps(make)
        async def send(*args: P.args, **options: P.kwargs) -> T:
            return await self.call(make(*args, **options))

        return cast("Callable[P, Coroutine[Any, Any, T]]", send)

    def following(self, make: Callable[P, Steps[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """The method that takes the steps which `make` makes."""

        @functools.wraps(make)
        async def follow(*args: P.args, **options: P.kwargs) -> T:
            steps = make(*args, **options)
            answer = None
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration as end:
                    return cast(T, end.value)
                answer = await self._take(step)

        return cast("Callable[P, Coroutine[Any, Any, T]]", follow)

    def iterating(self, make: Callable[P, Items[T]]) -> Callable[P, AsyncIterator[T]]:
        """The method that gives what the steps give which `make` makes."""

        @functools.wraps(make)
        async def iterate(*args: P.args, **options: P.kwargs) -> AsyncIterator[T]:
            steps = make(*args, **options)
            answer = None
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration:
                    return
                answer = None
                if isinstance(step, Item):
                    yield step.value
                else:
                    answer = await self._take(step)

        return cast("Callable[P, AsyncIterator[T]]", iterate)

    async def _take(self, step: Call[Any] | Pause) -> Any:
        if isinstance(step, Call):
            return await self.call(step)
        await asyncio.sleep(step.seconds)
        return None

    @contextlib.asynccontextmanager
    async def stream(self, name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> AsyncIterator[AsyncPieces]:
        """Runs a model or workflow and gives its result in pieces; see `Client.stream`."""
        call = predictions.predict(name, data, options)
        async with self._answering(call) as response:
            if not 200 <= response.status_code < 300:
                raise refusal(await self._read(call, response))
            yield AsyncPieces(response, functools.partial(self._broken_off, call=call))


class AsyncPieces:
    """An answer in pieces; iterate over it once. See `Pieces`.

    Attributes:
        content_type: What it comes as.
        headers: Its headers.
    """

    def __init__(self, response: httpx2.Response, broken: Callable[[Failure], Exception]) -> None:
        self.headers: Mapping[str, str] = response.headers
        self.content_type = response.headers.get("content-type", "")
        self._response = response
        self._broken = broken

    async def raw(self) -> AsyncIterator[bytes]:
        """The bytes as they come.

        Raises:
            InterruptedAnswerError: The answer ended before it was complete.
        """
        try:
            async for data in self._response.aiter_bytes():
                yield data
        except FAILURES as error:
            raise self._broken(error) from error

    async def __aiter__(self) -> AsyncIterator[Any]:
        """The pieces, decoded.

        Raises:
            InterruptedAnswerError: The answer ended before it was complete.
            RefusedError: An event told that it failed.
        """
        if media_type(self.content_type) == EVENTS:
            async for event in self._events():
                yield event
            return
        decoder = decoder_of(self.content_type)
        async for data in self.raw():
            for piece in decoder.feed(data):
                yield piece
        for piece in decoder.end():
            yield piece

    async def _events(self) -> AsyncIterator[Any]:
        try:
            async for event in events_of(self._response):
                yield event_of(event)
        except FAILURES as error:
            raise self._broken(error) from error


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks of a file, without holding up the event loop while they are read."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
