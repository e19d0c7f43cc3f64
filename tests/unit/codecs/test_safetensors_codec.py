"""safetensors: the format's own rules, held strictly."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from flowyard.schemas.codecs import safetensors
from flowyard.schemas.errors import InvalidInputError, NotAcceptableError

from .handmade import safetensors as made

X = np.arange(6, dtype="<f4").reshape(2, 3)
IDS = np.array([1, -2], "<i8")


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def test_arrays_are_read_in_the_headers_order_whichever_their_place():
    header = {"__metadata__": {"format": "pt"}, "x": entry(shape=(2, 3), offsets=(16, 40)), "ids": entry("I64", (2,), (0, 16))}
    body = made(header, IDS.tobytes() + X.tobytes())
    value = safetensors.decode(body)
    assert list(value) == ["x", "ids"]
    np.testing.assert_array_equal(value["x"], X, strict=True)
    np.testing.assert_array_equal(value["ids"], IDS, strict=True)
    assert np.shares_memory(value["x"], np.frombuffer(body, np.uint8))
    assert not value["x"].flags.writeable


@pytest.mark.parametrize(
    ("dtype", "raw", "name", "items"),
    [
        ("BF16", b"\x80\x3f\x00\xc0", "float32", [1.0, -2.0]),
        ("F16", b"\x00\x3c\x00\xc0", "float16", [1.0, -2.0]),
        ("BOOL", b"\x00\x01", "bool", [False, True]),
        ("U8", b"\x00\xff", "uint8", [0, 255]),
        ("U16", b"\x01\x00\xff\xff", "uint16", [1, 65535]),
        ("U64", bytes(8) + b"\xff" * 8, "uint64", [0, 2**64 - 1]),
        ("C64", np.array([1, 2j], "<c8").tobytes(), "complex64", [1, 2j]),
    ],
)
def test_dtypes(dtype, raw, name, items):
    array = safetensors.decode(made({"x": entry(dtype, (2,), (0, len(raw)))}, raw))["x"]
    assert array.dtype.name == name
    assert array.tolist() == items
    assert not array.flags.writeable


def test_unnamed_arrays_come_back_unnamed():
    np.testing.assert_array_equal(safetensors.decode(safetensors.encode(X)), X, strict=True)
    back = safetensors.decode(safetensors.encode([X, IDS]))
    assert isinstance(back, list)
    np.testing.assert_array_equal(back[1], IDS, strict=True)


def test_what_is_written():
    value = {"x": X.T, "s": np.array(3, ">i2"), "empty": np.zeros((0, 4)), "b": np.array([True])}
    body = safetensors.encode(value)
    (size,) = struct.unpack("<Q", body[:8])
    assert size % 8 == 0
    assert json.loads(body[8 : 8 + size]) == {
        "x": entry("F32", (3, 2), (0, 24)),
        "s": entry("I16", (), (24, 26)),
        "empty": entry("F64", (0, 4), (26, 26)),
        "b": entry("BOOL", (1,), (26, 27)),
    }
    for name, array in safetensors.decode(body).items():
        np.testing.assert_array_equal(array, value[name])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected a safetensors header"),
        (b"\x01\x00\x00", "expected a safetensors header"),
        (struct.pack("<Q", 2**63) + b"{}", "got a length of 9223372036854775808"),
        (struct.pack("<Q", 2**20 + 1) + b"{" + b" " * 2**20 + b"}", "at most 1048576 bytes"),
        (made(b" {}"), "expected a JSON object"),
        (made(b"[]"), "expected a JSON object"),
        (made(b"{"), "safetensors header"),
        (made(b'{"\xff": 1}'), "safetensors header"),
        (made(b'{"a":' + b"[" * 100_000 + b"}"), "safetensors header"),
        (made({"x": 1}), "safetensors header 'x': Expected `object`"),
        (made({"x": {"dtype": "F32"}}), "missing required field `shape`"),
        (made({"x": entry(more=1)}), "unknown field `more`"),
        (made({"x": entry(shape=(-2,))}, bytes(8)), "Expected `int` >= 0 - at `$.shape[0]`"),
        (made({"x": entry(shape=(1.5,))}, bytes(8)), "got `float`"),
        (made({"x": entry(shape=(2**70,))}, bytes(8)), "`$.shape[0]`"),
        (made(b'{"x": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}', bytes(8)), "header 'x'"),
        (made(b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, ' + b"9" * 5000 + b"]}}", bytes(8)), "header 'x'"),
        (made({"x": entry(shape=(2**63 - 1,) * 32)}, bytes(8)), "safetensors array 'x': expected"),
        (made({"x": entry(shape=(2**62, 2**62))}, bytes(8)), "safetensors array 'x': expected"),
        (made({"x": entry(shape=(2**40, 0), offsets=(0, 0))}), "reasonable shape"),
        (made({"x": entry(shape=(1,) * 40, offsets=(0, 4))}, bytes(4)), "at most 32 axes"),
        (made({"x": entry("F8_E4M3", (8,))}, bytes(8)), "got 'F8_E4M3'"),
        (made({"x": entry(shape=(3,))}, bytes(8)), "expected 12 bytes for float32[3], got 8"),
        (made({"x": entry(offsets=(4, 12))}, bytes(12)), "expected data_offsets from 0, got [4, 12]"),
        (made({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)), "expected data_offsets from 8"),
        (made({"x": entry(), "y": entry(offsets=(12, 20))}, bytes(20)), "expected data_offsets from 8"),
        (made({"x": entry(offsets=(0, 8)), "y": entry(offsets=(8, 0))}, bytes(8)), "expected data_offsets from 8, got [8, 0]"),
        (made({"x": entry()}, bytes(9)), "expected 8 bytes behind the safetensors header, got 9"),
        (made({"x": entry()}, bytes(7)), "expected 8 bytes behind the safetensors header, got 7"),
        (made({"x": entry(), "__metadata__": {"a": 1}}, bytes(8)), "Expected `str`"),
        (made({"x": entry("BOOL", (8,))}, b"\x05" * 8), "safetensors array 'x': expected the bytes 0 and 1"),
        (made({f"{n}": entry(shape=(0,), offsets=(0, 0)) for n in range(1025)}), "at most 1024 arrays"),
    ],
)
def test_what_is_no_safetensors_is_refused(body, words):
    with pytest.raises(InvalidInputError) as refused:
        safetensors.decode(body)
    assert words in refused.value.message


@pytest.mark.parametrize(
    "value", [np.zeros(1, "c16"), np.array(["a"], dtype=object), {"__metadata__": X}, {"": X}, {"\ud800": X}, [X] * 1025]
)
def test_what_safetensors_cannot_hold(value):
    with pytest.raises(NotAcceptableError):
        safetensors.encode(value)
