"""The client, for code that waits."""

from __future__ import annotations

import contextlib
import functools
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
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


class Client(Caller, Operations):
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
        super().__init__(url, timeout_s)
        carrier = transport or httpx2.HTTPTransport(**transport_options(self.address, verify))
        self._http = httpx2.Client(transport=carrier, **self._options(token))

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
            return self._read(call, response)

    def _read(self, call: Call[Any], response: httpx2.Response) -> Reply:
        try:
            return self._reply(response, response.read())
        except FAILURES as error:
            raise self._broken_off(error, call) from error

    @contextlib.contextmanager
    def _answering(self, call: Call[Any]) -> Iterator[httpx2.Response]:
        """An answer that has begun."""
        response = self._send(call)
        try:
            yield response
        finally:
            response.close()

    def _send(self, call: Call[Any]) -> httpx2.Response:
        attempt = 0
        while True:
            try:
                return self._http.send(self._request(call), stream=True)
            except FAILURES as error:
                if not is_repeated(error, call, attempt):
                    raise self._told(error, call) from error
            attempt += 1

    def _request(self, call: Call[Any]) -> httpx2.Request:
        body = call.body.chunks() if isinstance(call.body, Upload) else call.body
        return self._http.build_request(content=body, **self._request_options(call))

    def sending(self, make: Callable[P, Call[T]]) -> Callable[P, T]:
        """The method that sends the call which `make` makes."""

        @functools.wraps(make)
        def send(*args: P.args, **options: P.kwargs) -> T:
            return self.call(make(*args, **options))

        return cast("Callable[P, T]", send)

    def following(self, make: Callable[P, Steps[T]]) -> Callable[P, T]:
        """The method that takes the steps which `make` makes."""

        @functools.wraps(make)
        def follow(*args: P.args, **options: P.kwargs) -> T:
            steps = make(*args, **options)
            answer = None
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration as end:
                    return cast(T, end.value)
                answer = self._take(step)

        return cast("Callable[P, T]", follow)

    def iterating(self, make: Callable[P, Items[T]]) -> Callable[P, Iterator[T]]:
        """The method that gives what the steps give which `make` makes."""

        @functools.wraps(make)
        def iterate(*args: P.args, **options: P.kwargs) -> Iterator[T]:
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
                    answer = self._take(step)

        return cast("Callable[P, Iterator[T]]", iterate)

    def _take(self, step: Call[Any] | Pause) -> Any:
        if isinstance(step, Call):
            return self.call(step)
        time.sleep(step.seconds)
        return None

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
                raise refusal(self._read(call, response))
            yield Pieces(response, functools.partial(self._broken_off, call=call))


class Pieces:
    """An answer in pieces; iterate over it once.

    Lines of JSON are values, events are `Event`s, text is text and bytes are bytes, in whatever lengths they arrive; a result
    that does not come in pieces is one.

    Attributes:
        content_type: What it comes as.
        headers: Its headers.
    """

    def __init__(self, response: httpx2.Response, broken: Callable[[Failure], Exception]) -> None:
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
        except FAILURES as error:
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
        except FAILURES as error:
            raise self._broken(error) from error
