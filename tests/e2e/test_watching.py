"""A server that follows its model store."""

from __future__ import annotations

import os

import pytest
from support.archives import linear_onnx, zipped
from support.server import ServerProcess, running, wait_until


def constant(text: str) -> bytes:
    return zipped({"model.py": f"def predict(value):\n    return {text!r}\n"})


def answers(server, name, text):
    wait_until(lambda: server.client.post(f"/predictions/{name}", json=1).text == text)


def test_what_comes_changes_and_goes_is_followed(tmp_path):
    with running(tmp_path, "--watch") as server:
        store = server.model_store
        (store / "a.zip").write_bytes(constant("one"))
        (store / "broken.zip").write_bytes(b"PK\x03\x04 broken")
        answers(server, "a", "one")
        (store / "a.zip").write_bytes(constant("two"))
        (store / "folder").mkdir()
        (store / "folder" / "model.py").write_text("def predict(value):\n    return 'folder'\n")
        answers(server, "a", "two")
        answers(server, "folder", "folder")
        (store / "a.zip").unlink()
        wait_until(lambda: server.client.get("/models/a").status_code == 404)
        wait_until(lambda: "broken.zip" in server.log.read_text())
        assert server.log.read_text().count('"could not load from the model store"') == 1
        changes = server.client.get("/audit", params={"name": "a"}).json()["changes"]
        assert [(change["who"], change["action"]) for change in changes] == [
            ("model store", "unregister"),
            ("model store", "replace"),
            ("model store", "register"),
        ]


def test_a_copy_that_takes_its_time_is_taken_up_whole(tmp_path):
    with running(tmp_path, "--watch") as server:
        body = constant("whole")
        half = len(body) // 2
        partial = server.model_store / "m.zip"
        partial.write_bytes(body[:half])
        # The copy goes on only after the half of it has been seen to be broken.
        wait_until(lambda: "could not load from the model store" in server.log.read_text())
        assert server.client.get("/models/m").status_code == 404
        with partial.open("ab") as rest:
            rest.write(body[half:])
            rest.flush()
            os.fsync(rest.fileno())
        answers(server, "m", "whole")


def test_what_changed_while_the_server_was_away_is_caught_up_with(tmp_path):
    with running(tmp_path, "--watch") as server:
        store = server.model_store
        (store / "gone.onnx").write_bytes(linear_onnx([[2.0]]))
        (store / "kept.zip").write_bytes(constant("kept"))
        answers(server, "kept", "kept")
        wait_until(lambda: server.client.get("/models/gone_onnx").status_code == 200)
        params = {"url": "kept.zip", "model_name": "byhand", "engine": "Python"}
        assert server.client.post("/models", params=params).status_code == 200
        server.stop()
        (store / "gone.onnx").unlink()
        (store / "kept.zip").write_bytes(constant("new"))
        server.start()
        answers(server, "kept", "new")
        wait_until(lambda: server.client.get("/models/gone_onnx").status_code == 404)
        assert server.client.post("/predictions/byhand", json=1).text == "kept"


def test_there_must_be_a_store_to_follow(tmp_path):
    server = ServerProcess(tmp_path, "--watch")
    server.has_store = False
    with pytest.raises(AssertionError, match="there is no model store to watch"):
        server.start()
