"""The parsed expressions of a workflow, each with its place in the file."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from flowyard.workflows.problems import Problems
from flowyard.workflows.references import split_registered
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


class Record(msgspec.Struct, frozen=True):
    """Several values as one mapping; only TorchServe's spelling makes these."""

    fields: dict[str, Expression]
    line: int
    column: int


class Call(msgspec.Struct, frozen=True):
    """A callee and its arguments.

    Attributes:
        callee: Name of a model, function or built-in; `name[:version]` of a registered workflow.
        args: The arguments.
        is_workflow: Whether it was written as `{workflow: name[:version]}`.
    """

    callee: str
    args: tuple[Expression, ...]
    line: int
    column: int
    is_workflow: bool = False


class Unreadable(msgspec.Struct, frozen=True):
    """Stands for an expression about which a problem has been noted already."""

    line: int
    column: int


Expression: TypeAlias = Reference | Literal | Branches | Record | Call | Unreadable


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
    if isinstance(callee, Mapping) and "workflow" in callee.entries:
        reference = read_workflow_callee(callee, problems)
        if reference is not None:
            return Call(reference, args, callee.line, callee.column, is_workflow=True)
    else:
        problems.error(f"a callee must be the name of a model or function, not {kind_of(callee)}", callee)
    return Unreadable(node.line, node.column)


def read_workflow_callee(node: Mapping, problems: Problems) -> str | None:
    """Reads `{workflow: name[:version]}`.

    Args:
        node: A mapping with the key `workflow`.
        problems: Receives what is wrong.

    Returns:
        `name[:version]`, or `None` with a problem noted.
    """
    for key, entry in node.entries.items():
        if key != "workflow":
            problems.error(f"unknown key `{key}` next to `workflow`", entry.key, name=key)
    reference = node.entries["workflow"].value
    if isinstance(reference, Scalar) and split_registered(reference.text) is not None:
        return reference.text
    problems.error("`workflow` must be the name of a registered workflow: name[:version]", reference, name="workflow")
    return None


def _parse_mapping(node: Mapping, problems: Problems) -> Expression:
    if set(node.entries) == {"value"}:
        return Literal(to_value(node.entries["value"].value), node.line, node.column)
    branches = {key: parse(entry.value, problems) for key, entry in node.entries.items()}
    return Branches(branches, node.line, node.column)
