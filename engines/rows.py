"""Batching of tensor calls: one run for the rows of many calls, and never a result that a call would not have got alone.

A model computes row by row when the first dimension of every output is that of its inputs. Some say so in their signature; of
the others it is found out, once, by comparing a run of one call with a run of several.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import msgspec
import numpy as np

from flowyard.engines.base import Call, Outcome
from flowyard.engines.inputs import FLOATS, Array, Prepared, floats, prepare
from flowyard.engines.json_numbers import JsonNumbers, JsonText
from flowyard.schemas.errors import FlowyardError, OutOfMemoryError
from flowyard.schemas.tensors import Signature, TensorSpec
from flowyard.schemas.values import Value

#: Inputs in signature order -> outputs by name, in the model's order.
Run: TypeAlias = Callable[[tuple[Array, ...]], Mapping[str, Value]]
#: What a run raised -> the error of the call.
Failure: TypeAlias = Callable[[Exception], FlowyardError]


_Ranks: TypeAlias = tuple[int, ...]


class _Job(msgspec.Struct, frozen=True, gc=False):
    place: int
    prepared: Prepared


class RowBatcher:
    """Runs the calls of a batch together where that cannot change their results, else one by one.

    Attributes:
        lone_input: The only input of the model, where all but the number of rows is fixed and rows may be joined.
    """

    def __init__(
        self, run: Run, failure: Failure, signature: Signature | None, *, row_wise: bool = False, max_rows: int | None = None
    ) -> None:
        """Starts without knowledge of the model beyond its signature.

        Args:
            run: Computes the model once. Arrays may be read-only and must not be written to.
            failure: Maps what `run` raises.
            signature: What the model takes, `None` when not even the number of inputs is known.
            row_wise: Whether it is certain that all outputs have as many rows as the inputs.
            max_rows: Most rows of a joined run, as calls bring batches of their own; one call with more runs alone.
        """
        self._run = run
        self._failure = failure
        self._inputs = signature.inputs if signature else None
        self._may_join = signature is None or not any(map(_has_fixed_rows, signature.inputs + signature.outputs))
        self._declared_row_wise = row_wise
        self._max_rows = max_rows
        self.lone_input = _lone_input(self._inputs) if self._may_join else None
        #: By the ranks of the inputs, as a model of undeclared rank may do different things to them: whether rows can be
        #: joined; absent while it is not known.
        self._row_wise: dict[_Ranks, bool] = {}

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch.

        Args:
            batch: The calls.

        Returns:
            One outcome per call, in order.
        """
        outcomes: list[Outcome] = [None] * len(batch)
        plain: list[_Job] = []
        groups: dict[Hashable, list[_Job]] = {}
        for index, call in enumerate(batch):
            if (quick := self._plain(call.args)) is not None:
                plain.append(_Job(index, quick))
                continue
            try:
                prepared = prepare([arg.value() if type(arg) is JsonText else arg for arg in call.args], self._inputs)
            except Exception as error:  # noqa: BLE001 - whatever one call brings, the others go on
                outcomes[index] = error if isinstance(error, FlowyardError) else self._failure(error)
            else:
                groups.setdefault(self._group_key(index, prepared), []).append(_Job(index, prepared))
        for jobs in (plain, *groups.values()) if plain else groups.values():
            for part in self._parts(jobs):
                for job, outcome in zip(part, self._group(part), strict=True):
                    outcomes[job.place] = outcome
        return outcomes

    def run_rows(self, array: Array) -> Array | None:
        """Runs the rows of several calls at once.

        Args:
            array: The rows, for the model's only input.

        Returns:
            The model's only output, a row for each; `None` where it has others, the rows are too many for one run, or it is not
            known that they can be joined.
        """
        if not self._row_wise.get((array.ndim,), self._declared_row_wise):
            return None
        if self._max_rows is not None and len(array) > self._max_rows:
            return None
        outputs = self._run((array,))
        output = next(iter(outputs.values())) if len(outputs) == 1 else None
        return output if isinstance(output, np.ndarray) and _rows(output) == len(array) else None

    def _parts(self, jobs: list[_Job]) -> list[list[_Job]]:
        """Divides calls so that no joined run gets more rows than the batch size allows."""
        limit = self._max_rows
        if limit is None or sum(job.prepared.rows or 1 for job in jobs) <= limit:
            return [jobs]
        parts: list[list[_Job]] = [[]]
        left = limit
        for job in jobs:
            rows = job.prepared.rows or 1
            if rows > left and parts[-1]:
                parts.append([])
                left = limit
            parts[-1].append(job)
            left -= rows
        return parts

    def _plain(self, args: list[Value]) -> Prepared | None:
        """A call that brings just what the model takes, an array or the numbers of one: all of these are of one shape."""
        wanted = self.lone_input
        if wanted is None or len(args) != 1:
            return None
        value, added = args[0], False
        if type(value) is list or type(value) is JsonText:
            read = wanted.numbers(value)
            if read is None:
                return None
            value, added = read
        elif type(value) is not np.ndarray or value.dtype != wanted.dtype:
            return None
        shape = value.shape
        if len(shape) != wanted.axes or shape[1:] != wanted.sizes or not shape[0]:
            return None
        return Prepared((value,), shape[0], added)

    def _group_key(self, index: int, prepared: Prepared) -> Hashable:
        if prepared.rows is None or not self._may_join:
            return index
        return tuple((array.dtype.str, array.shape[1:]) for array in prepared.arrays)

    def _group(self, jobs: list[_Job]) -> list[Outcome]:
        ranks = tuple(array.ndim for array in jobs[0].prepared.arrays)
        if len(jobs) == 1 or self._row_wise.get(ranks) is False:
            return [self._alone(job) for job in jobs]
        try:
            return self._together(jobs, ranks)
        except Exception as error:  # noqa: BLE001 - each call gets its own error when it runs alone
            outcomes = [self._alone(job) for job in jobs]
            self._learn_from(error, outcomes, ranks)
            return outcomes

    def _learn_from(self, error: Exception, outcomes: list[Outcome], ranks: _Ranks) -> None:
        """A model that fails on the rows of several calls, but on none of them alone, takes one call at a time."""
        known = isinstance(error, _NotRowWiseError)
        if known or any(isinstance(outcome, FlowyardError) for outcome in outcomes):
            return
        if not isinstance(self._failure(error), OutOfMemoryError):
            self._row_wise[ranks] = False

    def _alone(self, job: _Job) -> Outcome:
        try:
            outputs = self._run(job.prepared.arrays)
        except Exception as error:  # noqa: BLE001 - an outcome, not an end
            return self._failure(error)
        return _value(outputs, 0, None, added=job.prepared.added)

    def _together(self, jobs: list[_Job], ranks: _Ranks) -> list[Outcome]:
        counts = [cast("int", job.prepared.rows) for job in jobs]
        columns = zip(*(job.prepared.arrays for job in jobs), strict=True)
        joined = tuple(np.concatenate(column) for column in columns)
        if not self._row_wise.get(ranks, self._declared_row_wise):
            self._require_rows(self._run(jobs[0].prepared.arrays), counts[0], ranks)
        outputs = self._run(joined)
        self._require_rows(outputs, sum(counts), ranks)
        self._row_wise[ranks] = True
        stops = itertools.accumulate(counts)
        return [
            _value(outputs, stop - count, stop, added=job.prepared.added)
            for job, stop, count in zip(jobs, stops, counts, strict=True)
        ]

    def _require_rows(self, outputs: Mapping[str, Value], rows: int, ranks: _Ranks) -> None:
        if not all(_rows(output) == rows for output in outputs.values()):
            self._row_wise[ranks] = False
            raise _NotRowWiseError


