"""What single steps of a run do: where their inputs come from, built-ins, the calls of a `map`, the names in errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flowyard.schemas.errors import FlowyardError, HandlerError, InvalidInputError, NodeError
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Value
from flowyard.workflows import paths
from flowyard.workflows.builtin import LIMIT_ITEMS, Adapted
from flowyard.workflows.plan import (
    APPLY,
    FROM_HEADER,
    FROM_LITERAL,
    FROM_REQUEST,
    FROM_STEP,
    BuiltIn,
    Callee,
    Operand,
    Step,
)
from flowyard.workflows.torchserve_rows import Collector


class Inputs:
    """The request and the values of the steps that are done.

    Attributes:
        values: One per step, `None` until it is done.
    """

    __slots__ = ("_headers", "_query", "_request", "values")

    def __init__(self, request: Payload, headers: Mapping[str, str], query: Mapping[str, str], steps: int) -> None:
        self._request = request
        self._headers = headers
        self._query = query
        self.values: list[Payload | None] = [None] * steps

    def payload(self, operand: Operand) -> Payload:
        """The value of an operand; it is decoded only for a path.

        Args:
            operand: Where it comes from; a step it names is done.

        Returns:
            The value.

        Raises:
            InvalidInputError: It cannot be decoded, or a function of the path does not take it.
        """
        kind, target, path = operand
        if kind == FROM_STEP:
            found = self.values[target]
            assert found is not None
        elif kind == FROM_REQUEST:
            found = self._request
        elif kind == FROM_LITERAL:
            found = target
        else:
            found = Payload.of(self._header(target) if kind == FROM_HEADER else self._query.get(target))
        return found if path is None else Payload.of(paths.search(path, found.value()))

    def _header(self, name: str) -> str | None:
        if name in self._headers:
            return self._headers[name]
        return next((value for key, value in self._headers.items() if key.lower() == name), None)


class Fan:
    """The calls of one `map` or `functionsApply`.

    Attributes:
        jobs: Callee and argument of each.
        results: Their results so far.
        left: How many are still running.
    """

    __slots__ = ("jobs", "left", "results")

    def __init__(self, jobs: list[tuple[Callee, Payload]]) -> None:
        self.jobs = jobs
        self.results: list[Value] = [None] * len(jobs)
        self.left = 0


def jobs_of(step: Step, arg: Payload) -> list[tuple[Callee, Payload]]:
    """The calls that a `map` or `functionsApply` makes.

    Args:
        step: The step.
        arg: What it is applied to.

    Returns:
        Callee and argument of each.

    Raises:
        InvalidInputError: Not a list, or over the limit.
    """
    if step.kind == APPLY:
        return [(callee, arg) for callee in step.callees]
    items = arg.value()
    if not isinstance(items, (list, tuple)) and not (isinstance(items, np.ndarray) and items.ndim):
        raise InvalidInputError(f"map takes a list, not {type(items).__name__}")
    if len(items) > LIMIT_ITEMS:
        raise InvalidInputError(f"map over {len(items)} items, the limit is {LIMIT_ITEMS}")
    return [(step.callees[0], Payload.of(item)) for item in items]


def call_built_in(function: BuiltIn, args: list[Payload]) -> Payload:
    """Calls a built-in; whatever numpy or Python do not like about the values is the caller's mistake."""
    try:
        if isinstance(function, Adapted):
            return function.mark(args[0])
        if isinstance(function, Collector):
            return function.collect(args)
        return Payload.of(function([arg.value() for arg in args]))
    except (TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise InvalidInputError(str(error) or type(error).__name__) from None


def branch_name(key: Value) -> str:
    """A switch's key as it is written in the file: `true`, `1`, `dog`."""
    if isinstance(key, bool):
        return "true" if key else "false"
    if key is None:
        return "null"
    if isinstance(key, float) and key.is_integer():
        return str(int(key))
    if isinstance(key, (str, int, float)):
        return str(key)
    raise InvalidInputError(f"switch takes a string, number, boolean or null as key, not {type(key).__name__}")


def named(error: FlowyardError, name: str) -> FlowyardError:
    """The same error, naming the node where its class calls for it."""
    if isinstance(error, HandlerError):
        error.node = error.node or name
        return error
    if isinstance(error, NodeError):
        return error if error.node else NodeError(f'node "{name}": {error.message}', node=name)
    if type(error) is InvalidInputError:
        return InvalidInputError(f'node "{name}": {error.message}')
    return error
