"""Uploads of archives in forms, which may hold anything."""

from __future__ import annotations

import asyncio

import pytest

from flowyard.platform.http.bodies import MAX_PARAMETERS_BYTES, MAX_PARTS, Upload
from flowyard.schemas.errors import InvalidRequestError, TooLargeError

TYPE = "multipart/form-data; boundary=xx"
FIELD = b'--xx\r\ncontent-disposition: form-data; name="%b"\r\n\r\n'
FILE = b'--xx\r\ncontent-disposition: form-data; name="data"; filename="a.zip"\r\n\r\n'
END = b"\r\n--xx--\r\n"


def received(folder, pieces, limit_bytes=2**30):
    """An upload of these pieces."""
    asked = iter([*pieces, None])

    async def receive():
        piece = next(asked)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    upload = Upload(folder / "file", limit_bytes)
    asyncio.run(upload.receive(receive, TYPE))
    return upload


def test_a_field_is_no_place_for_a_model(tmp_path):
    pieces = [FIELD % b"url", *[b"a" * 2**16] * 1000]
    with pytest.raises(TooLargeError, match="a file needs a filename"):
        received(tmp_path, [*pieces, END])


def test_many_fields_count_together(tmp_path):
    half = b"a" * (MAX_PARAMETERS_BYTES // 2 + 1)
    with pytest.raises(TooLargeError):
        received(tmp_path, [FIELD % b"a", half, b"\r\n" + FIELD % b"b", half, END])


def test_too_many_fields(tmp_path):
    with pytest.raises(InvalidRequestError, match="multipart form cannot be read"):
        received(tmp_path, [FIELD % b"a" + b"\r\n"] * (MAX_PARTS + 1) + [END])


def test_a_large_file_passes_beside_its_parameters(tmp_path):
    pieces = [FIELD % b"model_name" + b"m\r\n" + FILE, *[b"a" * 2**20] * 3, END]
    upload = received(tmp_path, pieces)
    assert (upload.fields, upload.length) == ({"model_name": "m"}, 3 * 2**20)
