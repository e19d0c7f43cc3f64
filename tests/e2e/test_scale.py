"""Scaling by hand and by load."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from support.archives import linear_onnx, zipped
from support.server import running, wait_until

SLOW = "import time\n\ndef predict(value):\n    time.sleep(0.05)\n    return value\n"


def groups(http, name):
    return http.get(f"/models/{name}").json()[0]["models"][0]["workerGroups"]


def ready(http, name):
    return [worker for group in groups(http, name) for worker in group["workers"] if worker["state"] != "starting"]


@pytest.fixture(scope="module", autouse=True)
def model(http):
    assert http.post("/models", params={"model_name": "linear"}, content=linear_onnx([[2.0]])).status_code == 200


def test_scaling_up_waits_for_the_workers(http):
    answer = http.put("/models/linear", params={"min_worker": 2, "max_worker": 3})
    text = 'Workflow "linear" worker scaled. New Worker configuration min workers:2 max workers:3'
    assert (answer.status_code, answer.json()) == (200, {"status": text})
    assert len(ready(http, "linear")) == 2
    (group,) = groups(http, "linear")
    assert (group["minWorkers"], group["maxWorkers"]) == (2, 3)


def test_only_a_minimum_raises_the_maximum_to_it(http):
    http.put("/models/linear", params={"min_worker": 1, "max_worker": 1})
    answer = http.put("/models/linear", params={"min_worker": 2})
    assert answer.json()["status"].endswith("min workers:2 max workers:-1")
    (group,) = groups(http, "linear")
    assert (group["minWorkers"], group["maxWorkers"]) == (2, 2)


def test_asynchronous_scaling_is_a_202(http):
    answer = http.put("/models/linear", params={"min_worker": 1, "max_worker": 1, "synchronous": "false"})
    assert (answer.status_code, answer.json()) == (202, {"status": "Worker updated"})
    wait_until(lambda: len(ready(http, "linear")) == 1)


def test_zero_workers_means_off_and_one_means_on_again(http):
    assert http.put("/models/linear", params={"min_worker": 0, "max_worker": 0}).status_code == 200
    off = http.post("/predictions/linear", json=[[1.0]])
    assert (off.status_code, off.json()["type"]) == (503, "WlmShutdownException")
    assert off.json()["message"] == "All model workers has been shutdown: linear"
    assert http.put("/models/linear", params={"min_worker": 1, "max_worker": 1}).status_code == 200
    assert http.post("/predictions/linear", json=[[1.0]]).json() == [[2.0]]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("min_worker=abc", 400, "min_worker"),
        ("min_worker=5&max_worker=2", 400, "min_worker"),
        ("min_worker=-1", 400, "0 to 1000"),
        ("max_worker=1001", 400, "0 to 1000"),
        ("device=GPU0", 400, "GPU0"),
        ("device=gpu7", 400, "available: cpu"),
        ("workers=1", 400, "workers"),
    ],
)
def test_bad_scaling_changes_nothing(http, query, status, words):
    before = groups(http, "linear")
    answer = http.put(f"/models/linear?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert words in answer.json()["message"]
    assert groups(http, "linear") == before


def test_scaling_what_is_not_there(http):
    for path in ("/models/nope", "/models/linear/v9", "/workflows/nope"):
        answer = http.put(path, params={"min_worker": 1})
        assert (answer.status_code, answer.json()["type"]) == (404, "ModelNotFoundException")


def test_load_brings_workers_and_idleness_takes_them_away(http):
    params = {"model_name": "slow", "min_worker": 1, "max_worker": 3, "max_idle_time": 1}
    assert http.post("/models", params=params, content=zipped({"model.py": SLOW})).status_code == 200
    stop = threading.Event()

    def load(_):
        with httpx2.Client(base_url=http.base_url, timeout=60) as client:
            while not stop.is_set():
                assert client.post("/predictions/slow", json=1).json() == 1

    with ThreadPoolExecutor(12) as threads:
        jobs = [threads.submit(load, number) for number in range(12)]
        try:
            wait_until(lambda: len(ready(http, "slow")) == 3)
        finally:
            stop.set()
        for job in jobs:
            job.result()
    wait_until(lambda: len(ready(http, "slow")) == 1)


def test_from_zero_the_first_request_waits_for_the_start(http):
    params = {"model_name": "lazy", "min_worker": 0, "max_worker": 1, "max_idle_time": 0}
    assert http.post("/models", params=params, content=linear_onnx([[4.0]])).status_code == 200
    assert ready(http, "lazy") == []
    assert http.post("/predictions/lazy", json=[[1.0]]).json() == [[4.0]]
    wait_until(lambda: ready(http, "lazy") == [])


def test_scaling_survives_a_crash(tmp_path):
    with running(tmp_path) as server:
        server.client.post("/models", params={"model_name": "kept"}, content=linear_onnx([[1.0]]))
        assert server.client.put("/models/kept", params={"min_worker": 2, "max_worker": 2}).status_code == 200
        server.kill()
        server.start()
        assert len(ready(server.client, "kept")) == 2


def test_scaling_up_to_workers_that_cannot_start_is_answered_and_the_others_go_on(http, tmp_path):
    model = (
        f"import pathlib\n\nif pathlib.Path({str(tmp_path / 'full')!r}).exists():\n    raise MemoryError('no room')\n\n"
        "def predict(value):\n    return value\n"
    )
    assert http.post("/models", params={"model_name": "crowded"}, content=zipped({"model.py": model})).status_code == 200
    (tmp_path / "full").touch()
    answer = http.put("/models/crowded", params={"min_worker": 2, "max_worker": 2})
    assert (answer.status_code, answer.json()["type"]) == (503, "WlmException")
    assert http.post("/predictions/crowded", json=7).json() == 7
    assert http.put("/models/crowded", params={"min_worker": 1, "max_worker": 1}).status_code == 200


def test_more_workers_than_memory_has_room_for_are_refused(tmp_path):
    with running(tmp_path, env={"FLOWYARD_RESERVED_MEMORY_MB": str(10**8)}) as server:
        archive = zipped({"model.py": "def predict(x):\n    return x\n"})
        refused = server.client.post("/models", params={"model_name": "one"}, content=archive)
        assert (refused.status_code, refused.json()["type"]) == (507, "WlmOutOfMemoryException")
        assert refused.json()["message"].startswith("No enough memory to load the model")
        assert server.client.get("/models/one").status_code == 404
        assert server.client.post("/models", params={"model_name": "none", "min_worker": 0}, content=archive).status_code == 200
        scaled = server.client.put("/models/none", params={"min_worker": 1})
        assert (scaled.status_code, scaled.json()["code"]) == (507, 507)
        (group,) = server.client.get("/models/none").json()[0]["models"][0]["workerGroups"]
        assert (group["minWorkers"], group["workers"]) == (0, [])
