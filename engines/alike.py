"""Batches of calls that all bring an array of one shape: computed as one array, which is never taken apart nor put together.

Only where it is certain that each call gets what it would have got alone; whatever is unusual, or goes wrong, is left to the
usual way, which computes calls one by one as far as need be and says what is wrong with each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flowyard.engines.base import Outcome
from flowyard.engines.stacks import Stack, TensorModel, run_stack
from flowyard.schemas import frames, values
from flowyard.schemas.values import Buffer, Encoded


class Computed(NamedTuple):
    """A batch.

    Attributes:
        outcomes: One per call, in order: a result, or what it is in a frame.
        compute_s: Seconds that it took.
        cpu_s: Of these, the processor's in this thread.
    """

    outcomes: Sequence[Outcome | frames.WireResult]
    compute_s: float
    cpu_s: float


class AlikeCalls:
    """Computes such batches.

    Args:
        model: The model.
    """

    def __init__(self, model: TensorModel) -> None:
        self._model = model

    def compute(self, calls: Sequence[frames.WireCall], body: Buffer) -> Computed | None:
        """Computes a batch.

        Args:
            calls: The calls.
            body: Their buffers, as they came.

        Returns:
            What became of it; `None` where the calls are not alike, or it is not known that they may be computed together.
        """
        started, cpu_started = time.perf_counter(), time.thread_time()
        try:
            stack = self._stack(calls, body)
            output = None if stack is None else run_stack(self._model, stack)
        except Exception:  # noqa: BLE001 - the usual way finds out whose it is
            return None
        if output is None:
            return None
        trees = output.small_trees()
        outcomes = output.parts() if trees is None else [frames.WireResult(tree) for tree in trees]
        return Computed(outcomes, time.perf_counter() - started, time.thread_time() - cpu_started)

    def _stack(self, calls: Sequence[frames.WireCall], body: Buffer) -> Stack | None:
        args = [call.args[0] for call in calls if len(call.args) == 1 and not call.callee]
        if self._model.rows.lone_input is None or len(args) != len(calls):
            return None
        first = args[0]
        if not first.sizes:
            return self._small(args)
        if first.tree == values.JSON_TREE:
            return self._parsed(args, body)
        alike = all(arg.tree == first.tree and arg.sizes == first.sizes and not arg.places for arg in args)
        return self._laid_out(first, len(args), body) if alike else None

    def _small(self, args: Sequence[frames.WireValue]) -> Stack | None:
        """Arrays whose contents are in their trees."""
        found = values.small_array(Encoded(args[0].tree))
        if found is None or not found.contents:
            return None
        head, size = args[0].tree[: -len(found.contents)], len(args[0].tree)
        if not all(len(arg.tree) == size and arg.tree.startswith(head) for arg in args):
            return None
        contents = b"".join([arg.tree[len(head) :] for arg in args])
        return _stacked(contents, np.dtype(found.dtype), found.shape)

    def _laid_out(self, first: frames.WireValue, count: int, body: Buffer) -> Stack | None:
        """The body itself, where the arrays lie in it one after the other."""
        found = values.lone_array(first.tree) if len(first.tree) <= values.ARRAY_TREE_BYTES else None
        if found is None or (found[2],) != first.sizes or found[2] % values.ALIGNMENT_BYTES or len(body) != count * found[2]:
            return None
        return _stacked(body, found[0], found[1])

    def _parsed(self, args: Sequence[frames.WireValue], body: Buffer) -> Stack | None:
        """The numbers in JSON texts."""
        wanted = self._model.rows.lone_input
        if wanted is None or wanted.json is None or not all(arg.tree == values.JSON_TREE and not arg.places for arg in args):
            return None
        reader = frames.BodyReader(body)
        texts = [reader.take(arg.tree, arg.sizes).buffers[0] for arg in args]
        first = wanted.json.read(texts[0])
        if first is None:
            return None
        array, added = first
        arrays = [array]
        for text in texts[1:]:
            read = wanted.json.read(text)
            if read is None or read[1] != added or read[0].shape != array.shape:
                return None
            arrays.append(read[0])
        return Stack(np.concatenate(arrays), len(array), added)


def _stacked(contents: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Stack | None:
    """Arrays that lie one after the other."""
    if not shape or 0 in shape:
        return None
    return Stack(np.frombuffer(contents, dtype).reshape(-1, *shape[1:]), shape[0])
