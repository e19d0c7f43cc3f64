"""Stateful handlers of TorchServe: requests that come in sequences, through its API and the native one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import torch
from support.server import ServerProcess, running, wait_until
from support.torchserve import pack_model

ID, START, END = "ts_request_sequence_id", "ts_request_sequence_start", "ts_request_sequence_end"
#: In the shape of TorchServe's public example: the state is in a cache of the handler, by the id of the sequence.
STATEFUL = """
import os, time
from collections import OrderedDict
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

class Totals(BaseHandler):
    def initialize(self, ctx: Context):
        super().initialize(ctx)
        self.context = ctx
        self.capacity = int(ctx.model_yaml_config["handler"]["cache"]["capacity"])
        self.totals = OrderedDict()
        self.initialized = True

    def preprocess(self, data):
        answers = []
        for index, row in enumerate(data):
            name = self.context.get_sequence_id(index)
            value = row.get("data") or row.get("body")
            text = value.decode() if isinstance(value, (bytes, bytearray)) else str(value)
            if text == "wait":
                while not os.path.exists("GO"):
                    time.sleep(0.005)
                text = "0"
            self.totals[name] = self.totals.pop(name, 0) + int(text)
            if len(self.totals) > self.capacity:
                self.totals.popitem(last=False)
            self.context.set_response_header(index, self.context.header_key_sequence_id, name)
            starts = self.context.get_request_header(index, self.context.header_key_sequence_start)
            answers.append({"total": self.totals[name], "pid": os.getpid(), "starts": starts, "rows": len(data)})
        return answers

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        return data
"""
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
"""
CONFIG = """
minWorkers: 2
maxWorkers: 2
batchSize: 4
maxBatchDelay: 50
maxNumSequence: 4
sequenceMaxIdleMSec: 60000
maxSequenceJobQueueSize: 10
sequenceBatching: true

handler:
  cache:
    capacity: 4
"""
ENV = {
    "FLOWYARD_TORCHSERVE_INFERENCE_ADDRESS": "http://127.0.0.1:0",
    "FLOWYARD_TORCHSERVE_MANAGEMENT_ADDRESS": "http://127.0.0.2:0",
    "FLOWYARD_ENABLE_METRICS_API": "false",
    "FLOWYARD_TORCHSERVE_MODEL_API": "true",
    "FLOWYARD_DISABLE_TOKEN_AUTHORIZATION": "true",
}


