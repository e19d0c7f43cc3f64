"""Asynchronous handlers: many requests are awaited at the same time, on an event loop of their own (DJL §7.1, `async_mode`)."""

from __future__ import annotations

import asyncio
import inspect
import queue
import struct
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from djl_python.outputs import Output
from flowyard.engines.base import Outcome
from flowyard.engines.djl.messages import NO_CONTENT, message_of
from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.engines.messages import MessageStream
from flowyard.schemas.errors import NodeError, OutOfMemoryError
from flowyard.schemas.messages import DATA, Message
from flowyard.schemas.redaction import without_host_paths
from flowyard.schemas.values import Value

#: Pieces of an answer that its generator may be ahead of whoever takes them.
AHEAD = 16
_END = object()
_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")


class Background:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="handlers", daemon=True)
        self._thread.start()

    def start(self, function: Callable[[Any], Any], inputs: Any) -> Future[Any]:
        """Calls a function on the loop; the future gets what it returns, awaited where that is awaitable."""
        return asyncio.run_coroutine_threadsafe(_called(function, inputs), self._loop)

    def run(self, function: Callable[[Any], Any], inputs: Any) -> Any:
        """Calls a function on the loop and waits for it."""
        return self.start(function, inputs).result()

    def drain(self, pieces: AsyncIterator[Any], into: queue.Queue[Any]) -> Future[None]:
        """Takes the pieces of an asynchronous generator into a queue; what it raises is put there too, then the end."""
        return asyncio.run_coroutine_threadsafe(_drain(pieces, into), self._loop)

    def close(self) -> None:
        """Ends the loop, if it has not ended yet."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _called(function: Callable[[Any], Any], inputs: Any) -> Any:
    result = function(inputs)
    return await result if inspect.isawaitable(result) else result


async def _drain(pieces: AsyncIterator[Any], into: queue.Queue[Any]) -> None:
    loop = asyncio.get_running_loop()
    try:
        async for piece in pieces:
            await _put(loop, into, piece)
    except Exception as error:  # noqa: BLE001 - whoever takes the pieces is told
        await _put(loop, into, error)
    finally:
        await _put(loop, into, _END)


async def _put(loop: asyncio.AbstractEventLoop, into: queue.Queue[Any], item: Any) -> None:
    """Waits for room without holding up the loop."""
    try:
        into.put_nowait(item)
    except queue.Full:
        await loop.run_in_executor(None, into.put, item)


def answer_of_task(task: Future[Any], background: Background) -> Outcome:
    """The answer of an asynchronous handler: a message, or a stream of what it yields.

    Args:
        task: The call of the handler.
        background: The loop that it runs on.
    """
    try:
        result = task.result()
    except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
        return _failure(error)
    if inspect.isasyncgen(result):
        return YieldedOutputs(result, background)
    if result is None:
        return Message(NO_CONTENT, "No content")
    if not isinstance(result, Output):
        return _failed(424, f"Invalid output type: {type(result)}")
    if result.code >= 300:
        return _failed(result.code, result.message)
    body, _ = _part(result)
    return body if isinstance(body, Message) else message_of(result, ((DATA, body),))


def _failure(error: BaseException) -> Outcome:
    log(error)
    if is_out_of_memory(error):
        return OutOfMemoryError(describe(error))
    return _failed(424, "invoke handler failure", without_host_paths(str(error)))


def _failed(code: int, message: str, error: str = "") -> Message:
    """An error as DJL tells it, with the handler's own text besides."""
    body = {"code": code, "message": f"Async Inference Failure {message}"} | ({"error": error} if error else {})
    return Message(code, message, (("content-type", "application/json"),), ((DATA, msgspec.json.encode(body)),))


def _part(output: Output) -> tuple[bytes | Message, bool]:
    """The data of an output and whether it is the last: a `binary_encode`d mapping, or its first content as it is."""
    content = bytes(output.content.value_at(0)) if not output.content.is_empty() else b""
    parts = _decode(content)
    if parts is None:
        return content, True
    code = parts.get("code", "")
    if code.isdigit() and int(code) >= 300:
        return _failed(int(code), "invoke handler failure", parts.get("error", "")), True
    return parts.get("data", "").encode(), parts.get("last", "").lower() == "true"


def _decode(content: bytes) -> dict[str, str] | None:
    """Reads what `Output.binary_encode` writes; `None` where it is something else."""
    try:
        (count,) = _SHORT.unpack_from(content)
        texts: list[str] = []
        at = _SHORT.size
        for _ in range(2 * count):
            (length,) = _INT.unpack_from(content, at)
            at += _INT.size
            text = content[at : at + length]
            if length < 0 or len(text) < length:
                return None
            texts.append(text.decode())
            at += length
    except (struct.error, UnicodeDecodeError):
        return None
    return dict(zip(texts[::2], texts[1::2], strict=True)) if count > 0 and at == len(content) else None


class YieldedOutputs(MessageStream):
    """What an asynchronous handler yields: first the properties of its first output, then the data of each."""

    def __init__(self, outputs: AsyncIterator[Any], background: Background) -> None:
        self._items: queue.Queue[Any] = queue.Queue(AHEAD)
        self._held: bytes | None = None
        self._begun = self._ended = False
        self._draining = background.drain(outputs, self._items)

    def __next__(self) -> Value:
        """The next piece; what the handler raises, or an output that tells of an error, is a `FlowyardError`."""
        if self._held is not None:
            held, self._held = self._held, None
            return held
        if self._ended:
            raise StopIteration
        item = self._items.get()
        if item is _END:
            raise StopIteration
        if isinstance(item, BaseException):
            log(item)
            raise NodeError(describe(item))
        return self._piece(item)

    def _piece(self, output: Any) -> Value:
        if not isinstance(output, Output):
            raise NodeError(f"Invalid output type: {type(output)}")
        if output.code >= 300:
            raise NodeError(f"Async Inference Failure {output.message}")
        data, self._ended = _part(output)
        if isinstance(data, Message):
            if not self._begun:
                self._ended = True
                return data
            raise NodeError(data.data.decode())
        if self._begun:
            return data
        self._begun = True
        self._held = data
        return message_of(output, ())

    def close(self) -> None:
        """Ends the generator."""
        self._draining.cancel()
        while not self._items.empty():
            self._items.get_nowait()
