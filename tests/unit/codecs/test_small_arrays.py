"""Small arrays told from their binary form: byte for byte what they are when the array is made."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.http.native.predictions import answer_of, encode_answer
from flowyard.platform.http.negotiation import encode_small_array
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import EXT_SMALL_ARRAY, SMALL_ARRAY_BYTES, Encoded, SmallArray, encode, small_array

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
TYPES = ["", "application/json", "application/x-npy", "tensor/npy", "tensor/npz", "tensor/ndlist", "text/html", "*/*"]


@st.composite
def small_arrays(draw):
    dtype = np.dtype(draw(st.sampled_from([*DTYPES, "complex64", ">f4", ">i2"])))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = int(math.prod(shape)) * dtype.itemsize
    contents = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "b":
        return (np.frombuffer(contents, np.uint8) > 127).reshape(shape)
    return np.frombuffer(contents, dtype).reshape(shape)


@given(small_arrays(), st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_an_answer_is_the_same_whether_the_array_is_made_or_not(array, accept, sent):
    encoded = encode(array)
    found = small_array(encoded)
    told = None if found is None else encode_small_array(found, accept, sent)
    if told is not None:
        assert told == encode_answer(Payload.from_encoded(encoded).value(), accept, sent)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["application/json", "application/x-npy"])
def test_the_usual_results_need_no_array(dtype, kind):
    found = small_array(encode(np.ones((1, 10), dtype)))
    assert found is not None
    assert found[:2] == (np.dtype(dtype).str, (1, 10))
    assert (encode_small_array(found, "", kind) is None) == (dtype == "float16" and kind == "application/json")


def test_numbers_that_json_does_not_have():
    payload = Payload.from_encoded(encode(np.array([np.nan, np.inf, 1.5], np.float32)))
    assert answer_of(payload, {}, [])[2] == b"[null,null,1.5]"
    payload = Payload.from_encoded(encode(np.array([[-0.0, 1e-300]])))
    assert answer_of(payload, {}, [])[2] == b"[[-0.0,1e-300]]"


def tree(dtype, shape, contents):
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(EXT_SMALL_ARRAY, msgspec.msgpack.encode((dtype, shape, contents))))


@pytest.mark.parametrize(
    "encoded",
    [
        encode(5),
        encode([np.ones(2)]),
        encode({"a": np.ones(2)}),
        encode(np.ones(SMALL_ARRAY_BYTES, np.float32)),
        encode(b"x" * 5000),
        Encoded(tree("<f4", (3,), bytes(8))),
        Encoded(tree("<f4", (-1, -2), bytes(8))),
        Encoded(tree("O", (1,), bytes(8))),
        Encoded(tree("nonsense", (1,), bytes(8))),
        Encoded(tree(">f4", (2,), bytes(8))),
        Encoded(tree("<f4", "no shape", bytes(8))),
        Encoded(tree("<f4", (2,), bytes(8))[:-1]),
        Encoded(b"\xd8"),
        Encoded(b""),
    ],
)
def test_everything_else_is_left_to_those_who_make_values(encoded):
    assert small_array(encoded) is None


def test_a_value_that_is_at_hand_is_not_read_again():
    payload = Payload.from_encoded(encode(np.ones(2)))
    assert isinstance(payload.small_array(), SmallArray)
    payload.value()
    assert payload.small_array() is None
    assert Payload.of(np.ones(2)).small_array() is None
