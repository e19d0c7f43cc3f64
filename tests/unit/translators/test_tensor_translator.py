"""No translator named: tensors in JSON, CSV and binary formats, in and out."""

import json

import numpy as np
import pytest
from support.djl import json_request, properties_of, request

from flowyard.engines.djl.translators.base import NamedArray
from flowyard.engines.djl.translators.registry import translator_for
from flowyard.schemas.codecs.registry import NDLIST, NPY, NPZ, SAFETENSORS
from flowyard.schemas.errors import InvalidInputError, NodeError, NotAcceptableError

MATRIX = np.array([[1, 2.5], [3, 4]], np.float32)


@pytest.fixture
def make(tmp_path):
    return lambda text="": translator_for(tmp_path, properties_of(text), {})


def read(translator, message):
    return [one.array for one in translator.read(message).inputs]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"inputs": [1, 2]}, [1, 2]),
        ({"instances": [[1, 2.5], [3, 4]]}, MATRIX),
        ([[1, 2.5], [3, 4]], MATRIX),
        ([1], [1]),
        ([1e300], [np.inf]),
    ],
)
def test_json(make, value, expected):
    (array,) = read(make(), json_request(value))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"data": [1]},
        {"inputs": 5},
        {"inputs": "x"},
        [],
        [[[1]]],
        ["1"],
        [[1], [2, 3]],
        [None],
        [True],
        7,
        "x",
        None,
        {"inputs": None},
    ],
)
def test_json_of_another_form(make, value):
    with pytest.raises(InvalidInputError, match=r"^Input is not a supported json format$"):
        read(make(), json_request(value))


@pytest.mark.parametrize("codec", [NDLIST, NPZ, NPY, SAFETENSORS])
@pytest.mark.parametrize("kind", ["", "tensor/ndlist", "application/octet-stream", "tensor/npz; a=b"])
def test_binary_formats_go_by_their_first_bytes(make, codec, kind):
    (array,) = read(make(), request(codec.encode(MATRIX), kind))
    np.testing.assert_array_equal(array, MATRIX)


def test_several_arrays_and_names(make):
    translator = make()
    assert len(read(translator, request(NDLIST.encode([MATRIX, MATRIX])))) == 2
    assert [one.name for one in translator.read(request(NPZ.encode({"a": MATRIX, "b": MATRIX}))).inputs] == ["a", "b"]


@pytest.mark.parametrize("body", [b"", b"short", b"PK\x03\x04 broken", b"\x93NUMPY", b"\x00\x00\x00\x01\x00\x04NDAR"])
def test_what_is_no_tensor(make, body):
    with pytest.raises(InvalidInputError, match=r"^Input is not a NDList data type$"):
        read(make(), request(body))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1,2.5\n3,4\n", MATRIX), ("a,b\n1,2.5\n3,4", MATRIX), ('"1",2.5\r\n3,4\r\n', MATRIX), ("1,,\n", [[1, np.nan, np.nan]])],
)
def test_csv(make, text, expected):
    np.testing.assert_array_equal(read(make(), request(text, "text/csv"))[0], expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "CSV data is empty"),
        (b"a,b\n", "CSV data is empty"),
        (b"1,2\n3\n", "Row 2 has 1 columns, expected 2"),
        (b"1,x\n", "Non-numeric value 'x' at row 1, column 1"),
        (b"\xff", "no CSV"),
        (b'1,"2\n', "no CSV"),
    ],
)
def test_wrong_csv(make, body, message):
    with pytest.raises(InvalidInputError, match=message):
        read(make(), request(body, "text/csv"))


def answer(make, message, *outputs, text=""):
    translator = make(text)
    return translator.write([NamedArray(*one) for one in outputs], translator.read(message), message)


BINARY = request(NDLIST.encode(MATRIX))


@pytest.mark.parametrize(
    ("kind", "accept", "expected"),
    [
        ("", "", "tensor/ndlist"),
        ("tensor/ndlist", "*/*", "tensor/ndlist"),
        ("tensor/npz", "", "tensor/npz"),
        ("", "tensor/npz", "tensor/npz"),
        ("", "tensor/safetensors", "tensor/safetensors"),
        ("tensor/npz", "tensor/safetensors", "tensor/safetensors"),
        ("", "text/csv", "text/csv"),
        ("", "text/html, tensor/npz;q=0.5", "tensor/npz"),
    ],
)
def test_the_type_of_the_answer(make, kind, accept, expected):
    message = request(NPZ.encode(MATRIX) if kind == "tensor/npz" else NDLIST.encode(MATRIX), kind, accept)
    written = answer(make, message, ("", MATRIX))
    assert written.get("content-type") == expected
    codecs = {"tensor/ndlist": NDLIST, "tensor/npz": NPZ, "tensor/safetensors": SAFETENSORS}
    if expected in codecs:
        found = codecs[expected].decode(written.data)
        np.testing.assert_array_equal(found["arr_0"] if isinstance(found, dict) else found, MATRIX)


def test_json_is_answered_without_a_content_type(make):
    message = json_request([[1, 2]])
    written = answer(make, message, ("", MATRIX))
    assert written.properties == ()
    assert json.loads(written.data) == {"predictions": [[1, 2.5], [3, 4]]}


def test_several_outputs_in_json_are_pairs(make):
    written = answer(make, request(NDLIST.encode(MATRIX), "", "application/json"), ("a", MATRIX), ("", MATRIX[0]))
    assert json.loads(written.data) == {"predictions": [{"key": "a", "value": MATRIX.tolist()}, {"value": [1, 2.5]}]}


def test_names_of_outputs_are_kept(make):
    written = answer(make, request(NDLIST.encode(MATRIX), "", "tensor/npz"), ("scores", MATRIX), ("", MATRIX))
    assert list(NPZ.decode(written.data)) == ["scores", "arr_1"]


def test_csv_out(make):
    assert answer(make, request(NDLIST.encode(MATRIX), "", "text/csv"), ("", MATRIX)).data == b"1.0,2.5\n3.0,4.0\n"
    assert answer(make, request(NDLIST.encode(MATRIX), "", "text/csv"), ("", MATRIX[0])).data == b"1.0,2.5\n"
    with pytest.raises(NodeError, match="one output"):
        answer(make, request(NDLIST.encode(MATRIX), "", "text/csv"), ("", MATRIX[None]))


def test_what_a_format_cannot_hold(make):
    text = np.array(["a"], object)
    with pytest.raises(NotAcceptableError, match="cannot hold string arrays"):
        answer(make, request(NDLIST.encode(MATRIX), "", "tensor/npz"), ("", text))


@pytest.mark.parametrize("batchifier", ["stack", "padding"])
def test_a_batchifier_adds_an_axis_and_takes_it_away(make, batchifier):
    translator = make(f"batchifier={batchifier}")
    assert translator.pads == (batchifier == "padding")
    (array,) = read(translator, BINARY)
    assert array.shape == (1, 2, 2)
    written = answer(make, BINARY, ("", MATRIX[None]), text=f"batchifier={batchifier}")
    assert NDLIST.decode(written.data).shape == (2, 2)
