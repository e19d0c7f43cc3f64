"""Finds the nodes of a plan that may be computed in one call: in a worker of the workflow's functions, or of one of its models.

What a run gives does not depend on it: nodes are fused that do nothing but call a function or one of the models named by the
caller, or make an ensemble, that every run needs, and that all have their inputs at the same moment. Then nothing waits longer
for being fused but for the nodes computed before it in the same call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import partial

import msgspec

from flowyard.schemas.ensemble import combine
from flowyard.workflows.plan import BUILT_IN, CALL, FROM_STEP, Callee, Operand, Plan, Step

#: One call alone gains nothing.
LEAST_CALLS = 2


class Fused(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of a plan that one call computes.

    Attributes:
        host: Local name of the model whose worker computes them, empty for a worker of the functions.
        steps: Their numbers, inputs before those who use them.
        args: For each, where its arguments come from: the place in `steps` of the one that gives it, or -1, -2 … for the first,
            second … of `operands`.
        operands: What the call brings along, from outside.
        given: Places in `steps` of those whose results are used outside, in order.
    """

    host: str
    steps: tuple[int, ...]
    args: tuple[tuple[int, ...], ...]
    operands: tuple[Operand, ...]
    given: tuple[int, ...]


def fuse(plan: Plan, models: Collection[str]) -> Fused | None:
    """Finds the steps of a plan that are worth fusing.

    Args:
        plan: The plan.
        models: Local names of the models that may be computed in other workers than their own.

    Returns:
        The largest set of such steps; `None` where there is none.
    """
    if plan.spelling != "native" or plan.pass_errors:
        return None
    groups = _groups(plan, models)
    worth = [group for group in groups if sum(plan.steps[at].kind == CALL for at in group) >= LEAST_CALLS]
    return _wired(plan, max(worth, key=len)) if worth else None


def _groups(plan: Plan, models: Collection[str]) -> list[list[int]]:
    """Candidates that have their inputs at the same moment: when the same steps that are no candidates are done."""
    certain = _certain(plan)
    waits: dict[int, frozenset[int]] = {}
    groups: defaultdict[frozenset[int], list[int]] = defaultdict(list)
    for at, step in enumerate(plan.steps):
        if at in certain and _is_candidate(plan, at, models):
            waits[at] = frozenset(dep for operand in step.args for dep in _awaited(operand, waits))
            groups[waits[at]].append(at)
    return list(groups.values())


def _awaited(operand: Operand, waits: dict[int, frozenset[int]]) -> frozenset[int]:
    """The steps that have to be done before a value can be computed by candidates alone."""
    kind, target, path = operand
    if kind != FROM_STEP:
        return frozenset()
    # A path into a value is followed in the server.
    return waits[target] if target in waits and path is None else frozenset((target,))


def _certain(plan: Plan) -> set[int]:
    """The steps that are wanted as soon as a run begins, whatever its values are."""
    certain: set[int] = set()
    left = [plan.out]
    while left:
        at = left.pop()
        if at not in certain:
            certain.add(at)
            step = plan.steps[at]
            left += step.deps if step.guard is None else step.guard.deps
    return certain


def _is_candidate(plan: Plan, at: int, models: Collection[str]) -> bool:
    step = plan.steps[at]
    if not all(_lets_be(parent) for parent in _parents(plan, step)):
        return False
    if step.kind == BUILT_IN:
        return _lets_be(step) and ensemble_of(step) is not None
    if not is_plain_call(step):
        return False
    return _calls_function(step) or (step.callees[0].kind == "model" and step.callees[0].name in models)


def ensemble_of(step: Step) -> tuple[str, tuple[float, ...] | None] | None:
    """Method and weights of an ensemble; `None` where a step is none."""
    function = step.callees[0].function if step.kind == BUILT_IN else None
    if not isinstance(function, partial) or function.func is not combine:
        return None
    method, weights = function.args
    return method, None if weights is None else tuple(weights)


def _calls_function(step: Step) -> bool:
    return step.callees[0].kind == "function"


def _parents(plan: Plan, step: Step) -> Iterator[Step]:
    """The calls that a call is nested in."""
    while step.parent >= 0:
        step = plan.steps[step.parent]
        yield step


def _lets_be(parent: Step) -> bool:
    """Whether a call that others are nested in has nothing that may end or replace them."""
    return parent.guard is None and parent.otherwise is None and parent.fallback is None and parent.timeout_s is None


def is_plain_call(step: Step) -> bool:
    """Whether all that a node does is to make one call, whose result is the node's."""
    return step.kind == CALL and _lets_be(step) and step.retries == 0 and step.cache is None


def _wired(plan: Plan, group: list[int]) -> Fused:
    places = {step: place for place, step in enumerate(group)}
    operands: list[Operand] = []

    def source(operand: Operand) -> int:
        kind, target, _ = operand
        if kind == FROM_STEP and target in places:
            return places[target]
        if operand not in operands:
            operands.append(operand)
        return -1 - operands.index(operand)

    args = tuple(tuple(source(operand) for operand in plan.steps[at].args) for at in group)
    used = {plan.out}
    for at, step in enumerate(plan.steps):
        if at not in places:
            used.update(target for kind, target, _ in _operands(step) if kind == FROM_STEP)
    given = tuple(place for step, place in places.items() if step in used)
    callees = [plan.steps[at].callees[0] for at in group]
    host = "" if any(callee.kind == "function" for callee in callees) else _first_model(callees)
    return Fused(host=host, steps=tuple(group), args=args, operands=tuple(operands), given=given)


def _first_model(callees: list[Callee]) -> str:
    return next(callee.name for callee in callees if callee.kind == "model")


def _operands(step: Step) -> Iterator[Operand]:
    """Everything that a step may take a value from."""
    yield from step.args
    yield from step.branches.values()
    yield from (operand for operand in (step.otherwise, step.fallback) if operand is not None)
    if step.guard is not None:
        yield from (operand for _, operand in step.guard.names)
