"""Fused nodes: functions, small models and ensembles of a workflow, computed in one call, node by node for a whole batch.

A value goes from node to node as it would between two workers: what one function does to it no other node sees.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from flowyard.engines.base import Call, LoadedModel, Outcome, Stream
from flowyard.engines.failures import log
from flowyard.engines.outcomes import encoded, outcomes_of
from flowyard.engines.stacks import Stack, TensorModel, run_stack, stack_of
from flowyard.schemas import values
from flowyard.schemas.ensemble import combine
from flowyard.schemas.errors import FlowyardError, InvalidInputError
from flowyard.schemas.frames import NodeTime, WireRefused, WireResult, WireSeveral
from flowyard.schemas.fusion import FUSED, LOAD_FUSED, FusedModel, FusedNode, Fusion
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Buffer, Encoded, Value

LoadModel: TypeAlias = Callable[[FusedModel], LoadedModel]
_Result: TypeAlias = Encoded | np.ndarray[Any, Any] | Stream
_NOTHING = Encoded(b"")
#: Results of a batch that are put into the frame without counting what each takes of it.
_SMALL_BYTES = 1 << 20


class Several:
    """What a call of fused nodes gives back: the results that are wanted outside, in order."""

    __slots__ = ("results",)

    def __init__(self, results: tuple[Encoded, ...]) -> None:
        self.results = results

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The buffers of all results."""
        return tuple([buffer for result in self.results for buffer in result.buffers])

    @property
    def tree_bytes(self) -> int:
        """Length of all trees."""
        return sum([len(result.tree) for result in self.results])


class _Column:
    """What a node has given, for each call: as results, as one array, or as both once both have been asked for."""

    __slots__ = ("_asked", "_results", "_stack")

    def __init__(self, results: list[_Result] | None = None, stack: Stack | None = None) -> None:
        self._results = results
        self._stack = stack
        self._asked = stack is not None

    @property
    def results(self) -> list[_Result]:
        """The result of each call."""
        if self._results is None:
            assert self._stack is not None
            self._results = list(self._stack.parts())
        return self._results

    @property
    def stack(self) -> Stack | None:
        """All of them, where they are arrays of one shape."""
        if not self._asked:
            self._asked = True
            self._stack = stack_of(self._results or ())
        return self._stack

    def small_trees(self) -> list[bytes] | None:
        """The binary form of each result, where they have come as one array and are small."""
        return None if self._stack is None else self._stack.small_trees()


