"""Files and folders as uploads: complete, in the same bytes each time, and counted as they go."""

from __future__ import annotations

import io
import os
import zipfile

import pytest

from flowyard.platform.archives.extract import extract
from flowyard.platform.archives.members import Limits
from flowyard.platform.client import InvalidArgumentError, Sent
from flowyard.platform.client.uploads import CHUNK_BYTES, form_of
from flowyard.platform.http.bodies import Upload as Received
from flowyard.platform.http.bodies import content_type


async def received(upload, into):
    """What the server makes of an upload."""
    chunks = iter([*upload.chunks(), None])

    async def receive():
        chunk = next(chunks)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    got = Received(into, 1 << 30)
    await got.receive(receive, upload.content_type)
    return got


@pytest.fixture
def folder(tmp_path):
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "a.pyc").write_bytes(b"x")
    (model / "weights.bin").write_bytes(os.urandom(CHUNK_BYTES * 2 + 5))
    (model / "sub" / "ü.txt").write_text("text")
    (model / "empty").write_bytes(b"")
    (model / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("linked")
    return model


def run(coroutine):
    import asyncio

    return asyncio.run(coroutine)


def test_a_folder_arrives_as_the_server_unpacks_it(folder, tmp_path):
    got = run(received(form_of(folder), tmp_path / "got.zip"))
    assert got.filename == "model.zip"
    extract(tmp_path / "got.zip", tmp_path / "into", Limits())
    found = {path.relative_to(tmp_path / "into").as_posix(): path for path in (tmp_path / "into").rglob("*") if path.is_file()}
    assert sorted(found) == ["empty", "link", "sub/ü.txt", "weights.bin"]
    assert found["weights.bin"].read_bytes() == (folder / "weights.bin").read_bytes()
    assert found["link"].read_text() == "linked"


def test_the_same_folder_is_the_same_archive(folder, tmp_path):
    archives = []
    for number in range(2):
        run(received(form_of(folder), tmp_path / f"{number}.zip"))
        archives.append((tmp_path / f"{number}.zip").read_bytes())
        os.utime(folder / "empty", (number, number))
    assert archives[0] == archives[1]


def test_nothing_of_a_folder_is_held_back(folder):
    largest = max(len(chunk) for chunk in form_of(folder).chunks())
    assert largest < CHUNK_BYTES + 1000


def test_a_file_arrives_under_its_name(tmp_path):
    (tmp_path / 'a "b".onnx').write_bytes(b"model")
    upload = form_of(tmp_path / 'a "b".onnx')
    assert upload.length == len(b"".join(upload.chunks()))
    got = run(received(upload, tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == b"model"
    assert got.filename == 'a "b".onnx'
    assert content_type(upload.content_type)[0] == "multipart/form-data"


def test_the_current_folder_has_a_name(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    from pathlib import Path

    assert run(received(form_of(Path()), tmp_path / "got")).filename == "model.zip"


def test_progress_ends_at_the_total(folder):
    seen: list[Sent] = []
    for _ in form_of(folder, seen.append).chunks():
        pass
    total = CHUNK_BYTES * 2 + 5 + len("text") + len("linked")
    assert [item.total for item in seen] == [total] * len(seen)
    assert [item.sent for item in seen] == sorted(item.sent for item in seen)
    assert seen[-1].sent == total


def test_each_attempt_begins_anew(folder):
    upload = form_of(folder)
    assert b"".join(upload.chunks()) == b"".join(upload.chunks())


def test_what_cannot_be_uploaded(tmp_path):
    (tmp_path / "hollow").mkdir()
    with pytest.raises(InvalidArgumentError, match="there is no file in this folder"):
        form_of(tmp_path / "hollow")
    with pytest.raises(InvalidArgumentError, match="no such file or folder"):
        form_of(tmp_path / "nothing")
    (tmp_path / "hollow" / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(InvalidArgumentError, match="dangling"):
        form_of(tmp_path / "hollow")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgumentError, match="not a regular file"):
        form_of(tmp_path / "pipe")


def test_a_file_that_shrinks_on_the_way_is_not_sent_as_whole(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x" * 100)
    upload = form_of(path)
    path.write_bytes(b"x" * 50)
    with pytest.raises(InvalidArgumentError, match="shorter"):
        list(upload.chunks())


def test_the_archive_is_a_plain_one(folder):
    body = b"".join(form_of(folder).chunks())
    start, end = body.index(b"PK\x03\x04"), body.rindex(b"\r\n--")
    with zipfile.ZipFile(io.BytesIO(body[start:end])) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["empty", "link", "weights.bin", "sub/ü.txt"]
