"""Requests that nobody waits for: they are answered with a token, and their results are fetched with it (DJL §2.9)."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from flowyard.platform.calls import Running
from flowyard.platform.held import Held
from flowyard.platform.http.native.errors import to_json
from flowyard.platform.http.native.messages import Answer, Headers
from flowyard.platform.http.native.streaming import Reply, Stream, open_stream
from flowyard.platform.http.request import CUSTOM_ATTRIBUTES, custom_attributes
from flowyard.platform.results import FOREVER, Head, Limits, Results
from flowyard.platform.settings import Settings
from flowyard.platform.workers.process import Outcome
from flowyard.schemas.errors import FlowyardError, InternalError, InvalidRequestError, ResultsFullError, TooLargeError

log = structlog.stdlib.get_logger(__name__)

SYNCHRONOUS = "x-synchronous"
STARTING_TOKEN = "x-starting-token"  # noqa: S105 - a header's name
MAX_ITEMS = "x-max-items"
NEXT_TOKEN = b"x-next-token"
#: Most items that a request may ask for, and what it gets that does not say.
MOST_ITEMS = 1_000_000_000
_TOKEN = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})([0-9]{0,9})")

Tell = Callable[[Outcome], Answer]


class Wish(NamedTuple):
    """What the headers of an asynchronous request say.

    Attributes:
        token: What is to be fetched; empty where the request is to be run, and its answer fetched later.
        max_items: Most items that are to be fetched.
    """

    token: str
    max_items: int


def wish_of(headers: Mapping[str, str]) -> Wish | None:
    """Reads `x-synchronous`, `x-starting-token` and `x-max-items`, as headers or in SageMaker's custom attributes (DJL §2.2).

    Returns:
        What they say, `None` where the request is an ordinary one.

    Raises:
        InvalidRequestError: One has a value that is not allowed.
    """
    if CUSTOM_ATTRIBUTES in headers:
        headers = {name.lower(): value for name, value in custom_attributes(headers).items()} | dict(headers)
    if SYNCHRONOUS not in headers and STARTING_TOKEN not in headers:
        return None
    synchronous = headers.get(SYNCHRONOUS, "true").strip().lower()
    if synchronous not in ("true", "false"):
        raise InvalidRequestError(f"Header {SYNCHRONOUS}: {synchronous[:50]!r}; allowed is true or false.")
    token = headers.get(STARTING_TOKEN, "").strip()
    items = headers.get(MAX_ITEMS, "").strip()
    if items and not (re.fullmatch(r"[0-9]{1,10}", items) and 1 <= int(items) <= MOST_ITEMS):
        raise InvalidRequestError(f"Header {MAX_ITEMS}: {items[:50]!r}; allowed is a whole number from 1 to {MOST_ITEMS}.")
    if synchronous == "true" and not token:
        return None
    return Wish(token=token, max_items=int(items) if items else MOST_ITEMS)


class Later:
    """Runs what nobody waits for, and keeps what comes of it.

    Args:
        settings: How much is kept, and for how long.
        tell_error: Makes an answer of an error.
        held: Counts what is held.
    """

    def __init__(self, settings: Settings, tell_error: Callable[[FlowyardError], Answer], held: Held) -> None:
        limits = Limits(count=settings.max_results, size_bytes=settings.max_results_size_bytes, ttl_s=settings.result_ttl_s)
        self._results = Results(limits)
        self._tell_error = tell_error
        self._held = held
        self._collecting: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = FOREVER

    def reserve(self) -> str:
        """A token for a request that is to be run.

        Raises:
            ResultsFullError: Too many results wait to be fetched.
        """
        token = str(uuid.uuid4())
        self._results.open(token)
        return token

    def follow(self, token: str, execution: Running, reply: Reply, accept: str, tell: Tell, body_bytes: int) -> Answer:
        """Keeps what comes of a run.

        Args:
            token: From `reserve`.
            execution: The run, which has been started.
            reply: What it gives.
            accept: The request's Accept header.
            tell: Makes an answer of its outcome.
            body_bytes: What the request takes, which is answered before its run is over.

        Returns:
            The answer to the request.
        """
        task = asyncio.get_running_loop().create_task(self._collect(token, execution, reply, accept, tell))
        self._collecting[token] = task
        self._held.keep(body_bytes)

        def over(_: asyncio.Task[None]) -> None:
            self._collecting.pop(token, None)
            self._held.give_back(body_bytes)

        task.add_done_callback(over)
        return 200, b"text/plain; charset=utf-8", b"", _next(token)

    def fetch(self, text: str, max_items: int) -> Answer:
        """What has come of a run so far: 202 while nothing has, `x-next-token` while more may come (DJL §2.9).

        Raises:
            InvalidRequestError: There is no such token, or not any more.
        """
        token, start = _parse(text)
        page = self._results.read(token, start, max_items, time.monotonic())
        self._set_timer()
        if page is None:
            raise _unknown(text)
        further = [] if page.next is None else _next(f"{token}{page.next or ''}")
        if page.head is None:
            return 202, b"", b"", further
        return page.head.status, b"", page.body, [*page.head.headers, *further]

    def cancel(self, text: str) -> Answer:
        """Forgets a result; a run that is not over is taken back.

        Raises:
            InvalidRequestError: There is no such token, or not any more.
        """
        token, _ = _parse(text)
        if token not in self._results:
            raise _unknown(text)
        what = "cancelled" if self._forget(token) else "forgotten"
        return 200, b"application/json", to_json({"status": f"Asynchronous request {token} {what}"}), []

    async def _collect(self, token: str, execution: Running, reply: Reply, accept: str, tell: Tell) -> None:
        try:
            result = await reply.first
            if isinstance(result, Stream):
                await self._collect_stream(token, result, accept)
            else:
                self._keep(token, tell(result))
        except FlowyardError as error:
            self._fail(token, error)
        except Exception:
            log.exception("asynchronous request failed", token=token)
            self._fail(token, InternalError("internal error; the log has the details"))
        finally:
            execution.cancel()
            self._set_timer()

    def _keep(self, token: str, answer: Answer) -> None:
        status, content_type, body, headers = answer
        self._results.begin(token, _head(status, content_type, headers))
        added = self._results.add(token, body, time.monotonic())
        if added == "too large":
            raise self._too_large(len(body))
        if added == "no room":
            raise ResultsFullError(
                f"no room for a result of {len(body)} bytes: those that wait to be fetched take"
                f" {self._results.size_bytes} of {self._results.limits.size_bytes} bytes (setting max_results_size_bytes)"
            )
        self._results.end(token, time.monotonic())

    async def _collect_stream(self, token: str, stream: Stream, accept: str) -> None:
        """Takes the pieces of a stream while there is room for them; its worker waits meanwhile."""
        opened = await open_stream(stream, accept, [])
        self._results.begin(token, Head(opened.status, opened.headers))
        piece = opened.piece
        while piece is not None:
            item = opened.encode(piece.value())
            while (added := self._results.add(token, item, time.monotonic())) == "no room":
                self._room.clear()
                self._set_timer()
                await self._room.wait()
            if added == "too large":
                raise self._too_large(len(item))
            piece = await stream.next()
        self._results.end(token, time.monotonic())

    def _too_large(self, size_bytes: int) -> FlowyardError:
        limit = self._results.limits.size_bytes
        return TooLargeError(
            f"a result with an item of {size_bytes} bytes is over {limit} bytes (setting max_results_size_bytes)"
        )

    def _fail(self, token: str, error: FlowyardError) -> None:
        status, content_type, body, headers = self._tell_error(error)
        self._results.end(token, time.monotonic(), (_head(status, content_type, headers), body))

    def _forget(self, token: str) -> bool:
        """Removes a result and what still works on it; tells whether something did."""
        unfinished = self._results.remove(token)
        task = self._collecting.get(token)
        if task is not None:
            task.cancel()
        self._room.set()
        return unfinished

    def _set_timer(self) -> None:
        at = self._results.wake_at
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at != FOREVER:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer_at = FOREVER
        for token in self._results.expire(time.monotonic()):
            log.info("result of an asynchronous request forgotten", token=token)
            self._forget(token)
        self._set_timer()


def _parse(text: str) -> tuple[str, int]:
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise _unknown(text)
    return found[1], int(found[2] or 0)


def _unknown(text: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid x-starting-token: {text[:100]}")


def _next(token: str) -> Headers:
    text = token.encode()
    return [(NEXT_TOKEN, text), (CUSTOM_ATTRIBUTES.encode(), NEXT_TOKEN + b"=" + text)]


def _head(status: int, content_type: bytes, headers: Headers) -> Head:
    return Head(status, [*headers, *([(b"content-type", content_type)] if content_type else [])])
