"""NDList as DJL's Java and Python clients write it, in all versions."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from flowyard.schemas.codecs import ndlist as codec
from flowyard.schemas.codecs.javatext import from_java, to_java
from flowyard.schemas.errors import InvalidInputError, NotAcceptableError

from .handmade import ndarray, ndlist, utf

X = np.arange(6, dtype="<f4").reshape(2, 3)
ONE = ndarray("FLOAT32", (2, 3), X.tobytes())


@pytest.mark.parametrize("version", [1, 2, 3])
def test_one_unnamed_array_is_itself(version):
    body = ndlist(ndarray("FLOAT32", (2, 3), X.tobytes(), version=version))
    array = codec.decode(body)
    np.testing.assert_array_equal(array, X, strict=True)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable
    assert codec.recognise(body)


@pytest.mark.parametrize("version", [2, 3])
def test_named_arrays_are_a_mapping(version):
    body = ndlist(
        ndarray("FLOAT32", (2, 3), X.tobytes(), version=version, name="x"),
        ndarray("INT64", (), struct.pack("<q", -7), version=version, name="größe", sparse="default"),
    )
    value = codec.decode(body)
    assert list(value) == ["x", "größe"]
    assert value["größe"].shape == ()
    assert value["größe"] == -7


def test_unnamed_arrays_are_a_list_and_between_named_ones_get_a_name():
    assert [array.tolist() for array in codec.decode(ndlist(ONE, ONE))] == [X.tolist()] * 2
    named = ndarray("FLOAT32", (2, 3), X.tobytes(), name="x")
    assert list(codec.decode(ndlist(ONE, named, ONE))) == ["arr_0", "x", "arr_1"]
    assert codec.decode(ndlist()) == []


@pytest.mark.parametrize("spelled", ["BOOLEAN", "BOOL"])
def test_both_spellings_of_bool(spelled):
    array = codec.decode(ndlist(ndarray(spelled, (2,), b"\x01\x00")))
    assert array.dtype == bool
    assert array.tolist() == [True, False]


@pytest.mark.parametrize(
    ("dtype", "order", "raw", "name", "items"),
    [
        ("FLOAT32", b">", struct.pack(">2f", 1, 2), "float32", [1, 2]),
        ("INT16", b">", struct.pack(">2h", 1, -2), "int16", [1, -2]),
        ("BFLOAT16", b"<", b"\x80\x3f\x00\xc0", "float32", [1, -2]),
        ("BFLOAT16", b">", b"\x3f\x80\xc0\x00", "float32", [1, -2]),
        ("FLOAT16", b"<", b"\x00\x3c\x00\xc0", "float16", [1, -2]),
        ("UINT64", b"<", b"\xff" * 16, "uint64", [2**64 - 1] * 2),
        ("COMPLEX64", b"<", np.array([1, 2j], "<c8").tobytes(), "complex64", [1, 2j]),
    ],
)
def test_dtypes_and_byte_orders(dtype, order, raw, name, items):
    array = codec.decode(ndlist(ndarray(dtype, (2,), raw, order=order)))
    assert array.dtype == name
    assert array.dtype.isnative
    assert array.tolist() == items


@pytest.mark.parametrize("version", [1, 2, 3])
def test_strings(version):
    strings = ("plain", "größe", "", b"\xed\xa0\xbd\xed\xb8\x80", "😀", b"a\xc0\x80b")
    array = codec.decode(ndlist(ndarray("STRING", (2, 3), version=version, strings=strings)))
    assert array.tolist() == [["plain", "größe", ""], ["😀", "😀", "a\0b"]]
    assert not array.flags.writeable


def test_strings_are_written_as_java_reads_them():
    array = np.array([["a", "😀"]], dtype=object)
    body = codec.encode(array)
    assert body == ndlist(ndarray("STRING", (1, 2), strings=("a", b"\xed\xa0\xbd\xed\xb8\x80")))
    assert codec.decode(body).tolist() == array.tolist()


@pytest.mark.parametrize("text", ["", "plain", "größe", "\0", "😀 and \U0010ffff", "￿"])
def test_javas_text(text):
    assert from_java(to_java(text)) == text
    assert from_java(text.encode()) == text


def test_what_is_written_is_version_3():
    assert codec.encode(X) == ndlist(ONE)
    value = {"b": np.array([True, False]), "n": np.arange(3, dtype=">i4")[::-1]}
    assert codec.encode(value) == ndlist(
        ndarray("BOOLEAN", (2,), b"\x01\x00", name="b"), ndarray("INT32", (3,), struct.pack("<3i", 2, 1, 0), name="n")
    )
    assert codec.encode([X, np.float64(2) * np.ones(())]) == ndlist(ONE, ndarray("FLOAT64", (), struct.pack("<d", 2)))


def cut(place):
    return ndlist(ONE)[:place]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected the number of arrays at byte 0"),
        (struct.pack(">i", -1), "got -1"),
        (struct.pack(">i", 2**31 - 1) + ONE, "expected 0 to 1024 as number of arrays"),
        (struct.pack(">i", 2) + ONE, "expected the NDAR at byte"),
        (ndlist(ONE) + b"x", "got 1 more bytes"),
        (ndlist(utf("NDAX") + ONE[6:]), "expected b'\\x00\\x04NDAR' at byte 4"),
        (
            ndlist(ndarray("FLOAT32", (2, 3), X.tobytes(), version=4)),
            "expected 1 to 3 as version at byte 10 of the NDList, got 4",
        ),
        (ndlist(ONE[:10] + b"\x07" + ONE[11:]), "as name flag at byte 14 of the NDList, got b'\\x07'"),
        (ndlist(ndarray("FLOAT8", (2,), bytes(2))), "got 'FLOAT8'"),
        (ndlist(ndarray("UNKNOWN", (2,), bytes(2))), "got 'UNKNOWN'"),
        (ndlist(ndarray("FLOAT32", (2, 3), X.tobytes(), layout="?")), "expected 2 as length of the layout"),
        (ndlist(ndarray("FLOAT32", (2, 3), X.tobytes(), order=b"=")), "as byte order at byte"),
        (ndlist(ndarray("FLOAT32", (2, 4), X.tobytes())), "expected 32 bytes for float32[2, 4], got 24"),
        (ndlist(ndarray("FLOAT32", (2, -3), X.tobytes())), "no negative axis"),
        (ndlist(ndarray("FLOAT32", (2**62, 2**62), X.tobytes())), "got 24"),
        (ndlist(ndarray("FLOAT32", (2**30, 0))), "reasonable shape"),
        (ndlist(ndarray("FLOAT32", (1,) * 33, bytes(4))), "expected 0 to 32 as number of axes"),
        (ndlist(ndarray("BOOL", (1,), b"\x02")), "expected the bytes 0 and 1"),
        (ndlist(ndarray("FLOAT32", (1,), bytes(4), name=b"\xff")), "expected UTF-8 as name"),
        (ndlist(ndarray("STRING", (1,), strings=(b"\xed\xa0\xbd",))), "expected UTF-8 as string"),
        (ndlist(ndarray("STRING", (2,), strings=("a",))), "expected 2 as number of strings"),
        (ndlist(ndarray("STRING", (2**31,), strings=())), "number of strings"),
        (ndlist(ndarray("STRING", (10**6,), strings=())[:-4] + struct.pack(">i", 10**6)), "as many as the NDList has bytes for"),
        (ndlist(ndarray("FLOAT32", (1,), bytes(4), name="x"), ndarray("FLOAT32", (1,), bytes(4), name="x")), "'x' twice"),
        *((cut(place), "expected") for place in range(len(ndlist(ONE)))),
    ],
)
def test_what_is_no_ndlist_is_refused(body, words):
    with pytest.raises(InvalidInputError) as refused:
        codec.decode(body)
    assert words in refused.value.message


def test_strings_are_bounded_over_all_arrays():
    half = ndarray("STRING", (600_000,), strings=("",) * 600_000)
    with pytest.raises(InvalidInputError, match="at most 1000000 strings"):
        codec.decode(ndlist(half, half))


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(1, "M8[s]"),
        np.array(["x" * 70_000], dtype=object),
        np.array([1, None], dtype=object),
        np.broadcast_to(np.float32(0), (2**29,)),
    ],
)
def test_what_ndlist_cannot_hold(value):
    with pytest.raises(NotAcceptableError):
        codec.encode(value)
