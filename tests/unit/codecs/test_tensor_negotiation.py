"""Which codec reads a body, and in which content type an answer goes out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from support.archives import zipped

from flowyard.platform.http.bodies import payload_of
from flowyard.platform.http.negotiation import encode_tensors
from flowyard.schemas.codecs import ndlist, npy, npz, safetensors
from flowyard.schemas.codecs.registry import BY_TYPE
from flowyard.schemas.errors import NotAcceptableError

X = np.arange(3, dtype="f4")
BODIES = {kind: codec.encode(X) for kind, codec in BY_TYPE.items()}
STRINGS = np.array(["a"], dtype=object)


@pytest.mark.parametrize("kind", BY_TYPE)
def test_a_content_type_chooses_the_codec(kind):
    for header in (kind, kind.upper(), f" {kind} ; charset=binary"):
        np.testing.assert_array_equal(payload_of(header, BODIES[kind]).value(), X, strict=True)


@pytest.mark.parametrize("kind", BY_TYPE)
def test_ndlist_stands_for_all_formats_as_in_djl(kind):
    np.testing.assert_array_equal(payload_of("tensor/ndlist", BODIES[kind]).value(), X, strict=True)


@pytest.mark.parametrize("header", ["", "application/octet-stream", "Application/Octet-Stream; x=y"])
def test_without_a_content_type_only_what_is_certain_is_a_tensor(header):
    for body in (npy.encode(X), npz.encode(X), ndlist.encode(X)):
        np.testing.assert_array_equal(payload_of(header, body).value(), X, strict=True)
    archive = io.BytesIO()
    np.savez(archive)
    others = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", zipped({"a.npy": npy.encode(X), "b.txt": b""}), b"PK\x03\x04"]
    for body in (*others, safetensors.encode(X), archive.getvalue()):
        assert payload_of(header, body).value() == body


@pytest.mark.parametrize("header", ["image/png", "text/plain", "application/zip"])
def test_other_content_types_are_never_tensors(header):
    assert payload_of(header, npy.encode(X)).value() == npy.encode(X)


@pytest.mark.parametrize(
    ("value", "accept", "sent", "answered"),
    [
        (X, "", "", None),
        (X, "*/*", "image/png", None),
        (X, "application/json", "tensor/npz", None),
        (X, "", "tensor/npz", "tensor/npz"),
        (X, "*/*", "Application/X-NPY; a=b", "application/x-npy"),
        ([X, X], "", "tensor/npy", None),
        ({"a": X}, "", "tensor/safetensors", "tensor/safetensors"),
        ({"a": X, "b": "text"}, "", "tensor/ndlist", None),
        ({}, "", "tensor/ndlist", None),
        ([], "", "tensor/ndlist", None),
        ("text", "", "tensor/ndlist", None),
        (1.5, "*/*", "tensor/ndlist", None),
        (STRINGS, "", "tensor/npz", None),
        (STRINGS, "", "tensor/ndlist", "tensor/ndlist"),
        (STRINGS, "tensor/npy, tensor/ndlist", "", "tensor/ndlist"),
        (X, "tensor/npz", "", "tensor/npz"),
        (X, "tensor/npz", "tensor/npy", "tensor/npz"),
        (X, "Tensor/NPZ; v=1", "", "tensor/npz"),
        (X, "application/json, tensor/npy", "", None),
        (X, "application/json;q=0.5, tensor/npy", "", "tensor/npy"),
        (X, "*/*;q=0.1, tensor/npy;q=0.2", "", "tensor/npy"),
        (X, "*/*, tensor/npy", "", "tensor/npy"),
        (X, "tensor/npy;q=0, */*", "tensor/npy", None),
        (X, "application/json;q=0, */*", "", "tensor/ndlist"),
        (X, "tensor/ndlist;q=0, application/json;q=0", "", "tensor/npz"),
        (X, "tensor/*", "", "tensor/ndlist"),
        (X, "tensor/*", "tensor/npz", "tensor/npz"),
        (X, "tensor/*", "application/x-npz", "tensor/ndlist"),
        (X, "application/*", "", None),
        (X, "application/*", "application/x-npz", "application/x-npz"),
        (X, "text/html, image/gif, *; q=.2, */*; q=.2", "", None),
        (X, "text/html", "", None),
        (X, "text/html", "tensor/npz", "tensor/npz"),
        (X, "text/plain, tensor/npz;q=0.5", "", "tensor/npz"),
        ("text", "text/plain, tensor/npz", "", None),
        ("text", "text/*;q=0.1, tensor/npz", "", None),
        ("text", "tensor/npz, application/json;q=0.1", "", None),
        (X, ",,;q=,;;,", "", None),
        (X, "tensor/npy;q=high", "", "tensor/npy"),
        (X, "tensor/npy;q=nan", "", "tensor/npy"),
        (X, "x" * 5000, "", None),
    ],
)
def test_accept_decides(value, accept, sent, answered):
    answer = encode_tensors(value, accept, sent)
    assert (answer and answer[0].decode()) == answered
    if answer is not None:
        np.testing.assert_equal(BY_TYPE[answered].decode(answer[1]), value)


@pytest.mark.parametrize(
    ("value", "accept", "words"),
    [
        ({"a": "text"}, "tensor/npz", "the result is not an array"),
        ([1.5], "tensor/*", "the result is not an array"),
        ("text", "tensor/npy, tensor/ndlist;q=0.5", "the result is not an array"),
        ([X, X], "tensor/npy", "tensor/npy holds one unnamed array"),
        (STRINGS, "tensor/safetensors", "tensor/safetensors cannot hold string arrays"),
        (X, "tensor/npz, tensor/npz;q=0", "all tensor types are refused"),
    ],
)
def test_what_cannot_be_told_in_what_is_accepted(value, accept, words):
    with pytest.raises(NotAcceptableError) as refused:
        encode_tensors(value, accept, "")
    assert words in refused.value.message
    assert "application/json" in refused.value.message
