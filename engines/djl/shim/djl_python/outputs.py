"""An answer, as a handler gives it (DJL §7.1)."""

from __future__ import annotations

import datetime
import io
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from djl_python.np_util import to_nd_list
from djl_python.pair_list import PairList

_SHORT = struct.Struct(">h")
_INT = struct.Struct(">i")


def _jsonable(item: Any) -> Any:
    """What JSON does not know: dates, and numpy's numbers and arrays."""
    if isinstance(item, datetime.datetime):
        return str(item)
    if isinstance(item, np.integer):
        return int(item)
    if isinstance(item, np.floating):
        return float(item)
    if isinstance(item, np.ndarray):
        return item.tolist()
    raise TypeError(f"an object of type {type(item).__name__} is not JSON serializable")


def json_line(outputs: Any) -> bytearray:
    """How a piece of a stream is told when nobody says otherwise: a line of JSON."""
    return bytearray((json.dumps({"outputs": outputs}) + "\n").encode())


class Output:
    """A status, properties that become response headers, and named contents, of which the first or `data` is the body.

    Args:
        code: HTTP status.
        message: What is said about it.
    """

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, Any] = {}
        self.content = PairList()
        self.stream_content: Iterator[Any] | None = None
        self.stream_output_formatter: Callable[[Any], Any] | None = None
        self.finalize_function: Callable[..., Any] | None = None
        self.finalize_args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        """Shows everything but the contents themselves."""
        kinds = {str(key): f"type: {type(value)}" for key, value in zip(self.content.keys, self.content.values, strict=True)}
        told = {"code": self.code, "message": self.message, "properties": self.properties, "content": kinds}
        return json.dumps(told, indent=2, default=str)

    def set_code(self, code: int) -> Output:
        """Sets the status."""
        self.code = code
        return self

    def set_message(self, message: str) -> Output:
        """Sets what is said about the status."""
        self.message = message
        return self

    def error(self, error: str, code: int = 424, message: str = "invoke handler failure") -> Output:
        """Makes it an answer about an error."""
        self.code = code
        self.message = message
        self.add_property("content-type", "application/json")
        return self.add_as_json({"code": code, "message": message, "error": error})

    def add_property(self, key: str, val: Any) -> Output:
        """Sets a property."""
        self.properties[key] = val
        return self

    def get_properties(self) -> dict[str, Any]:
        """All properties."""
        return self.properties

    def get_property(self, key: str) -> Any:
        """A property by its exact name, `None` where there is none."""
        return self.properties.get(key)

    def add(self, value: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds a content.

        Args:
            value: Text and bytes as they are, everything else as JSON.
            key: Its name.
            batch_index: The request of a batch that it answers.
        """
        name = key if key is None else str(key)
        if batch_index is not None:
            name = f"batch_{batch_index}.{name or ''}"
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, (bytes, bytearray)):
            value = self._encode_json(value)
        self.content.add(name, value if isinstance(value, bytearray) else bytearray(value))
        return self

    def add_as_numpy(self, np_list: Sequence[Any], key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds arrays as an NDList."""
        return self.add(to_nd_list(np_list), key, batch_index)

    def add_as_npz(self, np_list: Sequence[Any], key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds arrays as an npz file."""
        file = io.BytesIO()
        np.savez(file, *np_list)
        return self.add(file.getvalue(), key, batch_index)

    def add_as_json(self, val: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds anything as JSON."""
        return self.add(self._encode_json(val), key, batch_index)

    def add_stream_content(
        self, stream_content: Iterator[Any], output_formatter: Callable[[Any], Any] | None = json_line
    ) -> Output:
        """Answers in pieces.

        Args:
            stream_content: Yields the pieces.
            output_formatter: Makes text or bytes of each; `None` takes them as they are, JSON where they are neither.
        """
        self.stream_content = stream_content
        self.stream_output_formatter = output_formatter
        return self

    def finalize(self, finalize_function: Callable[..., Any], *args: Any) -> Output:
        """Has a function called when the answer is done with."""
        self.finalize_function = finalize_function
        self.finalize_args = args
        return self

    def execute_finalize(self) -> Any:
        """Calls that function, if there is one."""
        return self.finalize_function(*self.finalize_args) if self.finalize_function is not None else None

    @staticmethod
    def _encode_json(val: Any) -> bytearray:
        told = json.dumps(val, ensure_ascii=False, allow_nan=False, indent=2, default=_jsonable, separators=(",", ":"))
        return bytearray(told.encode())

    @staticmethod
    def binary_encode(data: Mapping[str, Any]) -> bytearray:
        """Encodes a mapping as a count, and names and values as text with their lengths in front."""
        encoded = bytearray(_SHORT.pack(len(data)))
        for key, value in data.items():
            Output.write_utf8(encoded, key)
            Output.write_utf8(encoded, str(value))
        return encoded

    @staticmethod
    def write_utf8(msg: bytearray, val: str | None) -> None:
        """Appends text with its length in front; -1 stands for `None`."""
        if val is None:
            msg += _INT.pack(-1)
            return
        text = val.encode()
        msg += _INT.pack(len(text)) + text
