"""Rows: a batch gives each call what it would get alone, whatever the model does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.engines.base import Call
from flowyard.engines.rows import RowBatcher
from flowyard.schemas.errors import FlowyardError, InvalidInputError, NodeError, OutOfMemoryError
from flowyard.schemas.tensors import Signature, TensorSpec


class Model:
    """Counts the rows of each run."""

    def __init__(self, function):
        self.function = function
        self.runs = []

    def __call__(self, arrays):
        self.runs.append(arrays[0].shape[0] if arrays[0].ndim else None)
        result = self.function(*arrays)
        return result if isinstance(result, dict) else {"y": result}


def failure(error):
    return OutOfMemoryError(str(error)) if isinstance(error, MemoryError) else NodeError(repr(error))


def signature(*shapes, outputs=(), dtype="float32"):
    inputs = tuple(TensorSpec(name=f"x{n}", dtype=dtype, shape=shape) for n, shape in enumerate(shapes))
    return Signature(inputs=inputs, outputs=tuple(TensorSpec(name="y", shape=shape) for shape in outputs))


def batcher(model, *shapes, **options):
    return RowBatcher(model, failure, signature(*shapes), **options)


def calls(*values):
    return [Call("", [value]) for value in values]


def test_calls_are_joined():
    model = Model(lambda x: x * 2)
    outcomes = batcher(model, (-1, 2), row_wise=True).predict(calls([1, 2], [[3, 4], [5, 6]], [[7, 8]]))
    assert [outcome.tolist() for outcome in outcomes] == [[2, 4], [[6, 8], [10, 12]], [[14, 16]]]
    assert model.runs == [4]


def test_no_joined_run_has_more_rows_than_the_batch_size():
    model = Model(lambda x: x * 2)
    many = [[[n, n]] * rows for n, rows in enumerate((2, 2, 1, 5, 1, 1))]
    outcomes = batcher(model, (-1, 2), row_wise=True, max_rows=4).predict(calls(*many))
    assert [outcome.tolist() for outcome in outcomes] == [[[2 * n, 2 * n] for n, _ in rows] for rows in many]
    assert model.runs == [4, 1, 5, 2]


def test_what_is_not_known_is_tried_once():
    model = Model(lambda x: x * 2)
    rows = batcher(model, (-1, 2))
    for _ in range(2):
        rows.predict(calls([1, 2], [3, 4]))
    assert model.runs == [1, 2, 2]


def test_other_shapes_are_other_groups():
    model = Model(lambda x: x * 2)
    outcomes = batcher(model, (-1, -1), row_wise=True).predict(calls([1, 2], [1, 2, 3], [[4, 5]]))
    assert [outcome.shape for outcome in outcomes] == [(2,), (3,), (1, 2)]
    assert sorted(model.runs) == [1, 2]


@pytest.mark.parametrize("shapes", [{"inputs": [(1, 2)]}, {"inputs": [(-1, 2)], "outputs": [(2,)]}, {"inputs": [()]}])
def test_a_fixed_first_dimension_is_run_call_by_call(shapes):
    model = Model(lambda x: x)
    rows = RowBatcher(model, failure, signature(*shapes["inputs"], outputs=shapes.get("outputs", ())))
    value = [1, 2] if shapes["inputs"] != [()] else 1
    assert len(rows.predict(calls(value, value))) == 2
    assert len(model.runs) == 2


@pytest.mark.parametrize("function", [lambda x: x.sum(), lambda x: x.sum(0), lambda x: np.zeros(2), lambda x: x[:1]])
def test_outputs_that_cannot_be_split(function):
    model = Model(function)
    rows = batcher(model, (-1, 2))
    values = [[[1, 2]], [[3, 4]]]
    expected = [function(np.array(value, dtype=np.float32)).tolist() for value in values]
    for _ in range(2):
        assert [outcome.tolist() for outcome in rows.predict(calls(*values))] == expected
    before = len(model.runs)
    rows.predict(calls(*values))
    assert model.runs[before:] == [1, 1]


def test_one_bad_call_fails_alone_and_batching_goes_on():
    def positive(x):
        if (x < 0).any():
            raise ValueError("negative")
        return x

    model = Model(positive)
    rows = batcher(model, (-1, 1), row_wise=True)
    good, bad, also_good = rows.predict(calls([1], [-1], [2]))
    assert (good.tolist(), also_good.tolist()) == ([1], [2])
    assert isinstance(bad, NodeError)
    model.runs.clear()
    rows.predict(calls([1], [2]))
    assert model.runs == [2]


def test_a_model_of_one_call_at_a_time_is_remembered():
    def single(x):
        if len(x) > 1:
            raise ValueError("one at a time")
        return x

    model = Model(single)
    rows = batcher(model, (-1, 1))
    rows.predict(calls([1], [2]))
    model.runs.clear()
    assert [outcome.tolist() for outcome in rows.predict(calls([1], [2]))] == [[1], [2]]
    assert model.runs == [1, 1]


def test_what_one_rank_does_is_not_held_against_another():
    weight = np.ones((3, 2), dtype=np.float32)
    model = Model(lambda x: x @ weight)
    rows = RowBatcher(model, failure, signature(None))
    for _ in range(2):
        outcomes = rows.predict(calls([1, 2, 3], [4, 5, 6], [[1, 2, 3]], [[4, 5, 6]]))
        assert [outcome.tolist() for outcome in outcomes] == [[6, 6], [15, 15], [[6, 6]], [[15, 15]]]
    assert model.runs[-3:] == [3, 3, 2]


def test_no_memory_for_a_batch_is_not_remembered():
    def hungry(x):
        if len(x) > 2:
            raise MemoryError
        return x

    model = Model(hungry)
    rows = batcher(model, (-1, 1), row_wise=True)
    assert not any(isinstance(outcome, FlowyardError) for outcome in rows.predict(calls([1], [2], [3])))
    model.runs.clear()
    rows.predict(calls([1], [2]))
    assert model.runs == [2]


def test_several_outputs_and_lists():
    model = Model(lambda x: {"double": x * 2, "labels": [{"n": float(one[0])} for one in x]})
    outcomes = batcher(model, (-1, 1)).predict(calls([1], [[2], [3]]))
    assert outcomes[0]["labels"] == {"n": 1.0}
    assert outcomes[1]["labels"] == [{"n": 2.0}, {"n": 3.0}]
    assert outcomes[1]["double"].tolist() == [[4], [6]]


def test_inputs_with_different_rows_run_alone():
    model = Model(lambda x, y: x.sum() + y)
    rows = RowBatcher(model, failure, signature((-1, 1), (-1, 1)), row_wise=True)
    outcomes = rows.predict([Call("", [[[1], [2]], [[1]]]), Call("", [[[1]], [[1]]]), Call("", [[[5]], [[5]]])])
    assert outcomes[0].tolist() == [[4]]


def test_an_unknown_number_of_inputs():
    rows = RowBatcher(Model(lambda *xs: sum(xs)), failure, None)
    outcomes = rows.predict([Call("", [[1.0], [2.0]]), Call("", [[1.0]]), Call("", [[3.0], [4.0]])])
    assert [outcome.tolist() for outcome in outcomes] == [[3], [1], [7]]


def test_no_rows_at_all():
    (empty, one) = batcher(Model(lambda x: x), (-1, 2)).predict(calls(np.zeros((0, 2), np.float32), [[1, 2]]))
    assert empty.shape == (0, 2)
    assert one.tolist() == [[1, 2]]


FUNCTIONS = [
    lambda x: x * 2,
    lambda x: x.sum(axis=1),
    lambda x: x.sum(),
    lambda x: x[:1],
    lambda x: x[0],
    lambda x: x.T,
    lambda x: np.ones(3),
]
ROWS = st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=1, max_size=3)
VALUES = st.lists(ROWS | st.just("bad"), min_size=1, max_size=6)


@given(st.sampled_from(FUNCTIONS), st.lists(VALUES, min_size=1, max_size=3))
def test_a_batch_equals_its_calls(function, batches):
    rows = batcher(Model(function), (-1, 2))
    for values in batches:
        for value, outcome in zip(values, rows.predict(calls(*values)), strict=True):
            if value == "bad":
                assert isinstance(outcome, InvalidInputError)
            else:
                np.testing.assert_array_equal(outcome, function(np.array(value, dtype=np.float32)))
