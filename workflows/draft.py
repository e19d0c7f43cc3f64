"""Steps while a plan is being made: operands name nodes, or hold the draft of a nested call, instead of an index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from flowyard.workflows.paths import Path
from flowyard.workflows.plan import FROM_STEP, CachePolicy, Callee, Guard, Operand, Step
from flowyard.workflows.problems import Place


class Draft:
    """One step to be; the attributes are those of `Step`."""

    def __init__(self, name: str, kind: int, parent: Draft | None, at: Place) -> None:
        self.name = name
        self.line, self.column = at.line, at.column
        self.kind = kind
        self.parent = parent
        self.callees: tuple[Callee, ...] = ()
        self.args: list[Operand] = []
        self.condition: Path | None = None
        self.condition_names: list[tuple[str, Operand]] = []
        self.otherwise: Operand | None = None
        self.fallback: Operand | None = None
        self.branches: dict[str, Operand] = {}
        self.timeout_s: float | None = None
        self.retries = 0
        self.cache: CachePolicy | None = None

    def operands(self) -> Iterator[Operand]:
        """Everything the step may take a value from, conditional or not."""
        yield from self.args
        yield from (operand for _, operand in self.condition_names)
        yield from self.branches.values()
        yield from (operand for operand in (self.otherwise, self.fallback) if operand is not None)

    def nested(self) -> Iterator[Draft]:
        """The calls written inside this one."""
        return (operand[1] for operand in self.operands() if isinstance(operand[1], Draft))

    def with_nested(self) -> Iterator[Draft]:
        """Every call inside this one at any depth, inner ones first, and itself last."""
        for draft in self.nested():
            yield from draft.with_nested()
        yield self

    def node_names(self) -> set[str]:
        """Names of the nodes that this one, or a call inside it, takes a value from."""
        every = (operand for draft in self.with_nested() for operand in draft.operands())
        return {operand[1] for operand in every if operand[0] == FROM_STEP and isinstance(operand[1], str)}


Index: TypeAlias = dict[int, int]


def finish(nodes: list[Draft]) -> tuple[Step, ...]:
    """Turns drafts into steps.

    Args:
        nodes: The nodes that are needed, each after those it takes a value from.

    Returns:
        Steps with indices; nested calls come before the call they are in.
    """
    drafts = [draft for node in nodes for draft in node.with_nested()]
    index = {id(draft): at for at, draft in enumerate(drafts)}
    by_name = {node.name: index[id(node)] for node in nodes}
    return tuple(_Finisher(index, by_name).step(draft) for draft in drafts)


class _Finisher:
    def __init__(self, index: Index, by_name: dict[str, int]) -> None:
        self._index = index
        self._by_name = by_name

    def step(self, draft: Draft) -> Step:
        args = tuple(self._operand(operand) for operand in draft.args)
        return Step(
            name=draft.name,
            kind=draft.kind,
            callees=draft.callees,
            args=args,
            deps=_deps(args),
            guard=self._guard(draft),
            otherwise=self._optional(draft.otherwise),
            fallback=self._optional(draft.fallback),
            branches={name: self._operand(operand) for name, operand in draft.branches.items()},
            timeout_s=draft.timeout_s,
            retries=draft.retries,
            cache=draft.cache,
            parent=-1 if draft.parent is None else self._index[id(draft.parent)],
            line=draft.line,
            column=draft.column,
            children=tuple(self._index[id(child)] for child in draft.nested()),
        )

    def _guard(self, draft: Draft) -> Guard | None:
        if draft.condition is None:
            return None
        names = tuple((name, self._operand(operand)) for name, operand in draft.condition_names)
        return Guard(draft.condition, names, _deps(tuple(operand for _, operand in names)))

    def _optional(self, operand: Operand | None) -> Operand | None:
        return None if operand is None else self._operand(operand)

    def _operand(self, operand: Operand) -> Operand:
        kind, target, path = operand
        if kind != FROM_STEP:
            return operand
        return kind, self._index[id(target)] if isinstance(target, Draft) else self._by_name[target], path


def _deps(operands: tuple[Operand, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(operand[1] for operand in operands if operand[0] == FROM_STEP))
