"""The client, for asyncio. What a method does is said at the method of the same name of `Client`."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, Unpack

import httpx2

from flowyard.platform.client import answers, calls, predictions
from flowyard.platform.client.address import address_of, authorization
from flowyard.platform.client.calls import Call, Kind, ModelOptions, Reply, WorkflowOptions
from flowyard.platform.client.connection import (
    CLOSED,
    REPEATABLE,
    TIMEOUT_S,
    broken_off,
    request_headers,
    timeout_of,
    told,
    transport_options,
)
from flowyard.platform.client.errors import TimedOutError, error_of
from flowyard.platform.client.pieces import EVENTS, decoder_of, event_of, events_of
from flowyard.platform.client.predictions import Job, Prediction, PredictOptions
from flowyard.platform.client.uploads import OnSent, Upload
from flowyard.platform.client.waiting import is_ready, loading_of, pauses_s, still_pending
from flowyard.schemas.codecs.content import media_type
from flowyard.schemas.values import Value

T = TypeVar("T")


class AsyncClient:
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
        self.address = address_of(url)
        self.timeout_s = timeout_s
        self._http = httpx2.AsyncClient(
            base_url=self.address.base_url,
            headers=authorization(token),
            timeout=timeout_of(timeout_s),
            transport=transport or httpx2.AsyncHTTPTransport(**transport_options(self.address, verify)),
            trust_env=False,
        )

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
            try:
                body = await response.aread()
            except (httpx2.HTTPError, httpx2.StreamError) as error:
                raise broken_off(error, self.address, self._silence_s(call)) from error
            return Reply(response.status_code, response.headers, body, str(self.address))

    @contextlib.asynccontextmanager
    async def _answering(self, call: Call[Any]) -> AsyncIterator[httpx2.Response]:
        """An answer that has begun."""
        response = await self._send(call)
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(self, call: Call[Any]) -> httpx2.Response:
        attempts = 2 if call.method in REPEATABLE else 1
        while True:
            attempts -= 1
            try:
                return await self._http.send(self._request(call), stream=True)
            except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
                if attempts and isinstance(error, CLOSED):
                    continue
                raise told(error, self.address, self._silence_s(call)) from error

    def _request(self, call: Call[Any]) -> httpx2.Request:
        body = call.body
        return self._http.build_request(
            call.method,
            call.path,
            params=call.query or None,
            headers=request_headers(call),
            content=_in_threads(body.chunks()) if isinstance(body, Upload) else body,
            timeout=timeout_of(self._silence_s(call)),
        )

    def _silence_s(self, call: Call[Any]) -> float:
        return call.timeout_s if call.timeout_s is not None else self.timeout_s

    # Management

    async def register_model(
        self,
        source: str | Path,
        *,
        synchronous: bool = True,
        on_sent: OnSent | None = None,
        **options: Unpack[ModelOptions],
    ) -> answers.Status:
        """Registers a model: a URL that the server reads, or a file or folder here (`Path`); see `Client.register_model`.

        `on_sent` is called in a thread of its own, where files are read.
        """
        return await self.call(calls.register("models", source, options, synchronous=synchronous, on_sent=on_sent))

    async def register_workflow(
        self,
        source: str | Path,
        *,
        synchronous: bool = True,
        on_sent: OnSent | None = None,
        **options: Unpack[WorkflowOptions],
    ) -> answers.Status:
        """Registers a workflow; see `register_model`. What is said in `options` goes for each of its models."""
        return await self.call(calls.register("workflows", source, options, synchronous=synchronous, on_sent=on_sent))

    async def list_models(self, page_size: int | None = None) -> AsyncIterator[answers.ModelItem]:
        """Iterates over the models of all pages."""
        token: str | None = None
        while True:
            page = await self.call(calls.list_models(page_size, token))
            for item in page.models:
                yield item
            token = page.next_page_token
            if not token:
                return

    async def list_workflows(self, page_size: int | None = None) -> AsyncIterator[answers.WorkflowItem]:
        """Iterates over the workflows of all pages."""
        token: str | None = None
        while True:
            page = await self.call(calls.list_workflows(page_size, token))
            for item in page.workflows:
                yield item
            token = page.next_page_token
            if not token:
                return

    async def describe(self, name: str, version: str | None = None, *, kind: Kind = "models") -> tuple[answers.Workflow, ...]:
        """Tells all about each version of a model or workflow."""
        return await self.call(calls.describe(kind, name, version))

    async def scale(
        self,
        name: str,
        version: str | None = None,
        *,
        min_worker: int | None = None,
        max_worker: int | None = None,
        device: str | None = None,
        synchronous: bool = True,
        kind: Kind = "models",
    ) -> answers.Status:
        """Changes the number of workers of one version, or of all."""
        call = calls.scale(
            kind, name, version, min_worker=min_worker, max_worker=max_worker, device=device, synchronous=synchronous
        )
        return await self.call(call)

    async def unregister(self, name: str, version: str | None = None, *, kind: Kind = "models") -> answers.Status:
        """Removes one version, or all; requests that were accepted are finished first."""
        return await self.call(calls.unregister(kind, name, version))

    async def set_weights(self, name: str, weights: Mapping[str, int], *, kind: Kind = "models") -> answers.Status:
        """Shares the requests that name no version out between versions: `{"v1": 90, "v2": 10}`."""
        return await self.call(calls.set_weights(kind, name, weights))

    async def set_default(self, name: str, version: str, *, kind: Kind = "models") -> answers.Status:
        """Makes a version the one for requests that name none."""
        return await self.call(calls.set_default(kind, name, version))

    async def set_shadow(self, name: str, version: str, *, shadow: bool = True, kind: Kind = "models") -> answers.Status:
        """Sends copies of requests to a version, whose answers are dropped; or no longer."""
        return await self.call(calls.set_shadow(kind, name, version, shadow=shadow))

    async def ping(self) -> answers.Health:
        """Tells whether the server and its models can answer."""
        return await self.call(calls.ping())

    async def metrics(self) -> str:
        """The server's metrics as Prometheus reads them."""
        return await self.call(calls.metrics())

    async def wait_until_ready(
        self,
        name: str,
        version: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        on_progress: Callable[[answers.Progress], None] | None = None,
        kind: Kind = "models",
    ) -> tuple[answers.Workflow, ...]:
        """Waits for what has been registered asynchronously; see `Client.wait_until_ready`."""
        end = time.monotonic() + timeout_s
        for pause_s in pauses_s():
            versions = await self.describe(name, version, kind=kind)
            if on_progress is not None:
                on_progress(loading_of(versions))
            if is_ready(name, versions):
                return versions
            if time.monotonic() + pause_s > end:
                break
            await asyncio.sleep(pause_s)
        raise still_pending(name, timeout_s)

    # Predictions

    async def predict(self, name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> Prediction:
        """Runs a model or workflow; see `Client.predict`."""
        return await self.call(predictions.predict(name, data, options))

    @contextlib.asynccontextmanager
    async def stream(self, name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> AsyncIterator[AsyncPieces]:
        """Runs a model or workflow and gives its result in pieces; see `Client.stream`."""
        call = predictions.predict(name, data, options)
        async with self._answering(call) as response:
            if not 200 <= response.status_code < 300:
                try:
                    body = await response.aread()
                except (httpx2.HTTPError, httpx2.StreamError) as error:
                    raise broken_off(error, self.address, self._silence_s(call)) from error
                raise error_of(response.status_code, response.headers, body, str(self.address))
            yield AsyncPieces(response, lambda error: broken_off(error, self.address, self._silence_s(call)))

    async def submit(self, name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> Job:
        """Starts a prediction whose result is fetched later with `result`."""
        return await self.call(predictions.submit(name, data, options))

    async def result(self, job: Job, *, timeout_s: float = TIMEOUT_S) -> Prediction:
        """Waits for the result of a job; see `Client.result`."""
        end = time.monotonic() + timeout_s
        parts: list[predictions.JobResult] = []
        following: Job | None = job
        for pause_s in pauses_s():
            part = await self.call(predictions.fetch(following or job))
            parts.append(part)
            following = part.next
            if following is None:
                return predictions.joined(parts)
            if time.monotonic() + pause_s > end:
                break
            await asyncio.sleep(pause_s)
        raise TimedOutError(f"the result of {job.name} is not complete after {timeout_s:g} s")


class AsyncPieces:
    """An answer in pieces; iterate over it once. See `Pieces`.

    Attributes:
        content_type: What it comes as.
        headers: Its headers.
    """

    def __init__(self, response: httpx2.Response, broken: Callable[[Any], Exception]) -> None:
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
        except (httpx2.HTTPError, httpx2.StreamError) as error:
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
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise self._broken(error) from error


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks of a file, without holding up the event loop while they are read."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