class FusedNodes:
    """What a worker is for, the functions of a workflow or one model, which is called as ever; and the fused nodes.

    Args:
        own: The functions, or the model.
        fusion: The fused nodes.
        load: Loads a model of theirs.

    Attributes:
        times: What each fused node took in the last batch, empty where there were none.
    """

    def __init__(self, own: LoadedModel, fusion: Fusion, load: LoadModel) -> None:
        self.times: tuple[NodeTime, ...] = ()
        self._own = own
        self._fusion = fusion
        self._load = load
        self._models: dict[str, LoadedModel] | None = None
        #: By what nodes call them: those that run on many calls at once.
        self._tensor_models: dict[str, TensorModel] = {}
        self._refused = False
        self._used = Counter(source for node in fusion.nodes for source in node.args)

    @property
    def signature(self) -> Signature | None:
        """That of the worker's own model."""
        return self._own.signature

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch of usual calls and of calls of the fused nodes."""
        self.times = ()
        outcomes: list[Outcome] = [None] * len(batch)
        by_kind: dict[str, list[int]] = {}
        for place, call in enumerate(batch):
            by_kind.setdefault(call.callee if call.callee in (FUSED, LOAD_FUSED) else "", []).append(place)
        for kind, places in by_kind.items():
            for place, outcome in zip(places, self._computed(kind, [batch[place] for place in places]), strict=True):
                outcomes[place] = outcome
        return outcomes

    def _computed(self, kind: str, calls: list[Call]) -> Sequence[Outcome]:
        if not kind:
            return outcomes_of(self._own, calls)
        models = self._loaded()
        if models is None:
            return [WireRefused()] * len(calls)
        return [True] * len(calls) if kind == LOAD_FUSED else self._run(calls, models)

    def _loaded(self) -> dict[str, LoadedModel] | None:
        """The models, loaded when they are first asked for; `None` where one of them cannot be."""
        if self._models is None and not self._refused:
            try:
                self._models = {name: self._load(model) for name, model in self._fusion.models.items()}
                called = {node.callee: self._models.get(node.callee, self._own) for node in self._fusion.nodes}
                self._tensor_models = {name: model for name, model in called.items() if isinstance(model, TensorModel)}
            except Exception as error:  # noqa: BLE001 - the nodes are called one by one then, whatever it was
                log(error)
                self._refused = True
        return self._models

    def _run(self, calls: list[Call], models: dict[str, LoadedModel]) -> list[Outcome]:
        """Computes node after node, each for all calls that have not failed."""
        failed: dict[int, FlowyardError] = {}
        columns: list[_Column] = []
        times = []
        last = len(self._fusion.nodes) - 1
        for number, node in enumerate(self._fusion.nodes):
            began, cpu_began = time.monotonic(), time.thread_time()
            stack = None if failed else self._stack(node, columns)
            if stack is not None:
                columns.append(_Column(stack=stack))
            else:
                columns.append(self._one_by_one(number, calls, columns, models, failed, keep_streams=number == last))
            times.append(NodeTime(began, time.monotonic(), time.thread_time() - cpu_began))
        self.times = tuple(times)
        given = [columns[number] for number, node in enumerate(self._fusion.nodes) if node.given]
        if not failed:
            return _all_given(given)
        return [failed.get(at) or _given([column.results[at] for column in given]) for at in range(len(calls))]

    def _stack(self, node: FusedNode, columns: list[_Column]) -> Stack | None:
        """Computes a node for all calls at once, where they bring arrays of one shape; `None` where that is not so."""
        if node.kind == "function" or min(node.args, default=-1) < 0:
            return None
        stacks = [stack for stack in (columns[source].stack for source in node.args) if stack is not None]
        if len(stacks) != len(node.args):
            return None
        if node.kind == "ensemble":
            return _mean(node, stacks) if node.callee == "mean" else None
        model = self._tensor_models.get(node.callee)
        if model is None or len(stacks) != 1:
            return None
        try:
            output = run_stack(model, stacks[0])
        except Exception:  # noqa: BLE001 - the usual way finds out whose it is
            return None
        # Strings have a binary form that is not their memory.
        return output if output is not None and output.array.dtype.kind in values.PLAIN_KINDS else None

    def _one_by_one(
        self,
        number: int,
        calls: list[Call],
        columns: list[_Column],
        models: dict[str, LoadedModel],
        failed: dict[int, FlowyardError],
        *,
        keep_streams: bool,
    ) -> _Column:
        """Computes a node for each call that has not failed; those that do now are added to `failed`."""
        node = self._fusion.nodes[number]
        live = [at for at in range(len(calls)) if at not in failed] if failed else range(len(calls))
        callee = node.callee if node.kind == "function" else ""
        args = [self._arguments(source, node, calls, columns, live) for source in node.args]
        batch = [Call(callee, [column[place] for column in args], calls[at].context) for place, at in enumerate(live)]
        outcomes = self._outcomes(node, batch, models) if batch else ()
        results: list[_Result] = [_NOTHING] * len(calls)
        for at, outcome in zip(live, outcomes, strict=True):
            result = _result(outcome, keep_stream=keep_streams)
            if isinstance(result, FlowyardError):
                result.fused_node = number
                failed[at] = result
            else:
                results[at] = result
        return _Column(results)

    def _outcomes(self, node: FusedNode, batch: list[Call], models: dict[str, LoadedModel]) -> Sequence[Outcome]:
        if node.kind == "ensemble":
            weights = None if node.weights is None else list(node.weights)
            return [_combined(node.callee, weights, call.args) for call in batch]
        return outcomes_of(models.get(node.callee, self._own) if node.kind == "model" else self._own, batch)

    def _arguments(
        self, source: int, node: FusedNode, calls: list[Call], columns: list[_Column], live: Sequence[int]
    ) -> list[Value]:
        """One argument of a node, for each call."""
        if source >= 0:
            results = columns[source].results
            return [_own(results[at]) if node.kind == "function" else _shared(results[at]) for at in live]
        given = [calls[at].args[-1 - source] for at in live]
        # What came with a call is a copy already, for one node.
        return (
            given
            if node.kind != "function" or self._used[source] == 1
            else [values.decode(values.encode(one), own=True) for one in given]
        )

    def unload(self) -> None:
        """Drops everything."""
        for model in (self._models or {}).values():
            model.unload()
        self._models = None
        self._own.unload()


def _result(outcome: Outcome, *, keep_stream: bool) -> _Result | FlowyardError:
    """A result as it is kept for the nodes that take it: its binary form, or an array that would come out of that as it is."""
    if type(outcome) is np.ndarray and outcome.dtype.kind in values.PLAIN_KINDS and outcome.dtype.isnative:
        return outcome if outcome.flags.c_contiguous else np.ascontiguousarray(outcome).reshape(outcome.shape)
    if isinstance(outcome, Stream):
        if keep_stream:
            return outcome
        try:
            outcome = outcome.collect()
        except FlowyardError as error:
            return error
    return encoded(outcome)


def _mean(node: FusedNode, stacks: list[Stack]) -> Stack | None:
    """The mean, number by number, as it is of single arrays; `None` for others than floats of one dtype and shape."""
    first = stacks[0]
    if first.array.dtype.kind != "f":
        return None
    for stack in stacks:
        if stack.array.dtype != first.array.dtype or stack.array.shape != first.array.shape or stack.shape != first.shape:
            return None
    try:
        mean = combine("mean", None if node.weights is None else list(node.weights), [stack.array for stack in stacks])
    except InvalidInputError:
        return None
    return Stack(mean, first.rows, first.added) if isinstance(mean, np.ndarray) and mean.shape == first.array.shape else None


def _combined(method: str, weights: list[float] | None, args: list[Value]) -> Outcome:
    try:
        return combine(method, weights, args)
    except InvalidInputError as error:
        return error
    except (TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        return InvalidInputError(str(error) or type(error).__name__)


def _all_given(columns: list[_Column]) -> list[Outcome]:
    """What each call gives, where none has failed: in the form that goes into a frame, where that is had for all at once."""
    trees = [column.small_trees() for column in columns]
    if all(trees) and sum(len(one[0]) * len(one) for one in trees if one) <= _SMALL_BYTES:
        results = [[WireResult(tree) for tree in one] for one in trees if one]
        return [WireSeveral(several) for several in zip(*results, strict=True)]
    return [_given(results) for results in zip(*(column.results for column in columns), strict=True)]


def _given(results: Sequence[_Result]) -> Outcome:
    if len(results) == 1 and not isinstance(results[0], Encoded | np.ndarray):
        return results[0]
    return Several(tuple([_encoded(result) for result in results]))


def _encoded(result: _Result) -> Encoded:
    return result if isinstance(result, Encoded) else values.encode(result)


def _own(result: _Result) -> Value:
    """The value for a function, which may keep it."""
    return values.decode(_encoded(result), own=True)


def _shared(result: _Result) -> Value:
    """The value for a model or ensemble, which only reads it."""
    return values.decode(result) if isinstance(result, Encoded) else result
