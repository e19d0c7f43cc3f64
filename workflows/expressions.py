"""The parsed expressions of a workflow, each with its place in the file."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from flowyard.workflows.problems import Problems
from flowyard.workflows.source import Mapping, Node, Scalar, Sequence, kind_of, to_value


class Reference(msgspec.Struct, frozen=True):
    """A node, `in`, or a path into one."""

    text: str
    line: int
    column: int


class Literal(msgspec.Struct, frozen=True):
    """A value written in the file."""

    value: Any
    line: int
    column: int


class Branches(msgspec.Struct, frozen=True):
    """The alternatives of a `switch`."""

    branches: dict[str, Expression]
    line: int
    column: int


class Call(msgspec.Struct, frozen=True):
    """A callee and its arguments."""

    callee: str
    args: tuple[Expression, ...]
    line: int
    column: int


class Unreadable(msgspec.Struct, frozen=True):
    """Stands for an expression about which a problem has been noted already."""

    line: int
    column: int


Expression: TypeAlias = Reference | Literal | Branches | Call | Unreadable


def parse(node: Node, problems: Problems) -> Expression:
    """Reads an expression.

    Args:
        node: What stands in the file.
        problems: Receives what is wrong.

    Returns:
        The expression; `Unreadable` with a problem noted when it is none.
    """
    if isinstance(node, Sequence):
        return _parse_call(node, problems)
    if isinstance(node, Mapping):
        return _parse_mapping(node, problems)
    if isinstance(node.value, str):
        return Reference(node.value, node.line, node.column)
    return Literal(node.value, node.line, node.column)


def _parse_call(node: Sequence, problems: Problems) -> Expression:
    if not node.items:
        problems.error("an empty call; write [callee, argument, ...]", node)
        return Unreadable(node.line, node.column)
    callee = node.items[0]
    args = tuple(parse(item, problems) for item in node.items[1:])
    if isinstance(callee, Scalar) and isinstance(callee.value, str):
        return Call(callee.value, args, callee.line, callee.column)
    _refuse_callee(callee, problems)
    return Unreadable(node.line, node.column)


def _refuse_callee(callee: Node, problems: Problems) -> None:
    if isinstance(callee, Mapping) and "workflow" in callee.entries:
        problems.error("a workflow as callee is not supported by this version", callee, name="workflow")
        return
    problems.error(f"a callee must be the name of a model or function, not {kind_of(callee)}", callee)


def _parse_mapping(node: Mapping, problems: Problems) -> Expression:
    if set(node.entries) == {"value"}:
        return Literal(to_value(node.entries["value"].value), node.line, node.column)
    branches = {key: parse(entry.value, problems) for key, entry in node.entries.items()}
    return Branches(branches, node.line, node.column)
