"""Between messages and the rows that handlers of TorchServe and MMS take and give. Only ever imported in a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flowyard.schemas.errors import HandlerError
from flowyard.schemas.messages import BODY, REQUEST_ID, Message
from ts.context import RequestProcessor

CONTENT_TYPE = "content-type"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


def row_of(message: Message, *, decode: bool) -> dict[str, Any]:
    """One request as a handler's row: each content under its name, decoded as its own type says.

    Args:
        message: The request.
        decode: Whether JSON and text are decoded at all (`decode_input_request`).
    """
    types = message.types or ("",) * len(message.contents)
    row: dict[str, Any] = {}
    for (name, content), kind in zip(message.contents, types, strict=True):
        row[name or BODY] = _decoded(content, kind) if decode else bytearray(content)
    return row


def _decoded(content: bytes, kind: str) -> Any:
    """JSON and text where they are; what does not decode goes on as it is."""
    try:
        if kind == JSON:
            return json.loads(content)
        if kind.startswith("text"):
            return content.decode()
    except (ValueError, RecursionError):
        pass
    return bytearray(content)


def request_of(message: Message, *, is_known: bool = False) -> tuple[str, RequestProcessor]:
    """The id of a request, and what holds its headers and takes those of the answer.

    Args:
        message: The request.
        is_known: Whether the handler has seen its data, which is not told again.
    """
    headers: dict[str, Any] = {name: value for name, value in message.properties if name != REQUEST_ID}
    types = message.types or ("",) * len(message.contents)
    for (name, _), kind in zip(message.contents, types, strict=True) if not is_known else ():
        headers[name or BODY] = {CONTENT_TYPE: kind}
    return message.get(REQUEST_ID), RequestProcessor(headers)


def answer_of(result: Any, processor: RequestProcessor) -> Message:
    """One row's result as the answer to its request.

    Args:
        result: What the handler returned for it.
        processor: Status and headers that it has set.

    Raises:
        TypeError: The result is nothing that can be sent.
    """
    kind, body = body_of(result)
    return Message(status_of(processor), _reason(processor), headers_of(processor), ((None, body),), (kind,))


def body_of(result: Any) -> tuple[str, bytes]:
    """Content type, as far as it is known, and bytes of a result.

    Raises:
        TypeError: It is nothing that can be sent.
    """
    if isinstance(result, bytes | bytearray):
        return "", bytes(result)
    if isinstance(result, str):
        return TEXT, result.encode("utf-8", "replace")
    if _is_tensor(result):
        return "", _saved(result)
    try:
        return JSON, json.dumps(result, indent=2).encode()
    except (ValueError, RecursionError) as error:
        raise TypeError(str(error)) from None


def _is_tensor(result: Any) -> bool:
    return type(result).__module__.split(".")[0] == "torch" and hasattr(result, "detach")


def _saved(tensor: Any) -> bytes:
    import io  # noqa: PLC0415

    import torch  # noqa: PLC0415

    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()


def status_of(processor: RequestProcessor) -> int:
    """The status that a handler has set, 500 where it is no number."""
    code: Any = processor.get_response_status_code()
    return int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdecimal()) else 500


def _reason(processor: RequestProcessor) -> str:
    return str(processor.get_response_status_phrase() or "")


def headers_of(processor: RequestProcessor, more: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    """The headers that a handler has set."""
    headers = {**processor.get_response_headers(), **(more or {})}
    return tuple((str(name), str(value)) for name, value in headers.items())


def failure(message: str, status: int, error: BaseException | None = None, detail: str = "") -> HandlerError:
    """What the servers say of a failed batch.

    Args:
        message: Their words.
        status: Their status.
        error: What was raised, if anything.
        detail: What else there is to say.
    """
    told = f"{type(error).__name__}: {error}" if error is not None else detail
    return HandlerError(message, status=status, detail=told)
