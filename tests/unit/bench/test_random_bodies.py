"""Random bodies fit what the server says of a model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from flowyard.platform.bench.bodies import JSON, NPY, Body, fitting_bodies, given_body
from flowyard.platform.bench.response import Response
from flowyard.platform.bench.target import Target
from flowyard.schemas.errors import NotFoundError, UserError


def described(monkeypatch, inputs, status=200, **more):
    model = {"modelName": "m", "signature": {"inputs": inputs}}
    body = msgspec.json.encode([{"workflowName": "m", "models": [model], **more}])
    monkeypatch.setattr(Target, "exchange", lambda *_: Response(status, len(body), True, b"", body))
    return Target("x", 1)


def test_npy_first_then_json_for_one_input(monkeypatch):
    target = described(monkeypatch, [{"name": "x", "dtype": "float32", "shape": [-1, 3, 4]}])
    first, second = fitting_bodies(target, "m")
    assert (first.content_type, second.content_type) == (NPY, JSON)
    array = np.load(io.BytesIO(first.content))
    assert (array.dtype, array.shape) == (np.float32, (1, 3, 4))
    np.testing.assert_allclose(json.loads(second.content), array, rtol=1e-6)
    assert fitting_bodies(target, "m") == [first, second]


def test_json_by_name_for_several(monkeypatch):
    inputs = [{"name": "ids", "dtype": "int64", "shape": [-1, 4]}, {"name": "words", "dtype": "string", "shape": [2]}]
    (body,) = fitting_bodies(described(monkeypatch, inputs), "m")
    value = json.loads(body.content)
    assert set(np.ravel(value["ids"])) <= {0, 1}
    assert value["words"] == ["flowyard", "flowyard"]


@pytest.mark.parametrize(
    ("inputs", "more"),
    [
        ([], {}),
        ([{"name": "x"}], {}),
        ([{"name": "x", "dtype": "float32"}], {}),
        ([{"name": "x", "dtype": "float32", "shape": [1]}], {"functions": {"modelName": "functions"}}),
        ([{"name": "x", "dtype": "float32", "shape": [1]}], {"models": []}),
    ],
)
def test_what_is_not_known_is_asked_for(monkeypatch, inputs, more):
    with pytest.raises(UserError, match="--body"):
        fitting_bodies(described(monkeypatch, inputs, **more), "m")


def test_an_unknown_model_is_named(monkeypatch):
    with pytest.raises(NotFoundError, match='"m"'):
        fitting_bodies(described(monkeypatch, [], status=404), "m")


@pytest.mark.parametrize(
    ("name", "content", "given", "expected"),
    [
        ("a.npy", b"", None, NPY),
        ("a.png", b"", None, "image/png"),
        ("a", b'{"x": 1}', None, JSON),
        ("-", b"\0", None, "application/octet-stream"),
        ("a.npy", b"", "text/plain", "text/plain"),
    ],
)
def test_the_type_of_a_given_body(name, content, given, expected):
    assert given_body(Path(name), content, given) == Body(content, expected)
