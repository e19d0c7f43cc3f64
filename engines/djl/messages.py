"""Between messages and what handlers take and give, `djl_python`'s `Input` and `Output`. Only ever imported in a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from djl_python.inputs import BATCH_PREFIX, Input
from djl_python.outputs import Output
from flowyard.engines.base import Outcome
from flowyard.engines.failures import log, of_user_code
from flowyard.engines.messages import MessageStream
from flowyard.schemas.messages import DATA, Contents, Message
from flowyard.schemas.values import Value

NO_CONTENT = 204


def input_of(message: Message, handler: str, shown: Mapping[str, Any]) -> Input:
    """One request as a handler sees it.

    Args:
        message: The request.
        handler: The function that is called.
        shown: What every request is told besides: `device_id`, `cluster_size`, `model_dir`.
    """
    inputs = Input()
    inputs.function_name = handler
    inputs.properties = {**dict(message.properties), **shown, "handler": handler}
    for name, content in message.contents:
        inputs.content.add(name, bytearray(content))
    return inputs


def batch_of(messages: Sequence[Message], handler: str, shown: Mapping[str, Any]) -> Input:
    """Several requests as one: `batch_size`, and everything of the n-th under `batch_NNN.` (DJL §7.1)."""
    inputs = Input()
    inputs.function_name = handler
    inputs.properties = {**shown, "handler": handler, "batch_size": str(len(messages))}
    for number, message in enumerate(messages):
        prefix = f"{BATCH_PREFIX}{number:03}."
        inputs.properties |= {prefix + name: value for name, value in message.properties}
        for name, content in message.contents:
            inputs.content.add(f"{prefix}{name or ''}", bytearray(content))
    return inputs


def answer_of(output: Any) -> Outcome:
    """What a handler returned, as the answer to one request: a message, or a stream that begins with one."""
    if output is None:
        return Message(NO_CONTENT, "No content")
    if not isinstance(output, Output):
        output = Output().error(f"Invalid output type: {type(output)}")
    if output.stream_content is not None:
        return OutputStream(output)
    answer = message_of(output, _contents(output))
    _finalize(output)
    return answer


def message_of(output: Output, contents: Contents) -> Message:
    """Status and properties of an output, with some contents."""
    properties = tuple((str(name), str(value)) for name, value in output.properties.items())
    return Message(int(output.code), "" if output.message is None else str(output.message), properties, contents)


def is_whole(output: Any, count: int) -> bool:
    """Whether an output answers every request of a batch, and well."""
    if not isinstance(output, Output) or output.stream_content is not None or output.code >= 300:
        return False
    return sorted(_number(key) for key in output.content.keys) == list(range(count))


def answers_of_batch(output: Output, count: int) -> list[Outcome]:
    """The answers of a batch that `is_whole`; status and properties are shared."""
    contents: list[Contents] = [()] * count
    for key, value in zip(output.content.keys, output.content.values, strict=True):
        contents[_number(key)] = ((key.partition(".")[2] or DATA, bytes(value)),)
    answers: list[Outcome] = [message_of(output, content) for content in contents]
    _finalize(output)
    return answers


def _number(key: Any) -> int:
    """The request that a content `batch_N.key` answers, -1 where it is none of that form."""
    prefix, _, _ = str(key).partition(".")
    number = prefix.removeprefix(BATCH_PREFIX)
    return int(number) if prefix.startswith(BATCH_PREFIX) and number.isascii() and number.isdigit() else -1


def _contents(output: Output) -> Contents:
    return tuple((key, bytes(value)) for key, value in zip(output.content.keys, output.content.values, strict=True))


def _finalize(output: Output) -> None:
    try:
        output.execute_finalize()
    except BaseException as error:  # noqa: BLE001 - the answer stands, whatever its clean-up does
        log(error)


class OutputStream(MessageStream):
    """An output that comes in pieces."""

    def __init__(self, output: Output) -> None:
        assert output.stream_content is not None
        self._output = output
        self._pieces: Iterator[Any] = iter(output.stream_content)
        self._begun = False

    def __next__(self) -> Value:
        """The next piece; what the handler's generator raises is a `FlowyardError`."""
        if not self._begun:
            self._begun = True
            return message_of(self._output, ())
        try:
            return self._piece(next(self._pieces))
        except StopIteration:
            _finalize(self._output)
            raise
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, SystemExit too
            _finalize(self._output)
            raise of_user_code(error) from None

    def _piece(self, piece: Any) -> bytes:
        formatter = self._output.stream_output_formatter
        if formatter is not None:
            piece = formatter(piece)
        if isinstance(piece, str):
            return piece.encode()
        return bytes(piece) if isinstance(piece, (bytes, bytearray)) else bytes(Output._encode_json(piece))  # noqa: SLF001

    def close(self) -> None:
        """Lets the generator clean up."""
        close = getattr(self._pieces, "close", None)
        try:
            if close is not None:
                close()
        except BaseException as error:  # noqa: BLE001 - nobody is there to be told, but the log
            log(error)
        _finalize(self._output)
