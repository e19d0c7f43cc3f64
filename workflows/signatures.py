"""Compares what models give and take along the edges of a plan, once their signatures are known.

Only what cannot fit on any request is a problem: the rules are those by which the inputs of a tensor model are converted. Numbers
may change their dtype where only precision is lost, and a value one dimension short of the signature counts as one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec
import numpy as np

from flowyard.schemas.errors import Problem
from flowyard.schemas.tensors import DTYPES, Signature, TensorSpec
from flowyard.workflows.plan import CALL, FROM_LITERAL, FROM_REQUEST, FROM_STEP, HAND_ON, Operand, Plan, Step
from flowyard.workflows.problems import Problems

Shape: TypeAlias = tuple[int, ...]
#: An input mapping with one of these keys is unwrapped, so its other names say nothing.
_WRAPPERS = frozenset({"inputs", "instances", "data"})


def check_signatures(plan: Plan, signatures: Mapping[str, Signature]) -> tuple[Problem, ...]:
    """Finds models that are fed directly what they cannot take. `id` and bare references in between change nothing.

    Args:
        plan: The workflow.
        signatures: What is known of its models, by local name; for the others, what the file declares counts.

    Returns:
        One problem per input, at the place of the node that takes it; it names both nodes.
    """
    problems = Problems(plan.file)
    note_misfits(plan, signatures, problems)
    return problems.all()


def note_misfits(plan: Plan, signatures: Mapping[str, Signature], problems: Problems) -> None:
    """Does what `check_signatures` does, among other problems of the same file.

    Args:
        plan: The workflow.
        signatures: What is known of its models, by local name.
        problems: Receives what cannot fit.
    """
    for step in plan.steps:
        if _is_model(step):
            _Edges(plan, signatures, problems).check(step)


def signature_of(plan: Plan, signatures: Mapping[str, Signature]) -> Signature:
    """What a whole workflow takes and gives, as far as its models say it.

    Args:
        plan: The workflow.
        signatures: What is known of its models, by local name; for the others, what the file declares counts.

    Returns:
        Inputs that models take from the request itself, named as in the request where they are a part of it; the outputs of the
        model that gives the answer, if one does. Either is empty where a function or a choice stands between.
    """
    edges = _Edges(plan, signatures, Problems(plan.file))
    inputs: dict[str, TensorSpec] = {}
    for step in plan.steps:
        if _is_model(step):
            for name, wanted in edges.asked_of_request(step):
                inputs.setdefault(name, wanted)
    out: Operand = (FROM_STEP, plan.out, None)
    return Signature(inputs=tuple(inputs.values()), outputs=edges.outputs_of(out))


def _is_model(step: Step) -> bool:
    return step.kind == CALL and step.callees[0].kind == "model"


def _hands_on(step: Step) -> bool:
    return step.kind == HAND_ON and step.guard is None and step.fallback is None


class _Given(msgspec.Struct, frozen=True):
    """The outputs that an operand stands for, and the step they are of."""

    step: Step
    outputs: tuple[TensorSpec, ...]


class _Edges:
    def __init__(self, plan: Plan, signatures: Mapping[str, Signature], problems: Problems) -> None:
        self._plan = plan
        self._signatures = signatures
        self._problems = problems

    def check(self, step: Step) -> None:
        """Compares the arguments of one call of a model with its inputs."""
        inputs = self._signature(step).inputs
        given = [self._given(operand, step) for operand in step.args]
        if len(given) == 1 and given[0] is not None and len(given[0].outputs) > 1 and inputs:
            self._check_by_name(step, given[0], inputs)
        elif len(given) == len(inputs):
            for one, wanted in zip(given, inputs, strict=True):
                if one is not None and len(one.outputs) == 1:
                    self._compare(step, one.step, one.outputs[0], wanted)

    def asked_of_request(self, step: Step) -> Iterator[tuple[str, TensorSpec]]:
        """The inputs of one call of a model that are the request, or a part of it with a name."""
        inputs = self._signature(step).inputs
        operands = [self._origin(operand) for operand in step.args]
        if operands == [(FROM_REQUEST, 0, None)]:
            yield from ((wanted.name, wanted) for wanted in inputs)
        elif len(operands) == len(inputs):
            for (kind, _, path), wanted in zip(operands, inputs, strict=True):
                if kind == FROM_REQUEST and path is not None and path["type"] == "field":
                    yield path["value"], msgspec.structs.replace(wanted, name=path["value"])

    def outputs_of(self, operand: Operand) -> tuple[TensorSpec, ...]:
        """What is known of a value: the outputs of the model that gives it, or one of them."""
        kind, target, path = self._origin(operand)
        step = self._plan.steps[target] if kind == FROM_STEP else None
        if step is None or not _is_model(step) or step.guard is not None or step.fallback is not None:
            return ()
        outputs = self._signature(step).outputs
        if path is None:
            return outputs
        return tuple(output for output in outputs if path["type"] == "field" and output.name == path["value"])

    def _origin(self, operand: Operand) -> Operand:
        """Where a value comes from, behind `id` and bare references; two paths one after the other lead nowhere."""
        kind, target, path = operand
        while kind == FROM_STEP and _hands_on(self._plan.steps[target]):
            kind, target, inner = self._plan.steps[target].args[0]
            if path is not None and inner is not None:
                return FROM_LITERAL, None, None
            path = path or inner
        return kind, target, path

    def _signature(self, step: Step) -> Signature:
        name = step.callees[0].name
        if name in self._signatures:
            return self._signatures[name]
        spec = self._plan.models.get(name)
        return Signature() if spec is None else Signature(inputs=spec.inputs, outputs=spec.outputs)

    def _given(self, operand: Operand, taker: Step) -> _Given | None:
        """What a model gives through an operand; `None` when that is not known before it runs."""
        kind, target, path = self._origin(operand)
        if kind != FROM_STEP or not _is_model(self._plan.steps[target]):
            return None
        step = self._plan.steps[target]
        outputs = self._signature(step).outputs
        if path is None:
            return _Given(step, outputs)
        return self._part(step, outputs, path["value"], taker) if path["type"] == "field" and len(outputs) > 1 else None

    def _part(self, step: Step, outputs: tuple[TensorSpec, ...], name: str, taker: Step) -> _Given | None:
        found = tuple(output for output in outputs if output.name == name)
        if not found:
            nearest = self._problems.nearest(name, [output.name for output in outputs])
            message = f'node "{taker.name}": node "{step.name}", {_model(step)}, has no output "{name}"'
            self._problems.error(message, taker, name=name, nearest=nearest)
            return None
        return _Given(step, found)

    def _check_by_name(self, step: Step, given: _Given, inputs: tuple[TensorSpec, ...]) -> None:
        """Several outputs arrive as one mapping, which must have exactly the inputs' names."""
        wanted = {one.name: one for one in inputs}
        outputs = {one.name: one for one in given.outputs}
        if not wanted.keys() & outputs.keys() and _WRAPPERS & outputs.keys():
            return
        if wanted.keys() != outputs.keys():
            takes, gives = (", ".join(f'"{name}"' for name in names) for names in (wanted, outputs))
            message = f'node "{step.name}": {_model(step)} takes {takes}, and node "{given.step.name}", '
            self._problems.error(f"{message}{_model(given.step)}, gives {gives}", step, name=step.name)
        for name in wanted.keys() & outputs.keys():
            self._compare(step, given.step, outputs[name], wanted[name])

    def _compare(self, step: Step, giver: Step, output: TensorSpec, wanted: TensorSpec) -> None:
        if _fits_dtype(output.dtype, wanted.dtype) and _fits_shape(output.shape, wanted.shape):
            return
        message = f'node "{step.name}": {_model(step)} takes {wanted}, and node "{giver.name}", {_model(giver)}, gives {output}'
        self._problems.error(message, step, name=step.name)


def _model(step: Step) -> str:
    return f'model "{step.callees[0].name}"'


def _fits_dtype(given: str, wanted: str) -> bool:
    if not {given, wanted} <= DTYPES or given == wanted:
        return True
    if "string" in (given, wanted):
        return False
    have, want = np.dtype(given), np.dtype(wanted)
    if want.kind in "fc":
        return (have.kind, want.kind) != ("c", "f")
    return np.can_cast(have, want, "safe") or (have.kind in "iu" and want.kind in "iu")


def _fits_shape(given: Shape | None, wanted: Shape | None) -> bool:
    if given is None or wanted is None or abs(len(given) - len(wanted)) > 1:
        return given is None or wanted is None
    if len(given) > len(wanted):
        return given[0] in (-1, 1) and _fits_axes(given[1:], wanted)
    if len(given) < len(wanted):
        return wanted[0] in (-1, 1) and _fits_axes(given, wanted[1:])
    return _fits_axes(given, wanted)


def _fits_axes(given: Shape, wanted: Shape) -> bool:
    return all(-1 in pair or pair[0] == pair[1] for pair in zip(given, wanted, strict=True))
