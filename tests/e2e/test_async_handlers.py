"""Asynchronous handlers of DJL's kind: many requests in one worker at the same time, each answered when it is done."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import time

import pytest
from support.archives import zipped
from support.server import running, wait_until

HANDLER = """
import asyncio
import os
from pathlib import Path

from djl_python import Output
from djl_python.async_utils import create_stream_chunk_output

released = asyncio.Event()
counts = {"here": 0, "most": 0, "cancelled": 0}
waiting = 0
together = asyncio.Event()


async def handle(batch):
    if batch.is_empty():
        return None
    (request,) = batch.get_batches()
    counts["here"] += 1
    counts["most"] = max(counts["most"], counts["here"])
    try:
        return await answer(request.get_as_json())
    except asyncio.CancelledError:
        counts["cancelled"] += 1
        raise
    finally:
        counts["here"] -= 1


async def answer(asked):
    global waiting
    match asked["do"]:
        case "meet":
            waiting += 1
            if waiting == asked["with"]:
                together.set()
            await together.wait()
        case "hold":
            if "note" in asked:
                with Path(asked["note"]).open("a") as file:
                    file.write(f"{os.getpid()}\\n")
                if len(Path(asked["note"]).read_text().split()) > 1:
                    return Output().add_as_json("again")
            await released.wait()
        case "release":
            released.set()
        case "hang":
            while True:
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    if not asked.get("stubborn"):
                        raise
        case "die":
            os._exit(7)
        case "tokens":
            return tokens(asked["count"])
        case "count":
            return Output().add_as_json(counts)
    return Output().add_as_json(asked["do"])


async def tokens(count):
    for number in range(count):
        yield create_stream_chunk_output(f"{number} " + "x" * 10_000, number == count - 1)
        if number == 0:
            await released.wait()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("awaited")) as started:
        yield started


class Model:
    def __init__(self, server, name):
        self.server = server
        self.name = name

    def ask(self, do, headers=None, **asked):
        with self.server.client_of(self.server.urls[0]) as http:
            return http.post(f"/predictions/{self.name}", json={"do": do, **asked}, headers=headers)

    def count(self, what):
        return self.ask("count").json()[what]

    def workers(self):
        described = self.server.client.get(f"/models/{self.name}").json()[0]
        return [worker["pid"] for group in described["models"][0]["workerGroups"] for worker in group["workers"]]


@contextlib.contextmanager
def registered(server, name, *options):
    properties = "".join(f"{option}\n" for option in ("option.async_mode=true", "minWorkers=1", "maxWorkers=1", *options))
    archive = zipped({"model.py": HANDLER, "serving.properties": properties})
    answer = server.client.post("/models", params={"model_name": name}, content=archive)
    assert answer.status_code == 200, answer.text
    yield Model(server, name)
    assert server.client.delete(f"/models/{name}").status_code == 200


@pytest.fixture
def background():
    with concurrent.futures.ThreadPoolExecutor(80) as pool:
        yield pool.submit


def test_requests_overlap_in_one_worker_and_a_slow_one_holds_nobody(server, background):
    with registered(server, "overlap") as model:
        meeting = [background(model.ask, "meet", **{"with": 3}) for _ in range(3)]
        assert [answer.result(20).json() for answer in meeting] == ["meet"] * 3
        held = background(model.ask, "hold")
        wait_until(lambda: model.count("here") == 2)
        assert model.ask("quick").json() == "quick"
        assert not held.done()
        model.ask("release")
        assert held.result(20).json() == "hold"
        assert len(model.workers()) == 1


def test_so_many_at_a_time_and_not_more(server, background, tmp_path):
    with registered(server, "bounded", "option.max_rolling_batch_size=3") as model:
        held = [background(model.ask, "hold") for _ in range(2)]
        wait_until(lambda: model.count("here") == 3)
        leaving = background(model.ask, "hold", headers={"x-request-timeout": "8s"}, note=str(tmp_path / "here"))
        wait_until((tmp_path / "here").exists)
        queued = background(model.ask, "count")
        wait_until(lambda: server.client.get("/models/bounded").json()[0]["models"][0]["requestInQueue"] == 1)
        assert not leaving.done()
        # One is given up, and so there is room for the one that waits.
        assert queued.result(20).json()["most"] == 3
        assert leaving.result(20).status_code == 504
        model.ask("release")
        assert [answer.result(20).status_code for answer in held] == [200, 200]


