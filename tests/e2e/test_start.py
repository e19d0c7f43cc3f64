"""Starting the server: what it loads, what it refuses, where settings come from."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support.archives import linear_onnx, zipped
from support.server import ServerProcess, running

FLOW = "name: flow\nmodels: {m: model.onnx}\nworkflow:\n  out: [m, in]\n"


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "given.onnx"
    path.write_bytes(linear_onnx([[5.0]]))
    return path


def test_loads_what_the_operator_names_wherever_it_is(tmp_path, model):
    archive = tmp_path / "flow.zip"
    archive.write_bytes(zipped({"workflow.yaml": FLOW, "model.onnx": model.read_bytes()}))
    with running(tmp_path, "--load", f"mine:v1={model}", "--load", str(archive)) as server:
        assert server.client.post("/predictions/mine/v1", json=[1]).json() == [5.0]
        assert server.client.post("/predictions/flow", json=[1]).json() == [5.0]
        assert server.client.get("/models/mine").json()[0]["models"][0]["loadedAtStartup"] is True


def test_what_the_operator_names_wins_over_what_is_remembered(tmp_path, model):
    with running(tmp_path, "--load", f"mine={model}") as server:
        server.stop()
        model.write_bytes(linear_onnx([[7.0]]))
        server.start()
        assert server.client.post("/predictions/mine", json=[1]).json() == [7.0]


def test_settings_come_from_file_environment_and_flags(tmp_path, model):
    config = tmp_path / "flowyard.yaml"
    config.write_text("job_queue_size: 7\nbatch_size: 3\nqueue: 9\n")
    env = {"FLOWYARD_BATCH_SIZE": "5", "FLOWYARD_NOTHING": "1"}
    with running(tmp_path, "--config", str(config), "--load", f"mine={model}", env=env) as server:
        (info,) = server.client.get("/models/mine").json()
        assert (info["models"][0]["queueSize"], info["models"][0]["batchSize"]) == (7, 5)
        log = server.log.read_text()
        assert f"{config}:3: queue is not a setting" in log
        assert "FLOWYARD_NOTHING is not a setting" in log


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--load", "nowhere.onnx"], "nowhere.onnx"),
        (["--load", "a b=x.onnx"], "a b"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--log-level", "loud"], "loud"),
    ],
)
def test_a_start_that_cannot_succeed_ends_with_a_message(tmp_path, flags, words):
    with pytest.raises(AssertionError) as failed:
        ServerProcess(tmp_path, *flags).start()
    assert words in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}"):
            ServerProcess(tmp_path, port=port).start()


def test_an_address_that_is_not_ours_is_said(tmp_path):
    with pytest.raises(AssertionError, match=r"cannot listen on 203\.0\.113\.7:0"):
        ServerProcess(tmp_path, "--insecure", host="203.0.113.7").start()


def test_folders_may_be_relative_to_where_the_server_is_started(tmp_path):
    with running(tmp_path) as server:
        server.stop()
        server.cwd = tmp_path
        server.state_dir, server.model_store = Path("relative"), Path("models")
        server.start()
        steps = "def one(x):\n    return x\n"
        text = "name: flow\nfunctions: {one: steps:one}\nworkflow:\n  out: [one, in]\n"
        assert server.client.post("/workflows", content=zipped({"workflow.yaml": text, "steps.py": steps})).status_code == 200
        assert server.client.post("/predictions/flow", json=[1]).json() == [1]
        (tmp_path / "models" / "m.onnx").write_bytes(linear_onnx([[5.0]]))
        assert server.client.post("/models", params={"url": "m.onnx"}).status_code == 200
        assert server.client.post("/predictions/m_onnx", json=[1]).json() == [5.0]


def test_what_a_crash_left_half_done_is_cleared_away(tmp_path):
    with running(tmp_path) as server:
        server.stop()
        left = server.state_dir / "archives" / "sha256" / ("0" * 64)
        left.mkdir()
        (left / "model.onnx").write_bytes(b"x")
        server.start()
        assert not left.exists()
