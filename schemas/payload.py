"""A value on its way: from the request to workers, from node to node, to the answer."""

from __future__ import annotations

import numpy as np

from flowyard.schemas.codecs.content import value_of_message
from flowyard.schemas.messages import Handlers, Message
from flowyard.schemas.values import JSON_TREE, Encoded, SmallArray, Value, decode, encode, small_array


class Payload:
    """A value in whichever form it is at hand; the other form is made when somebody asks, once.

    A value that goes from one worker to another is never decoded in between, and a JSON body that only a worker reads is
    parsed only there.
    """

    __slots__ = ("_encoded", "_has_value", "_message", "_shape", "_value")

    def __init__(self) -> None:
        self._value: Value = None
        self._has_value = False
        self._message: Message | None = None
        self._encoded: Encoded | None = None
        self._shape: tuple[int, ...] | None = None

    @classmethod
    def of(cls, value: Value) -> Payload:
        """From a value, or a message."""
        payload = cls()
        if isinstance(value, Message):
            payload._message = value
        else:
            payload._value = value
            payload._has_value = True
        return payload

    @classmethod
    def from_encoded(cls, encoded: Encoded, shape: tuple[int, ...] | None = None) -> Payload:
        """From the binary form, with the shape where it is known to be an array."""
        payload = cls()
        payload._encoded = encoded
        payload._shape = shape
        return payload

    @classmethod
    def from_json(cls, text: bytes) -> Payload:
        """From JSON text, unparsed."""
        return cls.from_encoded(Encoded(JSON_TREE, (text,)))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape, where that is known and the value is an array; nothing is decoded to find out."""
        value = self._value
        return value.shape if type(value) is np.ndarray else self._shape

    @property
    def size_bytes(self) -> int:
        """Bytes of the binary form; 0 where there is only the other one."""
        if self._encoded is None:
            return 0
        size_bytes = len(self._encoded.tree)
        for buffer in self._encoded.buffers:
            size_bytes += len(buffer)
        return size_bytes

    def value(self) -> Value:
        """The value, for those who know no messages; treat it as read-only, other nodes may hold it too.

        Raises:
            InvalidInputError: It is JSON text that does not parse, or a message whose body is not what its content type says.
        """
        if not self._has_value:
            message = self.message()
            if message is not None:
                self._value = value_of_message(message)
                self._has_value = True
        return self._value

    def message(self) -> Message | None:
        """The message, where it is one.

        Raises:
            InvalidInputError: It is JSON text that does not parse.
        """
        if self._message is None and not self._has_value:
            assert self._encoded is not None
            decoded = decode(self._encoded)
            if isinstance(decoded, Message):
                self._message = decoded
            else:
                self._value = decoded
                self._has_value = True
        return self._message

    def small_array(self) -> SmallArray | None:
        """The array that it is, where it is a small one and nobody has made it yet."""
        return None if self._has_value or self._encoded is None else small_array(self._encoded)

    def for_handler(self, handlers: Handlers) -> Message | None:
        """The message that a handler is called with, where there is one; errors as for `message`.

        Args:
            handlers: Whose kind the handler is of.
        """
        del handlers
        return self.message()

    def encoded(self) -> Encoded:
        """The binary form.

        Raises:
            InvalidInputError: The value holds something that is no value.
        """
        if self._encoded is None:
            self._encoded = encode(self._value if self._message is None else self._message)
        return self._encoded

    def __repr__(self) -> str:
        """Shows the value where it is at hand, else the size of the binary form."""
        if self._message is not None or self._has_value:
            return f"Payload({self._message or self._value!r})"
        assert self._encoded is not None
        return f"Payload(<{self.size_bytes} bytes>)"
