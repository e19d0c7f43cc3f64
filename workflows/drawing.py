"""Draws a workflow, as a Mermaid flowchart or in Graphviz's language DOT.

Both show the steps that `out` needs, from the request on the left to the answer on the right. What is computed only under a
condition hangs on dotted arrows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from flowyard.workflows.plan import FROM_HEADER, FROM_QUERY, FROM_REQUEST, FROM_STEP, Operand, Plan, Step


class _Arrow(NamedTuple):
    """From a box to another; `in` is the request."""

    source: str
    target: str
    is_certain: bool


def to_mermaid(plan: Plan) -> str:
    """Draws a workflow as Mermaid.

    Args:
        plan: The workflow.

    Returns:
        Text of a flowchart.
    """
    lines = ["flowchart LR", "  in([in])"]
    for at, step in enumerate(plan.steps):
        label = _for_mermaid(_label(step))
        lines.append(f'  s{at}(["{label}"])' if at == plan.out else f'  s{at}["{label}"]')
    lines += [f"  {arrow.source} {'-->' if arrow.is_certain else '-.->'} {arrow.target}" for arrow in _arrows(plan)]
    return "\n".join(lines) + "\n"


def to_dot(plan: Plan) -> str:
    """Draws a workflow in DOT.

    Args:
        plan: The workflow.

    Returns:
        Text of a directed graph.
    """
    lines = [
        f"digraph {_for_dot(plan.name)} {{",
        "  rankdir=LR;",
        "  node [shape=box, style=rounded];",
        '  in [label="in", shape=oval];',
    ]
    for at, step in enumerate(plan.steps):
        shape = ", shape=oval" if at == plan.out else ""
        lines.append(f"  s{at} [label={_for_dot(_label(step))}{shape}];")
    lines += [f"  {arrow.source} -> {arrow.target}{'' if arrow.is_certain else ' [style=dashed]'};" for arrow in _arrows(plan)]
    return "\n".join([*lines, "}"]) + "\n"


def _label(step: Step) -> str:
    callees = ", ".join(callee.name for callee in step.callees)
    return f"{step.name}: {callees}" if callees else step.name


def _for_mermaid(text: str) -> str:
    """Mermaid takes characters with a meaning of their own as numbers."""
    return "".join(char if char.isalnum() or char in " _-.,:" else f"#{ord(char)};" for char in text)


def _for_dot(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _arrows(plan: Plan) -> list[_Arrow]:
    """Every arrow once."""
    found: dict[_Arrow, None] = {}
    for at, step in enumerate(plan.steps):
        for operand, is_certain in _operands(step):
            source = _source(operand)
            if source:
                found[_Arrow(source, f"s{at}", is_certain)] = None
    return list(found)


def _operands(step: Step) -> Iterator[tuple[Operand, bool]]:
    yield from ((operand, True) for operand in step.args)
    guard = [operand for _, operand in step.guard.names] if step.guard is not None else []
    others = [operand for operand in (step.otherwise, step.fallback) if operand is not None]
    yield from ((operand, False) for operand in (*guard, *step.branches.values(), *others))


def _source(operand: Operand) -> str:
    if operand[0] == FROM_STEP:
        return f"s{operand[1]}"
    return "in" if operand[0] in (FROM_REQUEST, FROM_HEADER, FROM_QUERY) else ""
