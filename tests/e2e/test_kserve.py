"""The Open Inference Protocol on a real server: the standard's spellings and DJL's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.archives import linear_onnx

HANDLER = """
from djl_python import Input, Output

def handle(inputs):
    if inputs.is_empty():
        return None
    arrays = inputs.get_as_numpy()
    if arrays[0].sum() > 99:
        return Output().error("too much")
    assert inputs.get_property("content-type") is None
    return Output().add_as_numpy([array * 2 for array in arrays])
"""
TEXT = """
def predict(item):
    return item.tolist()[0].upper()
"""
MODELS = (("lin", "", "linear.onnx"), ("ver", "2", "linear.onnx"), ("twice", "", "twice"), ("upper", "", "upper"))
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}


@pytest.fixture(scope="module", autouse=True)
def models(server, http):
    (server.model_store / "linear.onnx").write_bytes(linear_onnx([[1.0, 10.0], [2.0, 20.0]]))
    for name, source in (("twice", HANDLER), ("upper", TEXT)):
        (server.model_store / name).mkdir()
        (server.model_store / name / "model.py").write_text(source)
    for name, version, url in (
        ("lin", "", "linear.onnx"),
        ("ver", "2", "linear.onnx"),
        ("twice", "", "twice"),
        ("upper", "", "upper"),
    ):
        answer = http.post("/models", params={"url": url, "model_name": name, "model_version": version})
        assert answer.status_code == 200, answer.text


def test_the_server(http):
    assert http.get("/v2").json()["name"] == "flowyard"
    assert http.get("/v2/").json()["extensions"] == ["binary_tensor_data"]
    for path in ("live", "ready"):
        answer = http.get(f"/v2/health/{path}")
        assert (answer.status_code, answer.text) == (200, "\n")
        assert answer.headers["x-request-id"]
    assert http.head("/v2/health/ready").status_code == 200


def test_a_models_metadata(http):
    assert http.get("/v2/models/lin").json() == {
        "name": "lin",
        "versions": [],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert http.get("/v2/models/ver/versions/2").json()["versions"] == ["2"]
    assert http.get("/v2/models/twice").json() == {
        "name": "twice",
        "versions": [],
        "platform": "Python",
        "inputs": [],
        "outputs": [],
    }


@pytest.mark.parametrize("path", ["lin/ready", "ver/versions/2/ready", "ver/version/2/ready", "ver/ready"])
def test_a_model_is_ready(http, path):
    answer = http.get(f"/v2/models/{path}")
    assert (answer.status_code, answer.text) == (200, "\n")


@pytest.mark.parametrize("path", ["ver", "ver/versions/2", "ver/version/2"])
def test_infer(http, path):
    answer = http.post(f"/v2/models/{path}/infer", json={"id": "7", "inputs": [INPUT]})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "model_name": "ver",
        "model_version": "2",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [3.0, 30.0]}],
    }


def test_infer_in_binary_both_ways(http):
    head = json.dumps(
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    body = head + np.array([1, 1], "<f4").tobytes()
    answer = http.post("/v2/models/lin/infer", content=body, headers={"Inference-Header-Content-Length": str(len(head))})
    assert answer.status_code == 200
    length = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == [3.0, 30.0]


def test_a_handler_gets_an_ndlist(http):
    answer = http.post("/v2/models/twice/infer", json={"inputs": [INPUT], "outputs": [{"name": "mine"}]})
    assert answer.json()["outputs"] == [{"name": "mine", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 2.0]}]


def test_a_handler_that_fails(http):
    answer = http.post("/v2/models/twice/infer", json={"inputs": [{**INPUT, "data": [99, 99]}]})
    assert answer.status_code == 400
    assert "too much" in answer.json()["error"]


def test_texts(http):
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hello"]}
    answer = http.post("/v2/models/upper/infer", json={"inputs": [tensor]})
    assert answer.json()["outputs"] == [{"name": "output0", "datatype": "BYTES", "shape": [], "data": ["HELLO"]}]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/v2/models/nobody", None, 404, "Model not found: nobody"),
        ("GET", "/v2/models/nobody/ready", None, 404, "Model not found: nobody"),
        ("GET", "/v2/models/ver/versions/9/ready", None, 404, "Model not found: ver"),
        ("POST", "/v2/models/nobody/infer", {"inputs": [INPUT]}, 404, "Model not found: nobody"),
        ("POST", "/v2/models/lin", None, 405, "method is not allowed"),
        ("GET", "/v2/models/lin/infer", None, 405, "method is not allowed"),
        ("GET", "/v2/nothing", None, 404, "refer to API document"),
        ("GET", "/v2/models", None, 404, "refer to API document"),
        ("GET", "/v2/models/ver/versions", None, 404, "refer to API document"),
        ("POST", "/v2/models/lin/infer", {"inputs": [{**INPUT, "name": "z"}]}, 400, 'expected a mapping with "x"'),
        ("POST", "/v2/models/lin/infer", {"inputs": [{**INPUT, "shape": [1, 3], "data": [1, 1, 1]}]}, 400, "float32[?, 2]"),
        ("POST", "/v2/models/lin/infer", {"inputs": [INPUT], "outputs": [{"name": "q"}]}, 400, "no output 'q'"),
        ("POST", "/v2/models/lin/infer", {"inputs": 1}, 400, "Invalid inference request"),
    ],
)
def test_mistakes(http, method, path, body, status, words):
    answer = http.request(method, path, json=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("data", [b'["\xff"]', b"[1e999]", b'{"\xff": 1}'])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_tensors_that_are_no_json_of_their_type(http, datatype, data):
    body = b'{"inputs": [{"name": "x", "datatype": "%s", "shape": [1], "data": %s}]}' % (datatype.encode(), data)
    answer = http.post("/v2/models/lin/infer", content=body)
    assert (answer.status_code, list(answer.json())) == (400, ["error"]), answer.text
