"""Values of a call become the arrays of a model, strictly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from flowyard.engines.inputs import prepare
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.tensors import TensorSpec


def spec(dtype="float32", shape=(-1,), name="x"):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def fit(value, dtype="float32", shape=(-1,)):
    (array,) = prepare([value], [spec(dtype, shape)]).arrays
    return array


@pytest.mark.parametrize(
    ("value", "dtype", "says"),
    [
        (["a"], "float32", "got string[1]"),
        ([1, "a"], "float32", "one of type int"),
        ([1.5], "int64", "got float64[1] (not all of its numbers are integers)"),
        ([float("nan")], "int64", "not all of its numbers are integers"),
        ([None], "float32", "null"),
        (None, "float32", "got null"),
        ([[1], [1, 2]], "float32", "a ragged list"),
        ([2**31], "int32", "out of the range of int32"),
        ([-1], "uint8", "out of the range of uint8"),
        ([2**70], "int64", "more than 64 bits"),
        ([1e300], "float32", "out of the range of float32"),
        ([{}], "float32", "a list of mappings"),
        ([1], "bool", "got int64[1]"),
        ([1], "string", "expected string[?], got int64[1]"),
        (b"123", "float32", "got 3 bytes"),
        ([b"123"], "float32", "type bytes"),
        (np.ones(2), "int32", "got float64[2]"),
        (np.ones(2, complex), "float32", "got complex128[2]"),
        (np.array([2**40]), "int32", "out of the range"),
        (np.array(["a"], dtype=object), "float32", "got string[1]"),
        ([], "", None),
        ("text", "float32", "got string[]"),
    ],
)
def test_what_does_not_fit(value, dtype, says):
    if says is None:
        assert fit(value, dtype).shape == (0,)
        return
    with pytest.raises(InvalidInputError) as caught:
        fit(value, dtype)
    assert says in caught.value.message
    assert caught.value.message.startswith('input "x": expected ')


def test_the_shape_in_the_message():
    with pytest.raises(InvalidInputError) as caught:
        fit(np.ones((3, 10), dtype=np.int64), "float32", (-1, 784))
    assert caught.value.message == 'input "x": expected float32[?, 784], got int64[3, 10]'


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        ([1, 2], "float32", "float32"),
        ([1.0, 2.0], "int32", "int32"),
        ([True], "int64", "int64"),
        ([1, 2.5], "", "float32"),
        ([1, 2], "", "int64"),
        ([True], "", "bool"),
        ([], "int64", "int64"),
        ([], "", "float32"),
        (5, "float32", "float32"),
        (np.ones(1), "float32", "float32"),
        (np.ones(1), "", "float64"),
        (np.ones(1, np.uint8), "float32", "float32"),
        (np.ones(1, np.int64), "int32", "int32"),
        (np.ones(1, np.int64), "float16", "float16"),
        (np.array([np.inf]), "float32", "float32"),
        (np.ones(1, ">f4"), "float32", "float32"),
        (["a"], "string", "object"),
        ([np.float32(1), np.float32(2)], "float32", "float32"),
        ([np.ones(2), np.ones(2)], "float32", "float32"),
    ],
)
def test_what_fits(value, dtype, expected):
    shape = (-1, 2) if isinstance(value, list) and len(value) and isinstance(value[0], np.ndarray) else (-1,)
    array = fit(value, dtype, shape)
    assert array.dtype == expected
    assert array.dtype.isnative


@pytest.mark.parametrize(
    ("value", "shape", "fitted", "added"),
    [
        ([1, 2], (-1, 2), (1, 2), True),
        ([[1, 2]], (-1, 2), (1, 2), False),
        (3, (-1,), (1,), True),
        (3, None, (), False),
        ([[1]], None, (1, 1), False),
        ([[[1.0]]], (1, -1, 1, -1), (1, 1, 1, 1), True),
    ],
)
def test_one_dimension_short_is_one_row(value, shape, fitted, added):
    prepared = prepare([value], [spec(shape=shape)])
    assert (prepared.arrays[0].shape, prepared.added) == (fitted, added)


@pytest.mark.parametrize(
    ("value", "shape"), [([[[1]]], (-1, 1)), (1, (-1, 1)), ([1, 2], (-1, 3)), ([[1], [2]], (1, 1)), ([1], ())]
)
def test_wrong_shapes(value, shape):
    with pytest.raises(InvalidInputError, match="expected float32"):
        fit(value, "float32", shape)


TWO = (spec(name="a"), spec(name="b"))


@pytest.mark.parametrize(
    "args", [[[1], [2]], [{"a": [1], "b": [2]}], [{"b": [2], "a": [1]}], [[[1], [2]]], [{"inputs": [[1], [2]]}]]
)
def test_two_inputs(args):
    first, second = prepare(args, TWO).arrays
    assert (first.tolist(), second.tolist()) == ([1], [2])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([[1]], "expected 2 inputs"),
        ([[1], [2], [3]], "got 3 arguments"),
        ([{"a": [1]}], 'without "b"'),
        ([{"a": [1], "b": [2], "c": [3]}], "unknown key 'c'"),
        ([{"inputs": 1, "data": 2}], 'without "a", "b"'),
    ],
)
def test_wrong_arguments(args, says):
    with pytest.raises(InvalidInputError, match=says):
        prepare(args, TWO)


def test_an_input_called_like_a_wrapper():
    (array,) = prepare([{"data": [1]}], [spec(name="data")]).arrays
    assert array.tolist() == [1]


ARRAYS = npst.arrays(st.sampled_from(["f4", "f8", "i4", "i8", "u1", "b1"]), npst.array_shapes(max_dims=3, max_side=3))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2) | st.binary(max_size=2)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2), max_leaves=8
)


@given(ARRAYS, st.sampled_from(["float32", "float64", "int32", "int64", "uint8", "bool"]))
def test_no_number_changes_but_by_rounding(array, dtype):
    try:
        (fitted,) = prepare([array], [spec(dtype, None)]).arrays
    except InvalidInputError:
        return
    assert fitted.dtype == dtype
    if array.dtype.kind == "f":
        assert fitted.dtype.kind == "f"
        np.testing.assert_allclose(fitted, array, rtol=1e-6, atol=1e-37)
    else:
        np.testing.assert_array_equal(fitted, array.astype(fitted.dtype))
        if fitted.dtype.kind in "iu":
            assert [int(one) for one in fitted.flat] == [int(one) for one in array.flat]


@given(TREES, st.sampled_from(["", "float32", "int8", "string", "bool"]))
def test_any_value_fits_or_is_refused(value, dtype):
    try:
        (array,) = prepare([value], [spec(dtype, None)]).arrays
    except InvalidInputError as error:
        assert "expected" in error.message
    else:
        assert isinstance(array, np.ndarray)
