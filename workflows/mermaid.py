"""Draws a workflow as a Mermaid flowchart."""

from __future__ import annotations

from flowyard.workflows.plan import FROM_HEADER, FROM_QUERY, FROM_REQUEST, FROM_STEP, Operand, Plan, Step


def to_mermaid(plan: Plan) -> str:
    """Draws the steps that `out` needs.

    Args:
        plan: The workflow.

    Returns:
        Text of a flowchart, from the request on the left to the answer on the right. What is computed only under a
        condition hangs on dotted arrows.
    """
    lines = ["flowchart LR", "  in([in])"]
    lines += [f"  s{at}{_box(step, at == plan.out)}" for at, step in enumerate(plan.steps)]
    for at, step in enumerate(plan.steps):
        arrows = [_arrow(operand, at, "-->") for operand in step.args] + [
            _arrow(operand, at, "-.->") for operand in _perhaps(step)
        ]
        lines += list(dict.fromkeys(arrow for arrow in arrows if arrow))
    return "\n".join(lines) + "\n"


def _box(step: Step, is_out: bool) -> str:
    callees = ", ".join(callee.name for callee in step.callees)
    label = _escaped(f"{step.name}: {callees}" if callees else step.name)
    return f'(["{label}"])' if is_out else f'["{label}"]'


def _escaped(text: str) -> str:
    """Mermaid takes characters with a meaning of their own as numbers."""
    return "".join(char if char.isalnum() or char in " _-.,:" else f"#{ord(char)};" for char in text)


def _perhaps(step: Step) -> list[Operand]:
    guard = [operand for _, operand in step.guard.names] if step.guard is not None else []
    others = [operand for operand in (step.otherwise, step.fallback) if operand is not None]
    return [*guard, *step.branches.values(), *others]


def _arrow(operand: Operand, to: int, style: str) -> str:
    if operand[0] == FROM_STEP:
        return f"  s{operand[1]} {style} s{to}"
    return f"  in {style} s{to}" if operand[0] in (FROM_REQUEST, FROM_HEADER, FROM_QUERY) else ""
