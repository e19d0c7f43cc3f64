"""A request, as a handler sees it (DJL §7.1)."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from djl_python.np_util import from_nd_list
from djl_python.pair_list import PairList

BATCH_PREFIX = "batch_"
#: `batch_007.name`: the number has three digits, the name begins behind the dot.
_NUMBER = slice(len(BATCH_PREFIX), len(BATCH_PREFIX) + 3)
_NAME = slice(len(BATCH_PREFIX) + 4, None)
_DATA = "data"


class Input:
    """Properties, the request's headers among them, and named contents of bytes.

    Attributes:
        function_name: The function of the module that is to handle it.
        properties: By name, as written.
        content: Query parameters, form fields, and `data`, the body.
    """

    def __init__(self) -> None:
        self.function_name: str | None = None
        self.properties: dict[str, Any] = {}
        self.content = PairList()

    def __str__(self) -> str:
        """Shows properties and contents."""
        lines = [f"properties: {self.properties}", *(f"{key}: {self.get_data(key)}" for key in self.content.get_keys())]
        return "\n".join(lines)

    def is_batch(self) -> bool:
        """Whether it holds several requests."""
        return "batch_size" in self.properties

    def get_batch_size(self) -> int:
        """The number of requests it holds."""
        return int(self.properties.get("batch_size", 1))

    def get_batches(self) -> list[Input]:
        """The requests it holds, one by one; itself, where it is a single one."""
        if not self.is_batch():
            return [self]
        members = [Input() for _ in range(self.get_batch_size())]
        for name, value in self.properties.items():
            if name.startswith(BATCH_PREFIX) and name != "batch_size":
                members[int(name[_NUMBER])].properties[name[_NAME]] = value
        for key, value in zip(self.content.keys, self.content.values, strict=True):
            members[int(key[_NUMBER])].content.add(key[_NAME], value)
        return members

    def get_function_name(self) -> str | None:
        """The function that is to handle it."""
        return self.function_name

    def get_properties(self) -> dict[str, Any]:
        """All properties."""
        return self.properties

    def get_property(self, key: str) -> Any:
        """A property by its name in any case, `None` where there is none."""
        wanted = key.lower()
        return next((value for name, value in self.properties.items() if name.lower() == wanted), None)

    def get_content(self) -> PairList:
        """All contents."""
        return self.content

    def contains_key(self, key: str) -> bool:
        """Whether there is a content of that name."""
        return self.content.get(key) is not None

    def is_empty(self) -> bool:
        """Whether there is no content: the call that initialises the model."""
        return not self.content.keys

    def get_data(self, key: str | None = None) -> Any:
        """A content, read as the content type says: arrays, JSON, text, an image, else bytes."""
        kind = self.get_property("content-type") or ""
        if kind == "tensor/ndlist":
            return self.get_as_numpy(key)
        if kind == "tensor/npz":
            return self.get_as_npz(key)
        if kind.startswith("application/json"):
            return self.get_as_json(key)
        if kind.startswith("text/"):
            return self.get_as_string(key)
        if kind.startswith("image/"):
            return self.get_as_image(key)
        return self.get_as_bytes(key)

    def get_as_bytes(self, key: str | None = None) -> Any:
        """A content as it is.

        Args:
            key: Its name; without, `data`, else the first one.

        Returns:
            A bytearray, `None` where there is no content at all.

        Raises:
            KeyError: There is none of that name.
        """
        if self.content.is_empty():
            return None
        found = self.content.get(key or _DATA)
        if found is not None:
            return found
        if key:
            raise KeyError(f"the request has no content {key!r}")
        return self.content.value_at(0)

    def get_as_string(self, key: str | None = None) -> str:
        """A content as UTF-8 text."""
        text: str = self.get_as_bytes(key).decode()
        return text

    def get_as_json(self, key: str | None = None) -> Any:
        """A content as JSON."""
        return json.loads(self.get_as_string(key))

    def get_as_image(self, key: str | None = None) -> Any:
        """A content as an image of Pillow."""
        from PIL import Image  # noqa: PLC0415 - only handlers of images need Pillow

        return Image.open(io.BytesIO(self.get_as_bytes(key)))

    def get_as_numpy(self, key: str | None = None) -> list[Any]:
        """A content as the arrays of an NDList."""
        arrays: list[Any] = from_nd_list(self.get_as_bytes(key))
        return arrays

    def get_as_npz(self, key: str | None = None) -> list[Any]:
        """A content as the arrays of an npz file."""
        import numpy as np  # noqa: PLC0415 - only handlers of arrays need numpy

        with np.load(io.BytesIO(self.get_as_bytes(key)), allow_pickle=False) as arrays:
            return [arrays[name] for name in arrays.files]

    def get_as_csv(self, key: str | None = None) -> list[dict[str, Any]]:
        """A content as rows of CSV with a header line."""
        return list(csv.DictReader(io.StringIO(self.get_as_string(key))))
