"""Tensors of the Open Inference Protocol: in JSON and in binary, and everything that is wrong with them."""

from __future__ import annotations

import json
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowyard.platform.http.kserve.bodies import InferRequest, outputs_of, read_request, write_answer
from flowyard.platform.http.kserve.tensors import DTYPES, Tensor, read_binary, read_json, write_binary, write_json
from flowyard.schemas.errors import InternalError, InvalidInputError, InvalidRequestError

arrays = hnp.arrays(
    dtype=st.sampled_from([np.dtype(name) for name in DTYPES.values()]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    elements={"allow_nan": False, "allow_infinity": False},
)


def read(datatype, shape, data):
    return read_json("x", datatype, shape, msgspec.Raw(json.dumps(data).encode()))


@given(arrays)
def test_arrays_survive_json_and_binary(array):
    tensor = Tensor("x", array)
    told = json.loads(msgspec.json.encode(write_json(tensor)))
    assert np.array_equal(read(told["datatype"], told["shape"], told["data"]), array)
    head, content = write_binary(tensor)
    assert head["parameters"]["binary_data_size"] == len(content)
    again = read_binary("x", head["datatype"], head["shape"], memoryview(content))
    assert np.array_equal(again, array)
    assert again.dtype == array.dtype


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=9), max_size=5))
def test_strings_survive_json_and_binary(strings):
    tensor = Tensor("x", np.array(strings, dtype=object))
    told = json.loads(msgspec.json.encode(write_json(tensor)))
    assert (told["datatype"], told["data"]) == ("BYTES", strings)
    assert read("BYTES", [len(strings)], strings).tolist() == strings
    head, content = write_binary(tensor)
    assert read_binary("x", "BYTES", head["shape"], memoryview(content)).tolist() == strings


def test_data_may_be_nested():
    assert read("INT32", [2, 2], [[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert read("FP32", [1, 1, 1], [[[5]]]).tolist() == [[[5.0]]]
    deep: object = 1
    for _ in range(500):
        deep = [deep]
    assert read("INT8", [1], deep).tolist() == [1]


def test_a_not_a_number_is_null():
    assert write_json(Tensor("x", np.array([np.nan, 1.0], np.float32)))["data"] == [None, 1.0]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("FLOAT", [1], [1], "datatype 'FLOAT' is not one of BOOL"),
        ("BF16", [1], [1], "datatype 'BF16'"),
        ("FP32", [2], [1], "1 elements, but shape [2] holds 2"),
        ("FP32", [-1], [1], "from 0 on"),
        ("FP32", [1] * 33, [1], "at most 32 axes"),
        ("INT8", [1], [300], "INT8"),
        ("UINT8", [1], [-1], "UINT8"),
        ("INT64", [1], [2**70], "INT64"),
        ("INT32", [1], [1.5], "INT32"),
        ("INT32", [1], ["1"], "INT32"),
        ("BOOL", [1], [1], "BOOL"),
        ("FP32", [1], [None], "FP32"),
        ("BYTES", [1], [1], "BYTES"),
        ("FP32", [1], {"a": 1}, "FP32"),
        ("FP32", [10**9, 10**9], [1], "holds 1000000000000000000"),
    ],
)
def test_wrong_tensors(datatype, shape, data, words):
    with pytest.raises(InvalidInputError) as caught:
        read(datatype, shape, data)
    assert words in caught.value.message
    assert "'x'" in caught.value.message


@pytest.mark.parametrize(
    ("datatype", "shape", "content", "words"),
    [
        ("FP32", [2], b"\0" * 7, "7 bytes, but FP32 of shape [2] has 8"),
        ("BYTES", [1], b"\1\0", "cut off"),
        ("BYTES", [1], struct.pack("<I", 9) + b"abc", "reaches past the end"),
        ("BYTES", [2], struct.pack("<I", 1) + b"a", "1 strings"),
        ("BYTES", [1], struct.pack("<I", 1) + b"\xff", "not UTF-8"),
    ],
)
def test_wrong_binary_tensors(datatype, shape, content, words):
    with pytest.raises(InvalidInputError) as caught:
        read_binary("x", datatype, shape, memoryview(content))
    assert words in caught.value.message


INPUT = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
BINARY = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "Invalid JSON input"),
        (b"\xff", "Invalid JSON input"),
        (b"[]", "Invalid inference request"),
        (b"{}", "inputs"),
        (json.dumps({"inputs": []}), "from 1 to"),
        (json.dumps({"inputs": [INPUT, INPUT]}), "same name"),
        (json.dumps({"inputs": [{**INPUT, "shape": "1"}]}), "shape"),
        (json.dumps({"inputs": [{**INPUT, "name": 1}]}), "name"),
        (json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}), "neither data nor"),
        (json.dumps({"inputs": [BINARY]}), "reaches past the end"),
        (json.dumps({"inputs": [{**BINARY, "parameters": {"binary_data_size": True}}]}), "reaches past the end"),
        (json.dumps({"inputs": [INPUT], "outputs": [{}]}), "outputs"),
    ],
)
def test_wrong_requests(body, words):
    with pytest.raises((InvalidRequestError, InvalidInputError)) as caught:
        read_request({}, body if isinstance(body, bytes) else body.encode())
    assert words in caught.value.message


