"""What is loaded at the start: what is listed, or everything in the model store."""

from __future__ import annotations

import os
import re

import pytest
import structlog
from support.archives import linear_onnx, zipped

from flowyard.platform.archives.names import LoadItem
from flowyard.platform.registry.startup import items_at_start
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidRequestError


@pytest.fixture
def store(tmp_path):
    store = tmp_path / "models"
    store.mkdir()
    (store / "b.zip").write_bytes(zipped({"model.onnx": linear_onnx([[1.0]])}))
    (store / "a.onnx").write_bytes(linear_onnx([[1.0]]))
    (store / "folder").mkdir()
    (store / "folder" / "model.py").write_text("")
    (store / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    (store / "empty").mkdir()
    (store / "README.md").write_text("about these models\n")
    (store / "nothing.pt").write_bytes(b"")
    (store / ".DS_Store").write_bytes(b"x")
    (store / ".hidden").mkdir()
    (store / "lost").symlink_to("nowhere")
    os.mkfifo(store / "pipe")
    return store


def test_all_is_every_model_and_what_is_none_is_passed_over_with_a_warning(store):
    with structlog.testing.capture_logs() as logs:
        items = items_at_start(Settings(model_store=str(store), load_models=("ALL",)))
    assert items == [LoadItem(str(store / name)) for name in ("a.onnx", "b.zip", "broken.zip", "folder")]
    assert {log["entry"]: log["reason"] for log in logs} == {
        ".DS_Store": "it is hidden",
        ".hidden": "it is hidden",
        "README.md": "it is neither an archive nor a model that an engine recognises",
        "empty": "the folder is empty",
        "lost": "it is neither a file nor a folder",
        "nothing.pt": "the file is empty",
        "pipe": "it is neither a file nor a folder",
    }
    assert {log["log_level"] for log in logs} == {"warning"}


def test_what_is_listed_is_loaded_from_the_store_where_it_is_there(store):
    settings = Settings(
        model_store=str(store), load=("x=a.onnx", "m=/b"), load_models=("one:v1=a.onnx", "./a.onnx", "c.onnx", "x=a.onnx", "m=/b")
    )
    assert items_at_start(settings) == [
        LoadItem("a.onnx", "x"),
        LoadItem("/b", "m"),
        LoadItem(str(store / "a.onnx"), "one", "v1"),
        LoadItem("./a.onnx"),
        LoadItem("c.onnx"),
        LoadItem(str(store / "a.onnx"), "x"),
    ]


@pytest.mark.parametrize("load_models", [(), ("NONE",), ("none",)])
def test_nothing_is_loaded_unless_it_is_said(store, load_models):
    assert items_at_start(Settings(model_store=str(store), load_models=load_models)) == []


def test_all_needs_a_store_that_can_be_read(tmp_path):
    with pytest.raises(InvalidRequestError, match=re.escape("there is none (setting model_store)")):
        items_at_start(Settings(load_models=("all",)))
    with pytest.raises(InvalidRequestError, match="absent cannot be read: No such file"):
        items_at_start(Settings(model_store=str(tmp_path / "absent"), load_models=("ALL",)))
