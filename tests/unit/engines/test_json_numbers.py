"""JSON read as numbers: what comes out is what the usual way makes of it, and what is wrong is left to that."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.engines.base import Call
from flowyard.engines.inputs import floats, prepare
from flowyard.engines.json_numbers import JsonNumbers, JsonText
from flowyard.engines.rows import RowBatcher
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.tensors import Signature, TensorSpec
from flowyard.schemas.values import decode_json

PAIRS = TensorSpec(name="x", dtype="float32", shape=(-1, 2))
CUBES = TensorSpec(name="x", dtype="float64", shape=(-1, 2, -1))

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -0.0, 1, 2**53 + 1, 2**63, 2**64 - 1, 1e38, 4e38, 1e-46, 5e-324]),
)
others = st.one_of(st.none(), st.booleans(), st.text(max_size=3))
nested = st.recursive(st.one_of(numbers, numbers, numbers, others), lambda inner: st.lists(inner, max_size=3), max_leaves=12)
wrapped = st.one_of(
    nested,
    st.dictionaries(st.sampled_from(["x", "inputs", "instances", "data", "y"]), nested, max_size=2),
)
like_pairs = st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=4)


def read(text: bytes, spec: TensorSpec = PAIRS):
    return JsonNumbers(spec).read(memoryview(text))


@given(st.one_of(wrapped, like_pairs), st.sampled_from([PAIRS, CUBES]))
def test_what_is_read_is_what_the_usual_way_makes_of_it(value, spec):
    text = json.dumps(value).encode()
    found = read(text, spec)
    if found is None:
        return
    (usual,), added = (prepared := prepare([decode_json(text)], [spec])).arrays, prepared.added
    array, was_added = found
    assert (array.dtype, array.shape, was_added) == (usual.dtype, usual.shape, added)
    np.testing.assert_array_equal(array, usual)
    assert np.array_equal(np.signbit(array), np.signbit(usual))


@given(like_pairs)
def test_rows_of_numbers_are_read(rows):
    expected = floats(rows, PAIRS)
    found = read(json.dumps(rows).encode())
    if expected is not None and np.abs(expected[0]).max() < 1e18:
        assert found is not None
        np.testing.assert_array_equal(found[0], expected[0])


@given(st.binary(max_size=40) | st.text('[]{}:,.0123456789eE+- "xdat\n\ufeff', max_size=40).map(str.encode))
def test_nothing_is_read_that_is_no_json(text):
    if read(text) is not None:
        decode_json(text)


@pytest.mark.parametrize(
    ("text", "shape", "added"),
    [
        (b"[[1,2]]", (1, 2), False),
        (b"[1,2]", (1, 2), True),
        (b'{"inputs": [[1, 2], [3.5, -4e0]]}', (2, 2), False),
        (b'{"x":[1,2]}', (1, 2), True),
        (b" [1,2]", None, None),
        (b"[[1,2],[3]]", None, None),
        (b"[[1,2],[[3,4]]]", None, None),
        (b"[[1,2],[]]", None, None),
        (b"[[1],[2,3]]", None, None),
        (b"[[1,[2]],[3,4]]", None, None),
        (b"[[1,2,3]]", None, None),
        (b"[]", None, None),
        (b"[[]]", None, None),
        (b"[[[1,2]]]", None, None),
        (b"[[1,true]]", None, None),
        (b'[[1,"2"]]', None, None),
        (b"[[1,null]]", None, None),
        (b"[[1,2]] x", None, None),
        (b"[[1,2],]", None, None),
        (b"[[1,1e999]]", None, None),
        (b"[[1,1e39]]", None, None),
        (b"[[1,NaN]]", None, None),
        (b"\xef\xbb\xbf[[1,2]]", None, None),
        (b'{"x":[1,2],"x":[3,4]}', None, None),
        (b'{"x":[1,2],"y":[3,4]}', None, None),
        (b'{"z":[1,2]}', None, None),
        (b'{"x":{"x":[1,2]}}', None, None),
        (b'{"x":1}', None, None),
        (b"[" * 5000 + b"]" * 5000, None, None),
        (b"", None, None),
        (b"7", None, None),
    ],
)
def test_only_numbers_in_the_right_shape_are_read(text, shape, added):
    found = read(text)
    assert (found[0].shape, found[1]) == (shape, added) if shape else found is None


def test_a_reader_goes_on_after_what_it_could_not_read():
    reader = JsonNumbers(PAIRS)
    for text in (b"[[1,2]", b"[[1,2],[true,1]]", b"[[1],[2,3]]", b'{"x":[1,2],"x":[3,4]}', b"[[1,2],3]"):
        assert reader.read(text) is None
        found = reader.read(b"[[1,2]]")
        assert found is not None
        assert found[0].tolist() == [[1.0, 2.0]]


def test_a_batch_has_texts_arrays_and_lists_side_by_side():
    signature = Signature(inputs=(PAIRS,), outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 2)),))
    batcher = RowBatcher(lambda arrays: {"y": arrays[0] * 2}, lambda error: InvalidInputError(str(error)), signature)
    calls = [
        JsonText(b"[1,2]"),
        [[3.0, 4.0]],
        np.ones((2, 2), np.float32),
        JsonText(b"[[1,2]"),
        JsonText(b'{"x":[[1,true]]}'),
    ]
    *good, broken, usual = batcher.predict([Call("", [value]) for value in calls])
    assert [np.asarray(one).tolist() for one in good] == [[2.0, 4.0], [[6.0, 8.0]], [[2.0, 2.0], [2.0, 2.0]]]
    assert str(broken).startswith("the body is not valid JSON")
    assert np.asarray(usual).tolist() == [[2.0, 2.0]]