class Server:
    """The addresses of one server."""

    def __init__(self, process: ServerProcess, work: Path) -> None:
        self.process = process
        self.clients = [process.client_of(url) for url in process.urls]
        self.inference, self.management, self.native = self.clients
        self._work = work
        torch.save({"layer.weight": torch.ones(1, 1), "layer.bias": torch.zeros(1)}, work / "net.pt")

    def register(self, name: str, config: str = CONFIG, workers: int = 2) -> None:
        files = {"handler.py": STATEFUL, "model.py": NET, "model-config.yaml": config}
        more = ("--model-file", "model.py", "--serialized-file", str(self._work / "net.pt"), "--config-file", "model-config.yaml")
        pack_model(self.process.model_store, self._work, name, files, *more)
        parameters = {"url": f"{name}.mar", "initial_workers": workers, "synchronous": "true"}
        self.management.post("/models", params=parameters, timeout=120).raise_for_status()

    def ask(self, name: str, text: str, sequence: str | None = None, **headers: str) -> httpx2.Response:
        given = headers | ({ID: sequence} if sequence is not None else {})
        return self.inference.post(f"/predictions/{name}", content=text.encode(), headers=given, timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sequences")
    with running(folder, "--dialect", "torchserve", env=ENV) as process:
        started = Server(process, tmp_path_factory.mktemp("archives"))
        yield started
        for client in started.clients:
            client.close()


def test_sequences_side_by_side(server):
    """What TorchServe's own test of its example asks for."""
    server.register("stateful")
    (described,) = server.management.get("/models/stateful").json()
    assert (described["stateful"], described["maxNumSequence"], described["maxSequenceJobQueueSize"]) == (True, 8, 10)

    def follow(name: str, first: int) -> list[dict]:
        return [server.ask("stateful", str(2 * number + first), name).json() for number in range(5)]

    with ThreadPoolExecutor(2) as threads:
        odd, even = threads.submit(follow, "seq_0", 1), threads.submit(follow, "seq_1", 2)
    assert [answer["total"] for answer in odd.result()] == [1, 4, 9, 16, 25]
    assert [answer["total"] for answer in even.result()] == [2, 6, 12, 20, 30]
    pids = [{answer["pid"] for answer in done.result()} for done in (odd, even)]
    assert [len(of_one) for of_one in pids] == [1, 1]
    assert pids[0] != pids[1]

    # One that names no sequence begins one; the handler tells the client which.
    begun = server.ask("stateful", "5")
    assert begun.headers[ID].startswith("ts-seq-")
    assert (begun.json()["total"], begun.json()["starts"]) == (5, "true")
    assert server.ask("stateful", "6", begun.headers[ID]).json()["total"] == 11
    # Through the native API it is the same sequence.
    again = server.native.post("/predictions/stateful", content=b"7", headers={ID: begun.headers[ID]})
    assert again.json()["total"] == 18
    # Many at once are computed in the order in which they came, whoever waits.
    with ThreadPoolExecutor(8) as threads:
        totals = [done.json()["total"] for done in threads.map(lambda _: server.ask("stateful", "1", "many"), range(8))]
    assert sorted(totals) == list(range(1, 9))


def test_a_worker_that_dies_takes_its_sequences_along(server):
    server.register("mortal")
    pid = server.ask("mortal", "3", "a").json()["pid"]
    other = server.ask("mortal", "4", "b").json()["pid"]
    assert pid != other
    with ThreadPoolExecutor(3) as threads:
        computed = threads.submit(server.ask, "mortal", "wait", "a")
        wait_until(lambda: _states(server, "mortal").count("busy") == 1)
        waiting = threads.submit(server.ask, "mortal", "1", "a")
        wait_until(lambda: server.management.get("/models/mortal").json()[0]["jobQueueStatus"]["pendingRequests"] == 1)
        os.kill(pid, signal.SIGKILL)
        died, lost = computed.result(), waiting.result()
    assert (died.status_code, died.json()["message"]) == (500, "Worker died.")
    assert lost.status_code == 503
    refused = server.ask("mortal", "1", "a")
    assert (refused.status_code, refused.json()["type"]) == (503, "ServiceUnavailableException")
    assert "if this is a sequence inference, please check if it is closed, or expired" in refused.json()["message"].lower()
    told = server.native.post("/predictions/mortal", content=b"1", headers={ID: "a"})
    assert (told.status_code, "is closed: its worker has ended" in told.text) == (503, True)
    # The others go on, and this one may begin anew.
    assert server.ask("mortal", "1", "b").json()["total"] == 5
    begun = server.ask("mortal", "9", "a", **{START: "true"})
    assert begun.json()["total"] == 9


def test_there_are_no_more_sequences_than_that_and_one_that_ends_makes_room(server):
    server.register("few", CONFIG.replace("batchSize: 4", "batchSize: 1").replace("maxNumSequence: 4", "maxNumSequence: 2"))
    assert [server.ask("few", "1", name).status_code for name in ("a", "b", "c")] == [200, 200, 503]
    assert server.ask("few", "1", "a", **{END: "true"}).json()["total"] == 2
    assert server.ask("few", "1", "c").status_code == 200
    assert server.ask("few", "1", "x" * 1025).status_code == 400


def test_one_that_rests_too_long_makes_room(server):
    config = CONFIG.replace("batchSize: 4", "batchSize: 1").replace("maxNumSequence: 4", "maxNumSequence: 1")
    server.register("short", config.replace("60000", "300").replace("Workers: 2", "Workers: 1"), workers=1)
    assert server.ask("short", "1", "a").status_code == 200
    wait_until(lambda: server.ask("short", "1", "b").status_code == 200)


def test_the_headers_may_have_other_names(tmp_path, tmp_path_factory):
    names = {"ID": "X-Session", "START": "X-First", "END": "X-Last"}
    env = ENV | {f"FLOWYARD_TS_HEADER_KEY_SEQUENCE_{key}": name for key, name in names.items()}
    with running(tmp_path_factory.mktemp("named"), "--dialect", "torchserve", env=env) as process:
        server = Server(process, tmp_path)
        server.register("named", CONFIG.replace("batchSize: 4", "batchSize: 1").replace("Workers: 2", "Workers: 1"), workers=1)
        begun = server.ask("named", "1")
        session = begun.headers["x-session"]
        assert (session[:7], begun.json()["starts"]) == ("ts-seq-", "true")
        assert server.ask("named", "2", **{"x-session": session, "x-last": "true"}).json()["total"] == 3
        for client in server.clients:
            client.close()


def _states(server: Server, name: str) -> list[str]:
    groups = server.native.get(f"/models/{name}").json()[0]["models"][0]["workerGroups"]
    return [worker["state"] for group in groups for worker in group["workers"]]
