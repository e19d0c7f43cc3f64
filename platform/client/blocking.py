"""The client, for code that waits."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
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


class Client:
    """Talks to a flowyard server. Keeps connections open; may be shared between threads.

    Every method raises a `ClientError`: a `RefusedError` by type where the server said no, a `NoAnswerError` where no complete
    answer came, an `InvalidArgumentError` where nothing could be sent. A connection that cannot be made is tried once more; so is
    a GET whose connection turns out to be closed. Nothing else is: it may have been executed.

    Args:
        url: `http://host:port`, `https://host` or `unix:/path`; `None` takes `FLOWYARD_URL`, else `http://127.0.0.1:8080`.
        token: Sent as a bearer token; `None` takes `FLOWYARD_TOKEN`.
        timeout_s: Longest silence of the server.
        verify: Whether certificates are checked, or an SSL context that says how.
        transport: What carries requests, instead of the network: for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.address = address_of(url)
        self.timeout_s = timeout_s
        self._http = httpx2.Client(
            base_url=self.address.base_url,
            headers=authorization(token),
            timeout=timeout_of(timeout_s),
            transport=transport or httpx2.HTTPTransport(**transport_options(self.address, verify)),
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(self, call: Call[T]) -> T:
        """Carries out a call.

        Returns:
            What the call reads out of its answer.
        """
        return call.read(self.exchange(call))

    def exchange(self, call: Call[Any]) -> Reply:
        """Carries out a call and gives its answer as it came, whatever its status."""
        with self._answering(call) as response:
            try:
                body = response.read()
            except (httpx2.HTTPError, httpx2.StreamError) as error:
                raise broken_off(error, self.address, self._silence_s(call)) from error
            return Reply(response.status_code, response.headers, body, str(self.address))

    @contextlib.contextmanager
    def _answering(self, call: Call[Any]) -> Iterator[httpx2.Response]:
        """An answer that has begun."""
        response = self._send(call)
        try:
            yield response
        finally:
            response.close()

    def _send(self, call: Call[Any]) -> httpx2.Response:
        attempts = 2 if call.method in REPEATABLE else 1
        while True:
            attempts -= 1
            try:
                return self._http.send(self._request(call), stream=True)
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
            content=body.chunks() if isinstance(body, Upload) else body,
            timeout=timeout_of(self._silence_s(call)),
        )

    def _silence_s(self, call: Call[Any]) -> float:
        return call.timeout_s if call.timeout_s is not None else self.timeout_s

    # Management

    def register_model(
        self,
        source: str | Path,
        *,
        synchronous: bool = True,
        on_sent: OnSent | None = None,
        **options: Unpack[ModelOptions],
    ) -> answers.Status:
        """Registers a model.

        Args:
            source: A URL or path that the server reads (text), or a file or folder here that is uploaded (`Path`).
            synchronous: Whether to return when it can be asked; else once it is recorded, see `wait_until_ready`.
            on_sent: Hears how much of an upload has been sent.
            **options: See `ModelOptions`.

        Returns:
            What the server did, in words.
        """
        return self.call(calls.register("models", source, options, synchronous=synchronous, on_sent=on_sent))

    def register_workflow(
        self,
        source: str | Path,
        *,
        synchronous: bool = True,
        on_sent: OnSent | None = None,
        **options: Unpack[WorkflowOptions],
    ) -> answers.Status:
        """Registers a workflow; see `register_model`. What is said in `options` goes for each of its models."""
        return self.call(calls.register("workflows", source, options, synchronous=synchronous, on_sent=on_sent))

    def list_models(self, page_size: int | None = None) -> Iterator[answers.ModelItem]:
        """Iterates over the models of all pages."""
        token: str | None = None
        while True:
            page = self.call(calls.list_models(page_size, token))
            yield from page.models
            token = page.next_page_token
            if not token:
                return

    def list_workflows(self, page_size: int | None = None) -> Iterator[answers.WorkflowItem]:
        """Iterates over the workflows of all pages."""
        token: str | None = None
        while True:
            page = self.call(calls.list_workflows(page_size, token))
            yield from page.workflows
            token = page.next_page_token
            if not token:
                return

    def describe(self, name: str, version: str | None = None, *, kind: Kind = "models") -> tuple[answers.Workflow, ...]:
        """Tells all about each version of a model or workflow."""
        return self.call(calls.describe(kind, name, version))

    def scale(
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
        return self.call(call)

    def unregister(self, name: str, version: str | None = None, *, kind: Kind = "models") -> answers.Status:
        """Removes one version, or all; requests that were accepted are finished first."""
        return self.call(calls.unregister(kind, name, version))

    def set_weights(self, name: str, weights: Mapping[str, int], *, kind: Kind = "models") -> answers.Status:
        """Shares the requests that name no version out between versions: `{"v1": 90, "v2": 10}`."""
        return self.call(calls.set_weights(kind, name, weights))

    def set_default(self, name: str, version: str, *, kind: Kind = "models") -> answers.Status:
        """Makes a version the one for requests that name none."""
        return self.call(calls.set_default(kind, name, version))

    def set_shadow(self, name: str, version: str, *, shadow: bool = True, kind: Kind = "models") -> answers.Status:
        """Sends copies of requests to a version, whose answers are dropped; or no longer."""
        return self.call(calls.set_shadow(kind, name, version, shadow=shadow))

    def ping(self) -> answers.Health:
        """Tells whether the server and its models can answer."""
        return self.call(calls.ping())

    def metrics(self) -> str:
        """The server's metrics as Prometheus reads them."""
        return self.call(calls.metrics())

    def wait_until_ready(
        self,
        name: str,
        version: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        on_progress: Callable[[answers.Progress], None] | None = None,
        kind: Kind = "models",
    ) -> tuple[answers.Workflow, ...]:
        """Waits for what has been registered asynchronously.

        Args:
            name: The model or workflow.
            version: One version, `None` for all.
            timeout_s: Longest wait.
            on_progress: Hears how far it is.
            kind: What it was registered as.

        Returns:
            What it is now.

        Raises:
            RegistrationFailedError: It could not be started; the message has the reason.
            TimedOutError: It is still pending.
            ModelNotFoundError: It is not, or no longer, registered.
        """
        end = time.monotonic() + timeout_s
        for pause_s in pauses_s():
            versions = self.describe(name, version, kind=kind)
            if on_progress is not None:
                on_progress(loading_of(versions))
            if is_ready(name, versions):
                return versions
            if time.monotonic() + pause_s > end:
                break
            time.sleep(pause_s)
        raise still_pending(name, timeout_s)

    # Predictions

    def predict(self, name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> Prediction:
        """Runs a model or workflow.

        Args:
            name: Which.
            data: What for: any JSON value, bytes, an array, a list or mapping of arrays, or a file (`Path`).
            **options: See `PredictOptions`.

        Returns:
            The result, decoded by its content type.
        """
        return self.call(predictions.predict(name, data, options))

    @contextlib.contextmanager
    def stream(self, name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> Iterator[Pieces]:
        """Runs a model or workflow and gives its result in pieces, as they come.

        Args:
            name: Which.
            data: What for, as in `predict`.
            **options: See `PredictOptions`; `accept="text/event-stream"` asks for events.

        Yields:
            The pieces. Leaving early tells the server to stop.
        """
        call = predictions.predict(name, data, options)
        with self._answering(call) as response:
            if not 200 <= response.status_code < 300:
                try:
                    body = response.read()
                except (httpx2.HTTPError, httpx2.StreamError) as error:
                    raise broken_off(error, self.address, self._silence_s(call)) from error
                raise error_of(response.status_code, response.headers, body, str(self.address))
            yield Pieces(response, lambda error: broken_off(error, self.address, self._silence_s(call)))

    def submit(self, name: str, data: Value | Path = None, **options: Unpack[PredictOptions]) -> Job:
        """Starts a prediction whose result is fetched later with `result`."""
        return self.call(predictions.submit(name, data, options))

    def result(self, job: Job, *, timeout_s: float = TIMEOUT_S) -> Prediction:
        """Waits for the result of a job.

        Raises:
            TimedOutError: It is not complete in time.
            RefusedError: It failed, or the token leads nowhere.
        """
        end = time.monotonic() + timeout_s
        parts: list[predictions.JobResult] = []
        following: Job | None = job
        for pause_s in pauses_s():
            part = self.call(predictions.fetch(following or job))
            parts.append(part)
            following = part.next
            if following is None:
                return predictions.joined(parts)
            if time.monotonic() + pause_s > end:
                break
            time.sleep(pause_s)
        raise TimedOutError(f"the result of {job.name} is not complete after {timeout_s:g} s")


class Pieces:
    """An answer in pieces; iterate over it once.

    Lines of JSON are values, events are `Event`s, text is text and bytes are bytes, in whatever lengths they arrive; a result
    that does not come in pieces is one.

    Attributes:
        content_type: What it comes as.
        headers: Its headers.
    """

    def __init__(self, response: httpx2.Response, broken: Callable[[Any], Exception]) -> None:
        self.headers: Mapping[str, str] = response.headers
        self.content_type = response.headers.get("content-type", "")
        self._response = response
        self._broken = broken

    def raw(self) -> Iterator[bytes]:
        """The bytes as they come.

        Raises:
            InterruptedAnswerError: The answer ended before it was complete.
        """
        try:
            yield from self._response.iter_bytes()
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise self._broken(error) from error

    def __iter__(self) -> Iterator[Any]:
        """The pieces, decoded.

        Raises:
            InterruptedAnswerError: The answer ended before it was complete.
            RefusedError: An event told that it failed.
        """
        if media_type(self.content_type) == EVENTS:
            yield from self._events()
            return
        decoder = decoder_of(self.content_type)
        for data in self.raw():
            yield from decoder.feed(data)
        yield from decoder.end()

    def _events(self) -> Iterator[Any]:
        try:
            for event in events_of(self._response):
                yield event_of(event)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise self._broken(error) from error
