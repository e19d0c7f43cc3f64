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
from flowyard.schemas import values
from flowyard.schemas.ensemble import combine
from flowyard.schemas.errors import FlowyardError, InvalidInputError
from flowyard.schemas.frames import NodeTime, WireRefused
from flowyard.schemas.fusion import FUSED, LOAD_FUSED, FusedModel, FusedNode, Fusion
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Buffer, Encoded, Value

LoadModel: TypeAlias = Callable[[FusedModel], LoadedModel]
_Result: TypeAlias = Encoded | np.ndarray[Any, Any] | Stream
_NOTHING = Encoded(b"")


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
            except Exception as error:  # noqa: BLE001 - the nodes are called one by one then, whatever it was
                log(error)
                self._refused = True
        return self._models

    def _run(self, calls: list[Call], models: dict[str, LoadedModel]) -> list[Outcome]:
        """Computes node after node, each for all calls that have not failed."""
        failed: dict[int, FlowyardError] = {}
        columns: list[list[_Result]] = []
        times = []
        last = len(self._fusion.nodes) - 1
        for number, node in enumerate(self._fusion.nodes):
            began, cpu_began = time.monotonic(), time.thread_time()
            live = [at for at in range(len(calls)) if at not in failed] if failed else range(len(calls))
            callee = node.callee if node.kind == "function" else ""
            args = [self._arguments(source, node, calls, columns, live) for source in node.args]
            batch = [Call(callee, [column[place] for column in args], calls[at].context) for place, at in enumerate(live)]
            outcomes = self._outcomes(node, batch, models) if batch else ()
            column: list[_Result] = [_NOTHING] * len(calls)
            for at, outcome in zip(live, outcomes, strict=True):
                result = _result(outcome, keep_stream=number == last)
                if isinstance(result, FlowyardError):
                    result.fused_node = number
                    failed[at] = result
                else:
                    column[at] = result
            columns.append(column)
            times.append(NodeTime(began, time.monotonic(), time.thread_time() - cpu_began))
        self.times = tuple(times)
        given = [columns[number] for number, node in enumerate(self._fusion.nodes) if node.given]
        return [failed.get(at) or _given([column[at] for column in given]) for at in range(len(calls))]

    def _outcomes(self, node: FusedNode, batch: list[Call], models: dict[str, LoadedModel]) -> Sequence[Outcome]:
        if node.kind == "ensemble":
            weights = None if node.weights is None else list(node.weights)
            joined = _joined(batch) if node.callee == "mean" else None
            if joined is not None:
                # Number by number, as it is without.
                mean, rows = combine("mean", weights, joined), len(joined[0]) // len(batch)
                return [mean[start : start + rows] for start in range(0, len(mean), rows)]
            return [_combined(node.callee, weights, call.args) for call in batch]
        return outcomes_of(models.get(node.callee, self._own) if node.kind == "model" else self._own, batch)

    def _arguments(
        self, source: int, node: FusedNode, calls: list[Call], columns: list[list[_Result]], live: Sequence[int]
    ) -> list[Value]:
        """One argument of a node, for each call."""
        if source >= 0:
            column = columns[source]
            return [_own(column[at]) if node.kind == "function" else _shared(column[at]) for at in live]
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


def _joined(batch: list[Call]) -> list[Value] | None:
    """The arguments of all calls one after the other, where all of them are tensors of floats, of one dtype and shape."""
    first = batch[0].args[0]
    if len(batch) == 1 or type(first) is not np.ndarray or first.dtype.kind != "f" or not first.shape or not first.shape[0]:
        return None
    dtype, shape = first.dtype, first.shape
    for call in batch:
        for arg in call.args:
            if type(arg) is not np.ndarray or arg.dtype != dtype or arg.shape != shape:
                return None
    return [np.concatenate(column) for column in zip(*(call.args for call in batch), strict=True)]


def _combined(method: str, weights: list[float] | None, args: list[Value]) -> Outcome:
    try:
        return combine(method, weights, args)
    except InvalidInputError as error:
        return error
    except (TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        return InvalidInputError(str(error) or type(error).__name__)


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