def test_a_client_that_goes_away_and_a_deadline_end_what_is_computed(server):
    with registered(server, "cancelled") as model:
        with server.client_of(server.urls[0]) as http, pytest.raises(Exception, match="timed out"):
            http.post("/predictions/cancelled", json={"do": "hang"}, timeout=0.5)
        wait_until(lambda: model.count("cancelled") == 1)
        assert model.ask("hang", headers={"x-request-timeout": "300ms"}).status_code == 504
        wait_until(lambda: model.count("cancelled") == 2)
        assert model.count("here") == 1


def test_one_that_takes_too_long_does_not_cost_the_others_their_worker(server, background):
    with registered(server, "late", "option.predict_timeout=2") as model:
        pids = model.workers()
        hanging = background(model.ask, "hang")
        time.sleep(1)
        held = background(model.ask, "hold")
        late = hanging.result(20)
        assert late.status_code >= 400
        assert "TimeoutException" in late.text
        model.ask("release")
        assert held.result(20).json() == "hold"
        assert model.workers() == pids


def test_one_that_does_not_let_go_costs_the_worker_and_the_others_are_tried_again(server, background, tmp_path):
    with registered(server, "stubborn", "option.predict_timeout=8") as model:
        pids = model.workers()
        hanging = background(model.ask, "hang", stubborn=True)
        assert hanging.result(30).status_code >= 400
        held = [background(model.ask, "hold", note=str(tmp_path / str(number))) for number in range(3)]
        assert [answer.result(30).json() for answer in held] == ["again"] * 3
        assert model.workers() != pids


def test_each_is_tried_once_more_when_their_worker_dies(server, background, tmp_path):
    with registered(server, "mortal") as model:
        notes = [tmp_path / str(number) for number in range(5)]
        held = [background(model.ask, "hold", note=str(note)) for note in notes]
        wait_until(lambda: model.count("here") == 6)
        (pid,) = model.workers()
        os.kill(pid, signal.SIGKILL)
        assert [answer.result(30).json() for answer in held] == ["again"] * 5
        assert all(len(note.read_text().split()) == 2 for note in notes)


def test_one_that_kills_its_workers_takes_nobody_along(server, background, tmp_path):
    with registered(server, "deadly") as model:
        notes = [tmp_path / str(number) for number in range(3)]
        held = [background(model.ask, "hold", note=str(note)) for note in notes]
        wait_until(lambda: model.count("here") == 4)
        died = background(model.ask, "die")
        assert [answer.result(30).json() for answer in held] == ["again"] * 3
        answer = died.result(30)
        assert (answer.status_code, "Python worker disconnected" in answer.text) == (424, True) or answer.status_code >= 500
        assert model.ask("quick").json() == "quick"


def test_a_stream_that_waits_holds_nobody(server, background):
    with registered(server, "streams") as model:
        with server.client.stream("POST", "/predictions/streams", json={"do": "tokens", "count": 100}) as answer:
            pieces = answer.iter_raw()
            assert next(pieces).startswith(b"0 x")
            assert model.ask("quick").json() == "quick"
            model.ask("release")
            # More than may be sent ahead, which its reader has to take first.
            assert model.ask("quick").json() == "quick"
            rest = b"".join(pieces)
        assert [line.split()[0] for line in rest.decode().splitlines() if line.strip("x")] == [str(n) for n in range(1, 100)]
        whole = background(model.ask, "tokens", count=3)
        assert whole.result(20).text.count("x" * 10_000) == 3


def test_a_stream_whose_client_goes_away_ends(server):
    with registered(server, "gone") as model:
        asked = {"do": "tokens", "count": 2}
        with server.client_of(server.urls[0]) as http, http.stream("POST", "/predictions/gone", json=asked) as answer:
            assert next(answer.iter_raw())
        assert model.ask("quick").json() == "quick"


@pytest.mark.parametrize("said", ["none", "70000", "1.5"])
def test_a_bound_that_is_none_is_refused(server, said):
    properties = f"option.async_mode=true\noption.max_rolling_batch_size={said}\n"
    archive = zipped({"model.py": HANDLER, "serving.properties": properties})
    answer = server.client.post("/models", params={"model_name": "none"}, content=archive)
    assert answer.status_code == 400
    assert "serving.properties:2: option.max_rolling_batch_size" in answer.json()["message"]
