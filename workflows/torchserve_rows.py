"""How nodes of TorchServe's workflows get the outputs of several others: parents as named bytes, leaves as one JSON object."""

from __future__ import annotations

import msgspec

from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import NOT_JSON, Value, to_jsonable


class Collector:
    """A function that makes one value of several outputs. It takes payloads, as bytes count here and not values.

    Args:
        names: The name of each.
        is_answer: Whether they are leaves, whose outputs are told as JSON; one that is none is told as text, where TorchServe
            fails. Else they are parents, and the value is a message: each one's bytes under its name.
    """

    def __init__(self, names: tuple[str, ...], *, is_answer: bool) -> None:
        self._names = names
        self._is_answer = is_answer

    def __call__(self, args: list[Value]) -> Value:
        """Collects values."""
        return self.collect([Payload.of(arg) for arg in args]).value()

    def collect(self, outputs: list[Payload]) -> Payload:
        """Collects outputs."""
        named = [(name, _bytes_of(output)) for name, output in zip(self._names, outputs, strict=True)]
        if self._is_answer:
            return Payload.of({name: _parsed(body) for name, body in named})
        return Payload.of(Message(contents=tuple(named)))


def _bytes_of(output: Payload) -> bytes:
    message = output.message()
    if message is not None:
        return message.data
    value = output.value()
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value, enc_hook=to_jsonable)


def _parsed(body: bytes) -> Value:
    try:
        return msgspec.json.decode(body)
    except NOT_JSON:
        return body.decode("utf-8", "replace")
