"""Tensors over HTTP: bodies in every format, answers in the one that is asked for."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from support.archives import linear_onnx, zipped

WORKFLOW = """
name: tensors
models: {linear: linear.onnx}
workflow:
  out: [linear, in]
"""
STEPS = """
import numpy as np

def give(value):
    return {"list": [np.arange(2), np.array([True])], "mapping": {"a": np.arange(2), "b": np.array(1.5)}, "text": "plain",
            "mixed": {"a": np.arange(2), "b": "text"}, "raw": b"\\x00raw", "strings": np.array(["a", "b"])}[value["what"]]

def show(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)} writable={value.flags.writeable}"
    return {"type": type(value).__name__, "length": len(value)}
"""
FUNCTION = """
name: {function}
functions: {{f: steps:{function}}}
workflow:
  out: [f, in]
"""
X = np.array([[1, 2, 3], [4, 5, 6]], "f4")
Y = X @ np.array([[1, 0], [0, 1], [1, 1]], "f4")
TYPES = ["tensor/npy", "application/x-npy", "tensor/npz", "application/x-npz", "tensor/safetensors", "tensor/ndlist"]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(save=np.savez, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def safetensors(**arrays):
    header, place = {}, 0
    for name, array in arrays.items():
        assert array.dtype == np.float32
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values())


def ndlist(array, *, dtype="FLOAT32", name=None):
    def utf(text):
        return struct.pack(">H", len(text)) + text.encode()

    body = struct.pack(">i", 1) + utf("NDAR") + struct.pack(">i", 3)
    body += (b"\x01" + utf(name) if name else b"\x00") + utf("default") + utf(dtype)
    body += struct.pack(f">i{array.ndim}qi", array.ndim, *array.shape, array.ndim) + b"\x00?" * array.ndim
    return body + b"<" + struct.pack(">i", array.nbytes) + array.tobytes()


def read(content_type, body):
    """An answer of one array, read without our own codecs."""
    if content_type.endswith("npy"):
        return np.load(io.BytesIO(body), allow_pickle=False)
    if content_type.endswith("npz"):
        with np.load(io.BytesIO(body), allow_pickle=False) as loaded:
            assert list(loaded) == ["arr_0"]
            return loaded["arr_0"]
    if content_type == "tensor/safetensors":
        (size,) = struct.unpack("<Q", body[:8])
        entry = json.loads(body[8 : 8 + size])["arr_0"]
        assert entry["dtype"] == "F32"
        return np.frombuffer(body[8 + size :], "<f4").reshape(entry["shape"])
    if content_type == "tensor/ndlist":
        assert body == ndlist(Y).replace(b"\x00\x07default", b"\x00\x05DENSE")
        return np.frombuffer(body[-Y.nbytes :], "<f4").reshape(Y.shape)
    assert content_type == "application/json"
    return np.array(json.loads(body), "f4")


BODIES = [
    ("tensor/npy", npy(X)),
    ("application/x-npy", npy(np.asfortranarray(X.astype(">f8")))),
    ("Tensor/NPY; charset=binary", npy(X)),
    ("tensor/npz", npz(x=X)),
    ("tensor/npz", npz(data=X)),
    ("application/x-npz", npz(np.savez_compressed, arr_0=X)),
    ("tensor/safetensors", safetensors(x=X)),
    ("tensor/ndlist", ndlist(X)),
    ("tensor/ndlist", ndlist(X, name="x")),
    ("tensor/ndlist", npz(arr_0=X)),
    ("application/octet-stream", npy(X)),
    (None, npy(X)),
    (None, ndlist(X)),
]


@pytest.fixture(scope="module")
def predict(http):
    archive = zipped({"workflow.yaml": WORKFLOW, "linear.onnx": linear_onnx([[1, 0], [0, 1], [1, 1]])})
    answer = http.post("/workflows", content=archive)
    assert answer.status_code == 200, answer.text
    for function in ("give", "show"):
        archive = zipped({"workflow.yaml": FUNCTION.format(function=function), "steps.py": STEPS})
        answer = http.post("/workflows", content=archive)
        assert answer.status_code == 200, answer.text

    def post(body, content_type=None, accept="*/*", name="tensors"):
        headers = {"accept": accept} | ({"content-type": content_type} if content_type else {})
        return http.post(f"/predictions/{name}", content=body, headers=headers)

    return post


@pytest.mark.parametrize(("content_type", "body"), BODIES)
def test_a_model_takes_tensors_and_answers_in_kind(predict, content_type, body):
    answer = predict(body, content_type)
    sent = (content_type or "").partition(";")[0].lower()
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == (sent if sent in TYPES else "application/json")
    np.testing.assert_array_equal(read(answer.headers["content-type"], answer.content), Y)


@pytest.mark.parametrize("accept", [*TYPES, "application/json"])
@pytest.mark.parametrize(
    ("content_type", "body"), [("application/json", json.dumps(X.tolist()).encode()), ("tensor/npz", npz(x=X))]
)
def test_accept_decides_how_the_answer_is_told(predict, content_type, body, accept):
    answer = predict(body, content_type, accept)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == accept
    assert "server-timing" in answer.headers
    np.testing.assert_array_equal(read(accept, answer.content), Y)


def test_a_single_row_comes_back_as_one(predict):
    answer = predict(npy(X[0]), "tensor/npy")
    np.testing.assert_array_equal(read("tensor/npy", answer.content), Y[0])


@pytest.mark.parametrize(
    ("what", "accept", "content_type"),
    [
        ("list", "tensor/npz", "tensor/npz"),
        ("mapping", "tensor/npz", "tensor/npz"),
        ("mapping", "tensor/npy, tensor/safetensors;q=0.5", "tensor/safetensors"),
        ("mixed", "tensor/npz, application/json;q=0.1", "application/json"),
        ("text", "tensor/npz, text/plain", "text/plain; charset=utf-8"),
        ("raw", "tensor/npz", "application/octet-stream"),
        ("strings", "tensor/ndlist", "tensor/ndlist"),
        ("strings", "*/*", "application/json"),
        ("list", "text/html", "application/json"),
    ],
)
def test_what_a_function_returns_is_told_as_far_as_the_type_allows(predict, what, accept, content_type):
    answer = predict(json.dumps({"what": what}), "application/json", accept, "give")
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type), answer.text
    if content_type == "tensor/npz":
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as loaded:
            expected = {"list": {"arr_0": [0, 1], "arr_1": [True]}, "mapping": {"a": [0, 1], "b": 1.5}}[what]
            assert {name: array.tolist() for name, array in loaded.items()} == expected


@pytest.mark.parametrize(
    ("what", "accept", "words"),
    [
        ("mixed", "tensor/npz", "the result is not an array"),
        ("text", "tensor/*", "the result is not an array"),
        ("list", "tensor/npy", "ask for tensor/npz"),
        ("strings", "tensor/npy", "tensor/npy cannot hold string arrays"),
    ],
)
def test_what_cannot_be_told_as_accepted_is_406(predict, what, accept, words):
    answer = predict(json.dumps({"what": what}), "application/json", accept, "give")
    assert answer.status_code == 406
    assert answer.json()["type"] == "BadRequestException"
    assert words in answer.json()["message"]
    assert "application/json" in answer.json()["message"]


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("tensor/npy", npy(X[:, :2]), 'input "x": expected float32[?, 3], got float32[2, 2]'),
        ("tensor/npy", npy(X.astype("c8")), 'input "x": expected float32[?, 3], got complex64[2, 3]'),
        ("tensor/npz", npz(z=X), 'expected a mapping with "x", got one without "x"'),
        ("tensor/npy", npy(X)[:-1], "expected 24 bytes for float32[2, 3], got 23 at byte 128"),
        ("tensor/npy", npy(np.array([[object()]])), "expected an array of numbers or bools, got the npy dtype '|O'"),
        ("tensor/npy", npy(np.zeros(3, "M8[s]")), "'<M8[s]' (datetime64)"),
        ("tensor/npy", npy(np.zeros(3, [("a", "f4")])), "structured"),
        ("tensor/npy", b"", "expected npy"),
        ("application/octet-stream", npy(X) + b"more", "expected 24 bytes for float32[2, 3], got 28"),
        ("tensor/npz", b"\x89PNG", "expected a ZIP archive"),
        ("tensor/npz", npz(x=X)[:-5], "expected a ZIP archive"),
        ("tensor/safetensors", safetensors(x=X)[:-4], "expected 24 bytes behind the safetensors header, got 20"),
        ("tensor/ndlist", ndlist(X, dtype="FLOAT8"), "got 'FLOAT8'"),
        ("tensor/ndlist", ndlist(X)[:-1], "got a body that ends at byte"),
        (None, b"\x89PNG", "send JSON or a tensor content type"),
    ],
)
def test_what_does_not_fit_is_400_with_what_was_expected_and_what_came(predict, content_type, body, words):
    answer = predict(body, content_type)
    assert answer.status_code == 400, answer.text
    assert answer.json()["type"] == "TranslateException"
    assert words in answer.json()["message"]


@pytest.mark.parametrize(
    ("content_type", "body", "seen"),
    [
        ("tensor/npy", npy(X), "float32[2, 3] writable=False"),
        ("tensor/ndlist", ndlist(np.array([True, False]), dtype="BOOL"), "bool[2] writable=False"),
        ("tensor/npz", npz(a=X, b=X), {"type": "dict", "length": 2}),
        ("tensor/npz", npz(arr_0=X, arr_1=X), {"type": "list", "length": 2}),
        (None, zipped({"a.npy": npy(X), "readme.txt": "hello"}), {"type": "bytes"}),
        (None, b"\x89PNG\r\n\x1a\n", {"type": "bytes", "length": 8}),
        ("image/png", npy(X), {"type": "bytes", "length": 152}),
    ],
)
def test_what_a_function_sees(predict, content_type, body, seen):
    answer = predict(body, content_type, "application/json", "show")
    if isinstance(seen, str):
        assert answer.text == seen
    else:
        assert answer.json() | seen == answer.json()
