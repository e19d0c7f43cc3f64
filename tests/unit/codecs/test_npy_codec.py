"""npy: what numpy writes is read, without a copy and without trust."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flowyard.schemas.codecs import npy
from flowyard.schemas.codecs.arrays import NUMERIC
from flowyard.schemas.errors import InvalidInputError, NotAcceptableError
from flowyard.schemas.values import decode, encode

from .handmade import npy as made

HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
TWO = np.array([1, 2], "<f4").tobytes()


def saved(array, version=None):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), version=version, allow_pickle=True)
    return buffer.getvalue()


def same(left, right):
    assert left.dtype == right.dtype
    assert left.dtype.isnative
    assert not left.flags.writeable
    np.testing.assert_array_equal(left, right, strict=True)


any_array = st.sampled_from(NUMERIC).flatmap(
    lambda name: arrays.arrays(
        np.dtype(name),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5),
        elements={"allow_nan": False} if np.dtype(name).kind in "fc" else None,
    )
)


@given(any_array, st.sampled_from([(1, 0), (2, 0), (3, 0)]), st.booleans(), st.booleans())
def test_what_numpy_writes_is_read(array, version, fortran, swapped):
    sent = array.astype(array.dtype.newbyteorder(">")) if swapped else array
    sent = np.asfortranarray(sent) if fortran and array.ndim else sent
    same(npy.decode(saved(sent, version)), array)


@given(any_array, st.booleans(), st.booleans(), st.integers(-1, 1))
def test_what_is_handed_on_unread_is_what_would_be_read(array, fortran, swapped, more):
    array = np.stack([array] * 40)
    sent = array.astype(array.dtype.newbyteorder(">")) if swapped else array
    body = saved(np.asfortranarray(sent) if fortran and array.ndim else sent)
    body = body[:more] if more < 0 else body + bytes(more)
    try:
        laid_out = npy.lay_out(body)
    except InvalidInputError:
        laid_out = None
    if laid_out is not None:
        encoded, shape = laid_out
        assert (more, shape) == (0, array.shape)
        assert encoded.tree == encode(array).tree
        same(decode(encoded), array)


def test_an_array_of_some_size_is_handed_on_unread():
    array = np.arange(784, dtype=np.float32).reshape(1, 784)
    encoded, shape = npy.lay_out(saved(array))
    assert shape == (1, 784)
    assert encoded.tree == encode(array).tree
    assert bytes(encoded.buffers[0]) == array.tobytes()
    assert npy.lay_out(saved(array)[:-1]) is None
    assert npy.lay_out(saved(array.astype(">f4"))) is None


@given(any_array)
def test_what_we_write_is_read_by_numpy_and_by_us(array):
    body = npy.encode(array)
    np.testing.assert_array_equal(np.load(io.BytesIO(body), allow_pickle=False), array, strict=True)
    assert body == saved(np.ascontiguousarray(array).reshape(array.shape))
    same(npy.decode(body), array)


@pytest.mark.parametrize("array", [np.arange(12, dtype="f4").reshape(3, 4).T, np.arange(10)[::-3], np.arange(4, dtype=">i2")])
def test_arrays_that_lie_differently_in_memory_are_written(array):
    np.testing.assert_array_equal(np.load(io.BytesIO(npy.encode(array))), array)


@pytest.mark.parametrize("fortran", [False, True])
def test_an_array_is_a_view_of_the_body(fortran):
    array = np.arange(6, dtype="f4").reshape(2, 3)
    body = saved(np.asfortranarray(array) if fortran else array)
    decoded = npy.decode(body)
    assert np.shares_memory(decoded, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        HEADER + "   \n",
        "{'shape': (2L,), 'fortran_order': False, 'descr': '<f4'}",
        '{"descr":"<f4","fortran_order":False,"shape":(2,)}',
        "{ 'descr' : '=f4' , 'fortran_order' : True , 'shape' : ( 2 , ) , }\n",
    ],
)
def test_headers_as_others_write_them(header):
    assert npy.decode(made(header, TWO)).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected npy"),
        (b"\x93NUMPY\x01\x00", "expected npy"),
        (b"\x89PNG" + bytes(20), "expected npy"),
        (made(HEADER, TWO, (4, 0)), "got 4.0"),
        (made(HEADER, TWO, (1, 7)), "version 1.7"),
        (made(HEADER)[:-5], "expected an npy header"),
        (made(" " * 10_001, b"", (2, 0)), "at most 10000 bytes"),
        (made(HEADER, TWO[:-1]), "expected 8 bytes for float32[2], got 7 at byte 67"),
        (made(HEADER, TWO + b"x"), "expected 8 bytes for float32[2], got 9"),
        (made(HEADER.replace("(2,)", "(1000000000, 1000000000)")), "got 0"),
        (made(HEADER.replace("(2,)", "(-1,)"), TWO), "expected a tuple of sizes"),
        (made(HEADER.replace("(2,)", "(2, x)"), TWO), "expected a tuple of sizes"),
        (made(HEADER.replace("(2,)", f"({'1,' * 33})"), TWO), "at most 32 axes"),
        (made(HEADER.replace("(2,)", f"({'9' * 5000},)"), TWO), "expected a tuple of sizes"),
        (made(HEADER.replace("(2,)", "(1000000000, 0)")), "reasonable shape"),
        (made(HEADER.replace("(2,)", f"({'999999999999999999, ' * 9} 0)")), "reasonable shape"),
        (made(HEADER.replace("(2,)", f"(0, {'999999999999999999, ' * 9})")), "reasonable shape"),
        (made("", TWO), "expected a mapping"),
        (made("{}", TWO), "expected a mapping"),
        (made("[1]", TWO), "expected a mapping"),
        (made(HEADER[:-1], TWO), "expected a mapping"),
        (made(HEADER + HEADER, TWO), "expected the end of the npy header"),
        (made("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", TWO), "expected a mapping"),
        (made("{'descr': '<f4', 'shape': (2,)}", TWO), "expected the keys descr, fortran_order and shape"),
        (made("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': True}", TWO), "got descr, fortran_order, shape, x"),
        (made("{'descr': True, 'fortran_order': False, 'shape': (2,)}", TWO), "expected text, a bool and a tuple"),
        (made("{'descr': '<f4', 'fortran_order': __import__('os'), 'shape': (2,)}", TWO), "expected a mapping"),
        (made("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", b"\x01\x02"), "expected the bytes 0 and 1"),
        (saved(np.array([object()], dtype=object).astype(str).astype(object)), "'|O' (Python objects)"),
        (saved(np.array(["2026-01-01"], "M8[D]")), "'<M8[D]' (datetime64)"),
        (saved(np.array([1], "m8[s]")), "'<m8[s]' (timedelta64)"),
        (saved(np.array(["ab"])), "'<U2' (strings)"),
        (saved(np.array([b"ab"])), "'|S2' (bytes)"),
        (saved(np.zeros(1, "V4")), "'|V4' (structured)"),
        (saved(np.zeros(1, [("a", "<f4"), ("b", "<i4")])), "got a structured npy dtype"),
        (made(HEADER.replace("<f4", "<f16"), bytes(32)), "'<f16'"),
        (made(HEADER.replace("<f4", "<U0")), "'<U0'"),
    ],
)
def test_what_is_no_npy_is_refused(body, words):
    with pytest.raises(InvalidInputError) as refused:
        npy.decode(body)
    assert words in refused.value.message
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("value", [[np.zeros(1), np.zeros(2)], {"a": np.zeros(1)}, np.array(["a"], dtype=object)])
def test_what_npy_cannot_hold(value):
    with pytest.raises(NotAcceptableError, match="tensor/npy"):
        npy.encode(value)


def test_a_list_of_one_is_the_array():
    assert npy.encode([np.zeros(3)]) == npy.encode(np.zeros(3))
