"""Reads single settings: texts, durations, whole numbers, and whatever type a `schemas` struct asks for."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

import msgspec

from flowyard.workflows.problems import Problems
from flowyard.workflows.source import Mapping, Node, Scalar, kind_of

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def text(node: Node, what: str, problems: Problems) -> str | None:
    """Reads a string; a number counts as it is written, so `version: 1.10` is `1.10`.

    Args:
        node: What stands in the file.
        what: The setting's name for the message.
        problems: Receives what is wrong.

    Returns:
        The string, or `None` with a problem noted.
    """
    if isinstance(node, Scalar) and node.value is not None and not isinstance(node.value, bool):
        return node.text
    problems.error(f"`{what}` must be a string, not {kind_of(node)}", node, name=what)
    return None


def seconds(node: Node, what: str, problems: Problems) -> float | None:
    """Reads a duration: `2s`, `300ms`, `1m`, `1h`, or a number of seconds.

    Args:
        node: What stands in the file.
        what: The setting's name for the message.
        problems: Receives what is wrong.

    Returns:
        Seconds, or `None` with a problem noted.
    """
    return _duration(node, what, "s", problems)


def milliseconds(node: Node, what: str, problems: Problems) -> float | None:
    """Reads a duration as `seconds` does, but a bare number counts milliseconds, and so does the result."""
    return _duration(node, what, "ms", problems)


def _duration(node: Node, what: str, unit: str, problems: Problems) -> float | None:
    value = node.value if isinstance(node, Scalar) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        problems.error(f"`{what}` must be a duration like 2s, 300ms or 1m", node, name=what)
        return None
    number = float(match[1])
    return number if match[2] == unit else number * _UNITS_S[match[2]] / _UNITS_S[unit]


def timeout(node: Node, what: str, problems: Problems) -> float | None:
    """Reads a duration in seconds that must be more than nothing and at most a day; arguments as for `seconds`."""
    found = seconds(node, what, problems)
    if found is not None and not 0 < found <= 86_400:
        problems.error(f"`{what}` must be more than 0 and at most a day", node, name=what)
        return None
    return found


def typed(value: Any, kind: Any, what: str, at: Node, problems: Problems) -> Any:
    """Checks a value against a type with its limits, as the `schemas` declare it.

    Args:
        value: The plain value.
        kind: The type to check it against.
        what: The setting's name for the message.
        at: Where it stands.
        problems: Receives what is wrong.

    Returns:
        The value, or `None` with a problem noted.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason = str(error).replace(" | null", "")
        problems.error(f"`{what}`: {reason[:1].lower()}{reason[1:]}", at, name=what)
        return None


def mapping(node: Node, what: str, problems: Problems) -> Mapping | None:
    """The node when it is a mapping, else `None` with a problem noted; nothing at all is an empty one."""
    if isinstance(node, Mapping):
        return node
    if isinstance(node, Scalar) and node.value is None:
        return Mapping({}, node.line, node.column)
    problems.error(f"`{what}` must be a mapping, not {kind_of(node)}", node, name=what)
    return None
