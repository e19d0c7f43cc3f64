"""Registrations that nobody waits for: acknowledged, and then there or failed, never gone."""

from __future__ import annotations

from support.archives import linear_onnx, zipped
from support.server import running, wait_until

SLOW_START = """
import pathlib
import time

while not pathlib.Path({gate!r}).exists():
    time.sleep(0.01)

def predict(value):
    return value
"""
BROKEN = "import nothing_of_that_name\n\ndef predict(value):\n    return value\n"


def entry(client, name):
    (info,) = client.get(f"/models/{name}").json()
    return info


def test_it_is_pending_until_its_workers_are_ready(http, tmp_path):
    archive = zipped({"model.py": SLOW_START.format(gate=str(tmp_path / "go"))})
    answer = http.post("/models", params={"model_name": "later", "synchronous": "false"}, content=archive)
    assert (answer.status_code, answer.json()) == (202, {"status": 'Model "later" registration scheduled.'})
    assert entry(http, "later")["status"] == "PENDING"
    assert http.get("/ping").json()["later"] == {"status": "PENDING"}
    early = http.post("/predictions/later", json=1)
    assert (early.status_code, early.json()["message"]) == (503, "Model is not ready: later")
    assert http.post("/models", params={"model_name": "later"}, content=archive).status_code == 409
    (tmp_path / "go").touch()
    wait_until(lambda: entry(http, "later")["status"] == "READY")
    assert http.post("/predictions/later", json=1).json() == 1


def test_one_that_fails_stays_with_its_reason_until_it_is_registered_again(http):
    params = {"model_name": "broken", "synchronous": "false"}
    assert http.post("/models", params=params, content=zipped({"model.py": BROKEN})).status_code == 202
    wait_until(lambda: entry(http, "broken")["status"] == "FAILED")
    assert "nothing_of_that_name" in entry(http, "broken")["reason"]
    assert http.get("/ping").status_code == 500
    assert http.post("/models", params={"model_name": "broken"}, content=linear_onnx([[2.0]])).status_code == 200
    assert http.post("/predictions/broken", json=[[1.0]]).json() == [[2.0]]
    assert http.get("/ping").status_code == 200


def test_what_can_be_checked_is_refused_at_once(http):
    answer = http.post("/models", params={"url": "nothing.onnx", "synchronous": "false"})
    assert answer.status_code == 404
    answer = http.post(
        "/workflows", params={"synchronous": "false"}, content=zipped({"workflow.yaml": "name: x\nworkflow: {}\n"})
    )
    assert answer.status_code == 400


def test_one_that_is_unregistered_while_it_starts_is_gone(http, server, tmp_path):
    archive = zipped({"model.py": SLOW_START.format(gate=str(tmp_path / "go"))})
    before = len(server.workers())
    http.post("/models", params={"model_name": "short", "synchronous": "false"}, content=archive)
    assert http.delete("/models/short").status_code == 200
    (tmp_path / "go").touch()
    assert http.get("/models/short").status_code == 404
    wait_until(lambda: len(server.workers()) <= before)


def test_an_acknowledged_one_is_resumed_after_a_crash(tmp_path):
    with running(tmp_path) as server:
        archive = zipped({"model.py": SLOW_START.format(gate=str(tmp_path / "go"))})
        params = {"model_name": "resumed", "synchronous": "false"}
        assert server.client.post("/models", params=params, content=archive).status_code == 202
        server.kill()
        (tmp_path / "go").touch()
        server.start()
        assert server.client.post("/predictions/resumed", json=1).json() == 1


def test_stopping_does_not_wait_for_one_that_starts(tmp_path):
    with running(tmp_path) as server:
        archive = zipped({"model.py": SLOW_START.format(gate=str(tmp_path / "never"))})
        params = {"model_name": "endless", "synchronous": "false"}
        assert server.client.post("/models", params=params, content=archive).status_code == 202
        wait_until(server.workers)
        assert server.stop() == 0
