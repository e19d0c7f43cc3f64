"""Whatever arrives: a value or a refusal, soon, and without much memory."""

from __future__ import annotations

import io
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flowyard.platform.http.bodies import payload_of
from flowyard.schemas.codecs.arrays import NUMERIC, value_of
from flowyard.schemas.codecs.registry import BY_TYPE
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.values import decode, encode, to_jsonable

from .handmade import ndarray, ndlist

LIMIT_S = 2.0


def compressed():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(50, dtype="f4"), y=np.zeros((2, 0, 3), ">i2"))
    return buffer.getvalue()


VALUE = {"x": np.arange(6, dtype="f4").reshape(2, 3), "flags": np.array([True, False]), "n": np.array(3)}
SEEDS = [
    ("tensor/npy", BY_TYPE["tensor/npy"].encode(VALUE["x"])),
    ("tensor/npy", BY_TYPE["tensor/npy"].encode(VALUE["flags"])),
    *((kind, BY_TYPE[kind].encode(VALUE)) for kind in ("tensor/npz", "tensor/safetensors", "tensor/ndlist")),
    ("tensor/npz", compressed()),
    ("tensor/ndlist", ndlist(ndarray("STRING", (2, 1), strings=("a", "größe")), ndarray("BFLOAT16", (2,), bytes(4), order=b">"))),
    ("tensor/ndlist", ndlist(ndarray("FLOAT32", (1,), bytes(4), version=1), ndarray("INT8", (1,), b"x", version=2, name="n"))),
]


@st.composite
def mutated(draw):
    """A valid body with some bytes overwritten, inserted, removed or repeated."""
    kind, seed = draw(st.sampled_from(SEEDS))
    body = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(body)))
        size = draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        match draw(st.sampled_from(["overwrite", "overwrite", "number", "insert", "remove", "repeat", "cut"])):
            case "overwrite":
                body[place : place + size] = draw(st.binary(min_size=size, max_size=size))
            case "number":
                body[place : place + size] = draw(st.sampled_from([b"\xff", b"\x00", b"\x7f", b"9"])) * size
            case "insert":
                body[place:place] = draw(st.binary(max_size=size))
            case "remove":
                del body[place : place + size]
            case "repeat":
                body[place:place] = body[place : place + size]
            case "cut":
                del body[place:]
    return draw(st.sampled_from([kind, kind, kind, "tensor/ndlist", ""])), bytes(body)


def sensible(value):
    """What was read can be passed on to a worker and told in JSON."""
    decode(encode(value))
    to_jsonable(value)


@settings(max_examples=1500, deadline=LIMIT_S * 1000)
@given(mutated())
def test_a_mutated_body_is_a_value_or_refused(sent):
    try:
        value = payload_of(*sent).value()
    except InvalidInputError as error:
        assert 0 < len(error.message) < 1000
        return
    sensible(value)


@settings(max_examples=300, deadline=LIMIT_S * 1000)
@given(st.sampled_from(sorted(BY_TYPE)), st.binary(max_size=300))
def test_any_bytes_are_a_value_or_refused(kind, body):
    try:
        sensible(BY_TYPE[kind].decode(body))
    except InvalidInputError:
        return


@pytest.mark.parametrize(("kind", "seed"), SEEDS)
def test_a_cut_body_is_refused(kind, seed):
    for place in range(len(seed)):
        with pytest.raises(InvalidInputError):
            BY_TYPE[kind].decode(seed[:place])


any_array = st.sampled_from(NUMERIC).flatmap(
    lambda name: arrays.arrays(name, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
any_value = (
    any_array
    | st.lists(any_array, min_size=2, max_size=4)
    | st.dictionaries(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), any_array, min_size=1, max_size=4
    )
)


@pytest.mark.parametrize("kind", ["tensor/npz", "tensor/safetensors", "tensor/ndlist"])
@given(value=any_value)
def test_what_is_written_is_read(kind, value):
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if kind == "tensor/safetensors" and any(array.dtype == np.complex128 for array in items):
        return
    named = list(value.items()) if isinstance(value, dict) else [(None, array) for array in items]
    np.testing.assert_equal(BY_TYPE[kind].decode(BY_TYPE[kind].encode(value)), value_of(named))


@pytest.mark.parametrize(
    "header",
    [
        " " * 9_900,
        "{" + " " * 9_900,
        "{'shape': (" + " " * 9_900,
        "{'shape': (1" + " " * 9_900 + "x",
        "{'shape': (" + "1," * 4_900,
        "{'shape': (" + "1 ,\t" * 2_400 + "x)",
        "{'descr':" * 1_000,
        "{" + "'descr': '<f4'," * 600,
        "{" + "'a': True, " * 800,
    ],
)
def test_headers_that_would_take_long_are_refused_soon(header):
    body = b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header.encode() + bytes(100)
    started = time.perf_counter()
    with pytest.raises(InvalidInputError):
        BY_TYPE["tensor/npy"].decode(body)
    assert time.perf_counter() - started < LIMIT_S


@pytest.mark.parametrize("kind", ["tensor/npy", "tensor/npz", "tensor/safetensors", "tensor/ndlist"])
def test_reading_takes_no_memory_for_the_contents(kind):
    body = BY_TYPE[kind].encode(np.zeros(2**20, "f4"))
    tracemalloc.start()
    try:
        array = BY_TYPE[kind].decode(body)
        assert tracemalloc.get_traced_memory()[1] < 2**16
    finally:
        tracemalloc.stop()
    assert array.shape == (2**20,)
