"""Reads JSON text into nodes with positions."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from math import isfinite

from flowyard.workflows.problems import Problems
from flowyard.workflows.source import (
    LIMIT_DEPTH,
    LIMIT_NODES,
    At,
    Entry,
    Mapping,
    Node,
    Scalar,
    Sequence,
    SourceError,
    add_entry,
    checked_integer,
)

_SPACE = re.compile(r"[ \t\r\n]*")


class _Integer(str):
    """A whole number as it is written: Python refuses to read very long ones."""

    __slots__ = ()


_decoder = json.JSONDecoder(parse_int=_Integer)


def is_json(text: str) -> bool:
    """Whether a text without a telling name is meant as JSON: an object that parses."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        _decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def compose(text: str, problems: Problems) -> Node:
    """Reads JSON.

    Args:
        text: The whole text.
        problems: Receives duplicate keys.

    Returns:
        The root.

    Raises:
        SourceError: It is not JSON, or over the limits.
    """
    try:
        _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"not JSON: {error.msg}", error.lineno, error.colno) from None
    except ValueError as error:
        raise SourceError(f"not JSON: {error}") from None
    except RecursionError:
        raise SourceError(f"nested deeper than {LIMIT_DEPTH} levels") from None
    return _Reader(text, problems).root()


class _Reader:
    """Walks over text that is known to be JSON."""

    def __init__(self, text: str, problems: Problems) -> None:
        self._text = text
        self._problems = problems
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self._at = 0
        self._count = 0

    def root(self) -> Node:
        self._skip()
        return self._node(1)

    def _node(self, depth: int) -> Node:
        line, column = self._place()
        self._count += 1
        if depth > LIMIT_DEPTH:
            raise SourceError(f"nested deeper than {LIMIT_DEPTH} levels", line, column)
        if self._count > LIMIT_NODES:
            raise SourceError(f"more than {LIMIT_NODES} values", line, column)
        start = self._text[self._at]
        if start == "[":
            return Sequence(self._items(depth), line, column)
        if start == "{":
            return Mapping(self._entries(depth), line, column)
        return self._scalar(line, column)

    def _place(self) -> tuple[int, int]:
        line = bisect_right(self._lines, self._at)
        return line, self._at - self._lines[line - 1] + 1

    def _skip(self, characters: int = 0) -> str:
        """Moves past some characters and the space after them; returns the next one."""
        match = _SPACE.match(self._text, self._at + characters)
        assert match is not None
        self._at = match.end()
        return self._text[self._at : self._at + 1]

    def _scalar(self, line: int, column: int) -> Scalar:
        start = self._at
        value, self._at = _decoder.raw_decode(self._text, start)
        text = self._text[start : self._at]
        try:
            if isinstance(value, _Integer):
                value = checked_integer(value)
            elif isinstance(value, str):
                value.encode()
                text = value
            elif isinstance(value, float) and not isfinite(value):
                raise ValueError("a number that is too large" if text[-1].isdigit() else f"{text} is not JSON")
        except ValueError as error:
            reason = "a lone surrogate in a string" if isinstance(error, UnicodeEncodeError) else str(error)
            self._problems.error(reason, At(line, column), name=text[:100].encode("ascii", "backslashreplace").decode())
            value = 0
        return Scalar(value, text, line, column)

    def _items(self, depth: int) -> tuple[Node, ...]:
        items = []
        following = self._skip(1)
        while following != "]":
            items.append(self._node(depth + 1))
            following = self._skip()
            if following == ",":
                following = self._skip(1)
        self._at += 1
        return tuple(items)

    def _entries(self, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        following = self._skip(1)
        while following != "}":
            key = self._node(depth + 1)
            self._skip()
            self._skip(1)
            add_entry(entries, key, self._node(depth + 1), self._problems)
            following = self._skip()
            if following == ",":
                following = self._skip(1)
        self._at += 1
        return entries
