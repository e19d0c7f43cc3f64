"""What data becomes as a body, and answers as values; streams in whatever portions they come."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.client import Event, InvalidArgumentError, NodeError, UnexpectedAnswerError
from flowyard.platform.client.inputs import body_of
from flowyard.platform.client.pieces import decoder_of, value_of
from flowyard.platform.client.uploads import Upload
from flowyard.schemas.codecs.content import value_of_body

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("data", "content_type", "kind"),
    [
        (None, None, "application/json"),
        ({"x": [1, "ü", None, True]}, None, "application/json"),
        ([], None, "application/json"),
        ({}, None, "application/json"),
        (b"\x00\x01", None, "application/octet-stream"),
        (b"[1]", "application/json", "application/json"),
        ("text", "text/plain", "text/plain"),
        (5, "application/vnd.model+json", "application/vnd.model+json"),
    ],
)
def test_bodies(data, content_type, kind):
    found, body = body_of(data, content_type)
    assert found == kind
    expected = data if isinstance(data, bytes) else data.encode() if kind == "text/plain" else json.dumps(data)
    assert json.loads(body) == json.loads(expected) if kind.endswith("json") else body == expected


@pytest.mark.parametrize(
    ("data", "content_type", "kind"),
    [
        (ARRAY, None, "tensor/npy"),
        ({"x": ARRAY, "y": ARRAY + 1}, None, "tensor/npz"),
        ({"x": ARRAY}, "tensor/safetensors", "tensor/safetensors"),
        ([ARRAY, ARRAY + 1], None, "tensor/ndlist"),
        (ARRAY, "application/x-npy", "application/x-npy"),
    ],
)
def test_arrays(data, content_type, kind):
    found, body = body_of(data, content_type)
    assert found == kind
    np.testing.assert_equal(value_of_body(kind, body), data)


def test_numpy_inside_json():
    _, body = body_of({"x": ARRAY, "n": np.float32(1.5), "i": np.int64(2)}, "application/json")
    assert json.loads(body) == {"x": ARRAY.tolist(), "n": 1.5, "i": 2}


@pytest.mark.parametrize("data", [object(), {1, object()}, {"a": object()}, "\ud800"])
def test_what_json_cannot_tell(data):
    with pytest.raises(InvalidArgumentError, match="JSON"):
        body_of(data)


def test_arrays_that_a_format_cannot_hold():
    with pytest.raises(InvalidArgumentError, match="npy"):
        body_of([ARRAY, ARRAY], "tensor/npy")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.json", "application/json"),
        ("a.NPY", "tensor/npy"),
        ("a.safetensors", "tensor/safetensors"),
        ("a.png", "image/png"),
        ("a.txt", "text/plain"),
        ("a", "application/octet-stream"),
    ],
)
def test_files(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"12345")
    found, body = body_of(tmp_path / name)
    assert isinstance(body, Upload)
    assert (found, body.content_type, body.length, b"".join(body.chunks())) == (kind, kind, 5, b"12345")


def test_files_that_are_none(tmp_path):
    with pytest.raises(InvalidArgumentError, match="no such file"):
        body_of(tmp_path / "nothing")
    with pytest.raises(InvalidArgumentError, match="not a regular file"):
        body_of(tmp_path)


PIECES = [
    ("application/x-ndjson", b'{"n":0}\n\n[1,2]\n"\xc3\xbc"\n3', [{"n": 0}, [1, 2], "ü", 3]),
    ("text/plain; charset=utf-8", "eins zwei € drei".encode(), "eins zwei € drei"),
    ("application/octet-stream", bytes(range(256)), bytes(range(256))),
    ("application/json", b'{"a": [1, 2]}', [{"a": [1, 2]}]),
]


@given(st.data())
@pytest.mark.parametrize(("content_type", "body", "expected"), PIECES, ids=[kind for kind, _, _ in PIECES])
def test_pieces_do_not_depend_on_how_they_arrive(content_type, body, expected, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    decoder = decoder_of(content_type)
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        found += decoder.feed(body[start:end])
    found += decoder.end()
    assert (type(expected)().join(found) if isinstance(expected, (str, bytes)) else found) == expected


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/json", b"[1]", [1]),
        ("text/plain", b"\xc3\xbc", "ü"),
        ("application/octet-stream", b"\x93NUMPY", b"\x93NUMPY"),
        ("", b"x", b"x"),
        ("image/png", b"x", b"x"),
        ("application/x-ndjson", b"1\n2\n", [1, 2]),
        ("text/event-stream", b"data: 1\n\nevent: end\ndata: a\ndata: b\nid: 7\n\n", [Event("1"), Event("a\nb", "end", "7")]),
    ],
)
def test_values(content_type, body, value):
    assert value_of(content_type, body) == value


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", b"[1"), ("application/x-ndjson", b"1\n{"), ("tensor/npy", b"no"), ("text/plain", b"\xff")],
)
def test_answers_that_are_not_what_they_say(content_type, body):
    with pytest.raises(UnexpectedAnswerError):
        value_of(content_type, body)


def test_an_error_among_events():
    body = b'data: 1\n\nevent: error\ndata: {"code": 424, "type": "TranslateException", "message": "m"}\n\n'
    with pytest.raises(NodeError):
        value_of("text/event-stream", body)
