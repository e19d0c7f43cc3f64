"""Reads YAML and JSON text into nodes that know their line and column, within fixed limits.

Plain scalars follow the YAML 1.2 core schema: `no` and `on` are strings, `1e5` is a number.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import msgspec

from flowyard.workflows.problems import Problems

LIMIT_BYTES = 1 << 20
LIMIT_NODES = 100_000
LIMIT_DEPTH = 64
LIMIT_DIGITS = 1_000


class At(msgspec.Struct, frozen=True, gc=False):
    """A place in the file, both 1-based."""

    line: int
    column: int


class Scalar(msgspec.Struct, frozen=True, gc=False):
    """A string, number, boolean or null.

    Attributes:
        value: The value.
        text: As it is written, without quotes.
        line: 1-based line.
        column: 1-based column.
    """

    value: str | int | float | bool | None
    text: str
    line: int
    column: int


class Sequence(msgspec.Struct, frozen=True):
    """A list."""

    items: tuple[Node, ...]
    line: int
    column: int


class Entry(msgspec.Struct, frozen=True):
    """One key of a mapping and its value."""

    key: Scalar
    value: Node


class Mapping(msgspec.Struct, frozen=True):
    """A mapping; keys are strings as they are written."""

    entries: dict[str, Entry]
    line: int
    column: int


Node: TypeAlias = Scalar | Sequence | Mapping


class SourceError(Exception):
    """The text cannot be read any further."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


def read(text: bytes, filename: str, problems: Problems) -> Node | None:
    """Reads the text of a workflow file.

    Args:
        text: UTF-8 YAML or JSON.
        filename: Its name; `.json` must be JSON, anything else is YAML (of which JSON is a part).
        problems: Receives what is wrong.

    Returns:
        The root, or `None` when the text cannot be read; then a problem says why.
    """
    from flowyard.workflows import json_source, yaml_source  # noqa: PLC0415

    try:
        decoded = _decode(text)
        if filename.lower().endswith(".json") or json_source.is_json(decoded):
            return json_source.compose(decoded, problems)
        return yaml_source.compose(decoded, problems)
    except SourceError as error:
        problems.error(error.message, error if error.line else None)
        return None


def _decode(text: bytes) -> str:
    if len(text) > LIMIT_BYTES:
        raise SourceError(f"the file is larger than {LIMIT_BYTES} bytes")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        before = text[text.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")
        raise SourceError(f"the file is not UTF-8: byte {text[error.start]:#04x}", line, len(before) + 1) from None
    if not decoded.strip():
        raise SourceError("the file is empty")
    return decoded


def add_entry(entries: dict[str, Entry], key: Node, value: Node, problems: Problems) -> None:
    """Adds a key to a mapping that is being read; a duplicate is a problem.

    Args:
        entries: The mapping's entries so far.
        key: The key; only scalars can be one.
        value: Its value.
        problems: Receives what is wrong.
    """
    if not isinstance(key, Scalar) or key.value is None:
        problems.error("a key must be a string", key)
    elif key.text in entries:
        first = entries[key.text].key
        problems.error(f'duplicate key "{key.text}", first at line {first.line}', key, name=key.text)
    else:
        entries[key.text] = Entry(key, value)


_CONSTANTS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def plain_scalar(text: str) -> str | int | float | bool | None:
    """What a scalar without quotes means.

    Args:
        text: As written.

    Returns:
        The value.

    Raises:
        ValueError: An integer that does not fit 64 bits.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return checked_integer(text)
    if _FLOAT.fullmatch(text):
        return float(re.sub(r"\.(?=[in])", "", text.lower()))
    return text


def checked_integer(text: str) -> int:
    """A whole number, decimal or with `0o` or `0x` before it, when it fits 64 bits.

    Raises:
        ValueError: It does not.
    """
    # No number of 64 bits is longer, but for leading zeros; Python refuses to read some of those that are.
    number = int(text, 0 if text[:2] in ("0o", "0x") else 10) if len(text) < LIMIT_DIGITS else 1 << 64
    if not -(2**63) <= number < 2**64:
        raise ValueError("a whole number that does not fit 64 bits")
    return number


def to_value(node: Node) -> Any:
    """The plain value of a node: what `{value: ...}` stands for.

    Args:
        node: Any node.

    Returns:
        Scalars, lists and dicts.
    """
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [to_value(item) for item in node.items]
    return {key: to_value(entry.value) for key, entry in node.entries.items()}


def kind_of(node: Node) -> str:
    """What a node is, in the words of a message: `a list`, `a number`."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a mapping"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "a boolean"
    return "a string" if isinstance(node.value, str) else "a number"
