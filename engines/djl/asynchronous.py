"""Asynchronous handlers: many requests are awaited at the same time, on an event loop of their own (DJL §7.1, `async_mode`)."""

from __future__ import annotations

import contextlib
import inspect
import struct
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from djl_python.outputs import Output
from flowyard.engines.background import is_cancelled
from flowyard.engines.base import Outcome
from flowyard.engines.djl.messages import NO_CONTENT, message_of
from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.schemas.errors import NodeError, OutOfMemoryError
from flowyard.schemas.messages import DATA, Message
from flowyard.schemas.redaction import without_host_paths
from flowyard.schemas.values import Value

_END = object()
_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")


async def called(function: Callable[[Any], Any], inputs: Any) -> Any:
    """What a function returns, awaited where that is awaitable."""
    result = function(inputs)
    return await result if inspect.isawaitable(result) else result


async def answer_of_call(function: Callable[[Any], Any], inputs: Any) -> Outcome | AsyncGenerator[Value]:
    """The answer of an asynchronous handler: a message, or what it yields.

    Args:
        function: The handler.
        inputs: Its argument.
    """
    try:
        result = await called(function, inputs)
    except BaseException as error:
        if is_cancelled():
            raise
        return _failure(error)
    if isinstance(result, AsyncGenerator):
        return pieces_of(result)
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


async def pieces_of(outputs: AsyncGenerator[Any]) -> AsyncGenerator[Value]:
    """What an asynchronous handler yields: first the properties of its first output, then the data of each.

    Raises:
        NodeError: The handler raises, or an output tells of an error.
    """
    is_first = True
    async with contextlib.aclosing(outputs):
        while (output := await _next(outputs)) is not _END:
            data, is_last = _piece(output)
            if isinstance(data, Message) and is_first:
                yield data
                return
            if isinstance(data, Message):
                raise NodeError(data.data.decode())
            if is_first:
                yield message_of(output, ())
            is_first = False
            yield data
            if is_last:
                return
    if is_first:
        raise NodeError("the handler has yielded nothing")


async def _next(outputs: AsyncGenerator[Any]) -> Any:
    try:
        return await anext(outputs, _END)
    except BaseException as error:
        if is_cancelled():
            raise
        log(error)
        raise NodeError(describe(error)) from None


def _piece(output: Any) -> tuple[bytes | Message, bool]:
    if not isinstance(output, Output):
        raise NodeError(f"Invalid output type: {type(output)}")
    if output.code >= 300:
        raise NodeError(f"Async Inference Failure {output.message}")
    return _part(output)
