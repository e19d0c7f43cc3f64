"""Workers that die, hang, or outlive their server: every request gets its one answer, and the next one works."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from support.archives import linear_onnx, zipped
from support.server import children, is_gone, running, wait_until

#: A function that waits until the test says so, by files: it notes that it has begun, and ends when it may.
STEPS = """
import os
import pathlib
import time

def wait(value):
    folder = pathlib.Path(value["folder"])
    (folder / f"begun-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    return os.getpid()

def die(value):
    if value == "die":
        os._exit(7)
    return value

def fill_memory(value):
    raise MemoryError("no room for that")

def leave(value):
    raise SystemExit(1)
"""
WORKFLOW = "name: {name}\ntimeout: 60s\nfunctions: {{f: steps:{name}}}\nworkflow:\n  out: [f, in]\n"


@pytest.fixture(scope="module", autouse=True)
def workflows(http):
    for name in ("wait", "die", "fill_memory", "leave"):
        archive = zipped({"workflow.yaml": WORKFLOW.format(name=name), "steps.py": STEPS})
        assert http.post("/workflows", content=archive).status_code == 200
    assert http.post("/models", params={"model_name": "linear"}, content=linear_onnx([[2.0]])).status_code == 200


def pid_of(http, name):
    (info,) = http.get(f"/workflows/{name}").json()
    groups = (info["models"] or [info["functions"]])[0]["workerGroups"]
    return groups[0]["workers"][0]["pid"]


def begun(folder):
    return [int(path.name.removeprefix("begun-")) for path in folder.glob("begun-*")]


def test_a_request_whose_worker_is_killed_is_tried_once_more(http, tmp_path):
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(http.post, "/predictions/wait", json={"folder": str(tmp_path)})
        (first,) = wait_until(lambda: begun(tmp_path))
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(begun(tmp_path)) == 2)
        (tmp_path / "go").touch()
        assert answer.result().status_code == 200
        assert answer.result().json() != first


def test_a_request_that_kills_its_worker_twice_is_answered_and_the_next_works(http):
    answer = http.post("/predictions/die", json="die")
    assert (answer.status_code, answer.json()["type"]) == (503, "WlmException")
    assert "exit status 7" in answer.json()["message"]
    assert answer.headers["retry-after"]
    assert http.post("/predictions/die", json="live").text == "live"


def test_under_load_no_request_is_lost_when_workers_are_killed(http, server):
    stop = threading.Event()

    def load(_):
        statuses = []
        with httpx2.Client(base_url=http.base_url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/predictions/linear", json=[[1.0]])
                statuses.append((answer.status_code, answer.content))
        return statuses

    with ThreadPoolExecutor(4) as threads:
        running_load = [threads.submit(load, number) for number in range(4)]
        try:
            for _ in range(3):
                killed = wait_until(lambda: pid_of(http, "linear"))
                os.kill(killed, signal.SIGKILL)
                wait_until(lambda killed=killed: pid_of(http, "linear") not in (None, killed))
                assert http.post("/predictions/linear", json=[[1.0]]).status_code == 200
        finally:
            stop.set()
        answers = [answer for job in running_load for answer in job.result()]
    assert answers
    assert set(answers) == {(200, b"[[2.0]]")}


def test_out_of_memory_is_a_507(http):
    answer = http.post("/predictions/fill_memory", json=1)
    assert (answer.status_code, answer.json()["type"]) == (507, "WlmOutOfMemoryException")


def test_a_function_that_exits_is_an_error_of_its_own(http):
    pid = pid_of(http, "leave")
    assert http.post("/predictions/leave", json=1).status_code == 424
    assert pid_of(http, "leave") == pid


def test_a_deadline_is_kept_also_while_it_computes(http, tmp_path):
    started = time.monotonic()
    answer = http.post("/predictions/wait", json={"folder": str(tmp_path)}, headers={"X-Request-Timeout": "300ms"})
    (tmp_path / "go").touch()
    assert (answer.status_code, answer.json()["type"]) == (504, "DeadlineExceededException")
    assert time.monotonic() - started < 1.3


def test_a_client_that_goes_away_takes_its_queued_requests_along(http, tmp_path):
    params = {"model_name": "narrow", "max_worker": 1}
    model = "import pathlib, time\ndef predict(value):\n" + "".join(
        f"    {line}\n"
        for line in (
            "folder = pathlib.Path(value['folder'])",
            "(folder / f\"begun-{value['id']}\").touch()",
            "while not (folder / 'go').exists(): time.sleep(0.005)",
            "return value['id']",
        )
    )
    assert http.post("/models", params=params, content=zipped({"model.py": model})).status_code == 200

    def queued():
        return http.get("/models/narrow").json()[0]["models"][0]["requestInQueue"]

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(http.post, "/predictions/narrow", json={"folder": str(tmp_path), "id": 1})
        wait_until(lambda: begun(tmp_path) == [1])
        impatient = httpx2.Client(base_url=http.base_url, timeout=0.3)
        with pytest.raises(httpx2.ReadTimeout):
            impatient.post("/predictions/narrow", json={"folder": str(tmp_path), "id": 2})
        impatient.close()
        wait_until(lambda: queued() == 0)
        (tmp_path / "go").touch()
        assert first.result().json() == 1
    assert http.post("/predictions/narrow", json={"folder": str(tmp_path), "id": 3}).json() == 3
    assert sorted(begun(tmp_path)) == [1, 3]


def test_stopping_finishes_what_was_accepted(tmp_path):
    with running(tmp_path) as server:
        archive = zipped({"workflow.yaml": WORKFLOW.format(name="wait"), "steps.py": STEPS})
        assert server.client.post("/workflows", content=archive).status_code == 200
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(server.client.post, "/predictions/wait", json={"folder": str(tmp_path)})
            wait_until(lambda: begun(tmp_path))
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in server.log.read_text())
            (tmp_path / "go").touch()
            assert answer.result().status_code == 200
        assert server.process.wait(30) == 0
        server._forget()


def test_workers_end_with_their_server_and_a_restart_brings_everything_back(tmp_path):
    with running(tmp_path) as server:
        assert server.client.post("/models", params={"model_name": "linear"}, content=linear_onnx([[3.0]])).status_code == 200
        workers = server.workers()
        assert workers
        server.kill()
        wait_until(lambda: all(is_gone(pid) for pid in workers), limit_s=2)
        server.start()
        assert server.client.post("/predictions/linear", json=[[1.0]]).json() == [[3.0]]
        assert server.client.delete("/models/linear").status_code == 200
        server.kill()
        server.start()
        assert server.client.get("/models").json() == {"models": []}
        assert children(server.process.pid) == []


def test_a_second_server_on_the_same_state_is_refused(tmp_path):
    with running(tmp_path) as server, pytest.raises(AssertionError, match="in use by another server"):
        other = type(server)(tmp_path)
        other._ready = tmp_path / "other-ready"
        other.log = tmp_path / "other.log"
        other.start()