class LoneInput(NamedTuple):
    """The only input of a model: its dtype, its sizes behind the rows, the number of its axes, and what reads JSON for it."""

    spec: TensorSpec
    dtype: np.dtype[Any]
    sizes: tuple[int, ...]
    axes: int
    json: JsonNumbers | None

    def numbers(self, value: list[Value] | JsonText) -> tuple[Array, bool] | None:
        """The array that nested lists are, or that they will be when somebody has parsed them; `None` for all but numbers."""
        if not isinstance(value, JsonText):
            return floats(value, self.spec)
        return self.json.read(value.text) if self.json is not None else None


def _lone_input(inputs: Sequence[TensorSpec] | None) -> LoneInput | None:
    """The only input of a model, where all but the number of rows is fixed."""
    if inputs is None or len(inputs) != 1:
        return None
    (spec,) = inputs
    if not spec.shape or spec.dtype in ("", "string") or any(size < 0 for size in spec.shape[1:]):
        return None
    reader = JsonNumbers(spec) if spec.dtype in FLOATS else None
    return LoneInput(spec, np.dtype(spec.dtype), spec.shape[1:], len(spec.shape), reader)


class _NotRowWiseError(Exception):
    """The outputs of a run cannot be split by rows."""


def _has_fixed_rows(spec: TensorSpec) -> bool:
    return spec.shape is not None and (not spec.shape or spec.shape[0] >= 0)


def _rows(output: Value) -> int | None:
    if isinstance(output, np.ndarray):
        return output.shape[0] if output.ndim else None
    return len(output) if isinstance(output, list) else None


def _value(outputs: Mapping[str, Value], start: int, stop: int | None, *, added: bool) -> Value:
    """One call's part of the outputs: the only one itself, several as a mapping by name."""
    if len(outputs) == 1:
        (output,) = outputs.values()
        return _part(output, start, stop, added=added)
    return {name: _part(output, start, stop, added=added) for name, output in outputs.items()}


def _part(output: Value, start: int, stop: int | None, *, added: bool) -> Value:
    part = output if stop is None else output[start:stop]
    if not added or _rows(part) != 1:
        return part
    return part[0, ...] if isinstance(part, np.ndarray) else part[0]
