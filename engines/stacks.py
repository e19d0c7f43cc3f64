"""Arrays of one shape, one per call, as one array: the rows of the first call, below them those of the second, and so on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from flowyard.engines.inputs import Array
from flowyard.engines.rows import RowBatcher
from flowyard.schemas import values


@runtime_checkable
class TensorModel(Protocol):
    """A model of nothing but tensors.

    Attributes:
        rows: Computes its batches.
    """

    rows: RowBatcher


class Stack(NamedTuple):
    """The arrays of all calls.

    Attributes:
        array: The rows of all.
        rows: How many each call has.
        added: Whether a call's array is the one row itself, without its first dimension.
    """

    array: Array
    rows: int
    added: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one call's array."""
        behind: tuple[int, ...] = self.array.shape[1:]
        return behind if self.added and self.rows == 1 else (self.rows, *behind)

    def parts(self) -> list[Array]:
        """The array of each call."""
        rows, shape = self.rows, self.shape
        return [self.array[start : start + rows].reshape(shape) for start in range(0, len(self.array), rows)]

    def small_trees(self) -> list[bytes] | None:
        """The binary form of each call's array, where they are small."""
        count = len(self.array) // self.rows
        size, dtype = self.array.nbytes // count, self.array.dtype
        if not 0 < size <= values.SMALL_ARRAY_BYTES or dtype.kind not in values.PLAIN_KINDS or not dtype.isnative:
            return None
        head, contents = values.small_array_head(dtype.str, self.shape), self.array.tobytes()
        return [head + contents[start : start + size] for start in range(0, count * size, size)]


def stack_of(results: Sequence[object]) -> Stack | None:
    """Puts arrays one below the other; `None` where they are not all arrays with rows, of one dtype and shape."""
    first = results[0] if results else None
    if type(first) is not np.ndarray or not first.shape or not first.shape[0]:
        return None
    dtype, shape = first.dtype, first.shape
    for result in results:
        if type(result) is not np.ndarray or result.dtype != dtype or result.shape != shape:
            return None
    return Stack(np.concatenate(results) if len(results) > 1 else first, shape[0])  # type: ignore[arg-type]


def run_stack(model: TensorModel, stack: Stack) -> Stack | None:
    """Runs a model on the arrays of all calls.

    Args:
        model: The model.
        stack: The arrays, for its only input.

    Returns:
        What each call gets; `None` where that cannot be had in one run, or not with certainty.

    Raises:
        Exception: Whatever the run does.
    """
    wanted, array = model.rows.lone_input, stack.array
    if wanted is None or array.dtype != wanted.dtype or array.ndim != wanted.axes or array.shape[1:] != wanted.sizes:
        return None
    output = model.rows.run_rows(array)
    return None if output is None else Stack(output, stack.rows, stack.added)