@pytest.mark.parametrize("length", ["x", "-1", "999", ""])
def test_a_wrong_length_of_the_json(length):
    with pytest.raises(InvalidRequestError, match="Inference-Header-Content-Length"):
        read_request({"inference-header-content-length": length}, b"{}")


def test_binary_inputs_stand_behind_the_json():
    head = json.dumps({"inputs": [BINARY, {**BINARY, "name": "y"}]}).encode()
    tail = np.array([1, 2], "<f4").tobytes()
    _, tensors = read_request({"inference-header-content-length": str(len(head))}, head + tail)
    assert [(tensor.name, tensor.array.tolist()) for tensor in tensors] == [("x", [1.0]), ("y", [2.0])]
    with pytest.raises(InvalidInputError, match="1 bytes behind the last input"):
        read_request({"inference-header-content-length": str(len(head))}, head + tail + b"!")


@pytest.mark.parametrize(
    ("value", "names", "wanted", "found"),
    [
        (np.zeros(2), [], [], ["output0"]),
        (np.zeros(2), ["y"], [], ["y"]),
        (np.zeros(2), [], ["mine"], ["mine"]),
        ([np.zeros(1), np.zeros(1)], [], [], ["output0", "output1"]),
        ({"a": np.zeros(1), "b": [1, 2]}, [], ["b"], ["b"]),
        ([1, 2, 3], [], [], ["output0"]),
        ("text", [], [], ["output0"]),
        (b"text", [], [], ["output0"]),
        (1.5, [], [], ["output0"]),
    ],
)
def test_outputs_of_results(value, names, wanted, found):
    assert [tensor.name for tensor in outputs_of(value, names, wanted)] == found


@pytest.mark.parametrize("value", [[[1], [1, 2]], {"a": {"b": 1}}, None, b"\xff", [np.zeros(1), None]])
def test_results_that_are_no_tensors(value):
    with pytest.raises(InternalError, match="is no tensor"):
        outputs_of(value, [], [])


def test_an_output_that_there_is_not():
    with pytest.raises(InvalidInputError, match="no output 'z'; the model gives y"):
        outputs_of(np.zeros(1), ["y"], ["z"])


def test_outputs_go_out_as_asked():
    request = InferRequest(inputs=(), parameters={"binary_data_output": True})
    body, length = write_answer({"model_name": "m"}, [Tensor("y", np.array([1.0], np.float32))], request)
    assert json.loads(body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert np.frombuffer(body[length:], "<f4").tolist() == [1.0]
    body, length = write_answer({"model_name": "m"}, [Tensor("y", np.array([1.0], np.float32))], InferRequest(inputs=()))
    assert length is None
    assert json.loads(body)["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}]
