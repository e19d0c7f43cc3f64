"""Requests in JSON that are nothing but numbers, read into an array without a Python object for each of them.

What this reads comes out as it would in the usual way, which makes lists of it (`inputs.py`). Everything else, and whatever is
wrong, is left to that: it says what the matter is.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Collection
from typing import Any

import numpy as np
import simdjson

from flowyard.engines.inputs import WRAPPERS, Array, fits
from flowyard.schemas.tensors import TensorSpec
from flowyard.schemas.values import Buffer, Value, decode_json

_BEGINNINGS = frozenset((b"[", b"{"))
#: What the parser raises at what it does not take, and we at what it is not.
_REFUSED = (ValueError, TypeError, RuntimeError, AttributeError, IndexError)


class JsonText:
    """JSON that nobody has parsed yet.

    Args:
        text: UTF-8.
    """

    __slots__ = ("text",)

    def __init__(self, text: Buffer) -> None:
        self.text = text

    def value(self) -> Value:
        """What it says.

        Raises:
            InvalidInputError: It is no JSON.
        """
        return decode_json(self.text)


class JsonNumbers:
    """Reads arrays of numbers for one input of a model.

    Args:
        spec: The input: one of floats, with a shape.
    """

    def __init__(self, spec: TensorSpec) -> None:
        assert spec.shape is not None
        self._keys = frozenset((*WRAPPERS, spec.name))
        self._shape = spec.shape
        self._dtype = np.dtype(spec.dtype)
        self._limit = float(np.finfo(self._dtype).max) ** 2 if self._dtype.itemsize < np.dtype(float).itemsize else math.inf
        self._parser = simdjson.Parser()

    def read(self, text: Buffer) -> tuple[Array, bool] | None:
        """Reads the array that a text holds, bare or under one of the keys that an input may have.

        Args:
            text: UTF-8 JSON.

        Returns:
            The array in the input's dtype, and whether its first dimension was added; `None` for all but numbers in the input's
            shape, within its range.
        """
        whole = bytes(text)
        # The parser would take a byte order mark, which is no JSON.
        if whole[:1] not in _BEGINNINGS:
            return None
        try:
            numbers, sizes = _numbers_in(self._parser.parse(whole), self._keys, whole.count(b"[", 0, whole.rfind(b"[") + 1))
        except _REFUSED:
            # A parser is not used again while something of its last text is there, and the error may hold that.
            self._parser = simdjson.Parser()
            return None
        added = len(sizes) == len(self._shape) - 1
        full = (1, *sizes) if added else sizes
        # Whether one of them is out of range, said by all of them at once; of very large ones the usual way knows more.
        if not fits(full, self._shape) or not np.vdot(numbers, numbers) < self._limit:
            return None
        return numbers.astype(self._dtype).reshape(full), added


def _numbers_in(document: Any, keys: Collection[str], brackets: int) -> tuple[Array, tuple[int, ...]]:
    """The numbers of the array that a document is, or holds under one of the keys and nothing else; and its sizes.

    Raises:
        ValueError: It is no such thing; the parser's own errors mean the same.
    """
    if type(document) is simdjson.Object:
        (key,) = document
        document = document[key] if key in keys else None
    sizes = _sizes(document)
    numbers = np.frombuffer(document.as_buffer(of_type="d"))
    # As many brackets as such an array has: there is nothing else than numbers in the innermost ones.
    if not numbers.size or numbers.size != math.prod(sizes) or brackets != _arrays_of(sizes):
        raise ValueError
    return numbers, sizes


def _sizes(array: Any) -> tuple[int, ...]:
    """The sizes of nested arrays that are alike.

    Raises:
        ValueError: They are not, or one of them is empty; TypeError where something else is in one of their places.
    """
    if type(array[0]) is not simdjson.Array:
        return (len(array),)
    (inner,) = {_sizes(item) for item in array}
    return (len(array), *inner)


def _arrays_of(sizes: tuple[int, ...]) -> int:
    """How many arrays there are in one of such sizes, itself included."""
    return sum(itertools.accumulate(sizes[:-1], operator.mul, initial=1))
