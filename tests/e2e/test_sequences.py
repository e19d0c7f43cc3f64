"""Stateful handlers of TorchServe: requests that come in sequences, through its API and the native one."""

from __future__ import annotations

import contextlib
import json
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
#: In the shape of TorchServe's public example of sequences in steps: a request is in every step until its criterion says that it
#: has ended; a session is ended by a header of an answer, and what streams of it is cancelled by another request of it.
SESSIONS = """
import json, os, time
from pathlib import Path
from ts.torch_handler.base_handler import BaseHandler

class Sessions(BaseHandler):
    def initialize(self, ctx):
        ctx.cache = {}
        self.manifest = ctx.manifest
        self.totals, self.cancelled, self.over = {}, set(), set()
        self.batch_size = ctx.system_properties["batch_size"]

    def preprocess(self, data):
        context, totals = self.context, []
        assert len(data) <= 2 * self.batch_size
        for index, row in enumerate(data):
            session, request = context.get_sequence_id(index), context.get_request_id(index)
            context.set_response_header(index, context.header_key_sequence_id, session)
            if request not in context.cache:
                asked = row["body"]
                context.cache[request] = {"session": session, "left": 1, **asked}
                if context.get_request_header(index, context.header_key_sequence_start):
                    self.totals[session] = 0
                self.totals[session] += asked.get("add", 0)
                if asked.get("say") == "cancel":
                    self.cancelled.add(session)
                if asked.get("say") == "end":
                    self.over.add(session)
            one = context.cache[request]
            one["left"] -= 1
            if one.get("say") == "end" or (one.get("say") == "end last" and not one["left"]):
                context.set_response_header(index, context.header_key_sequence_end, "x; " + session)
            totals.append(self.totals[session])
        with Path(self.manifest["model"]["modelName"] + f"-{os.getpid()}").open("a") as steps:
            steps.write(json.dumps([context.cache[request]["session"] for request in context.request_ids.values()]) + "\\n")
        time.sleep(0.002)
        return totals

    def inference(self, data, *args, **kwargs):
        return [f"{os.getpid()}:{total} " for total in data]

    def postprocess(self, data):
        self.context.stopping_criteria = [self.criterion(request) for request in self.context.request_ids.values()]
        return data

    def criterion(self, request):
        def has_ended(result):
            one = self.context.cache[request]
            streams = one.get("streams", False)
            stopped = one["session"] in self.cancelled | self.over
            if one["left"] > 0 and not stopped:
                return False
            del self.context.cache[request]
            if not any(other["session"] == one["session"] for other in self.context.cache.values()):
                self.cancelled.discard(one["session"])
            return True if streams else None
        return has_ended
"""
STEPS = CONFIG + "continuousBatching: true\n"
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

    def register(self, name: str, config: str = CONFIG, workers: int = 2, code: str = STATEFUL) -> None:
        files = {"handler.py": code, "model.py": NET, "model-config.yaml": config}
        more = ("--model-file", "model.py", "--serialized-file", str(self._work / "net.pt"), "--config-file", "model-config.yaml")
        pack_model(self.process.model_store, self._work, name, files, *more)
        parameters = {"url": f"{name}.mar", "initial_workers": workers, "synchronous": "true"}
        self.management.post("/models", params=parameters, timeout=120).raise_for_status()

    def ask(self, name: str, text: str, sequence: str | None = None, **headers: str) -> httpx2.Response:
        given = headers | ({ID: sequence} if sequence is not None else {})
        return self.inference.post(f"/predictions/{name}", content=text.encode(), headers=given, timeout=60)

    def say(self, name: str, session: str | None = None, headers: dict[str, str] | None = None, **asked) -> httpx2.Response:
        given = (headers or {}) | ({ID: session} if session is not None else {})
        return self.inference.post(f"/predictions/{name}", json=asked, headers=given, timeout=60)

    def steps_of(self, name: str, worker: int) -> list[str]:
        (file,) = self.process.state_dir.glob(f"workplaces/*/{name}-{worker}")
        return file.read_text().splitlines()

    @contextlib.contextmanager
    def streamed(self, name: str, session: str) -> Iterator[Iterator[bytes]]:
        """The pieces of an answer that comes until the session is over or cancelled."""
        asked = {"left": 10**9, "streams": True}
        with (
            self.process.client_of(self.process.urls[0]) as http,
            http.stream("POST", f"/predictions/{name}", json=asked, headers={ID: session}) as answer,
        ):
            assert (answer.headers["transfer-encoding"], answer.headers[ID]) == ("chunked", session)
            yield answer.iter_raw()


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


def test_requests_of_a_sequence_share_steps(server):
    server.register("sessions", STEPS, code=SESSIONS)
    (described,) = server.management.get("/models/sessions").json()
    assert (described["stateful"], described["continuousBatching"], described["maxNumSequence"]) == (True, True, 8)
    begun = [server.say("sessions", add=number) for number in (1, 10, 100, 1000)]
    sessions = [answer.headers[ID] for answer in begun]
    pids = [_pid(answer) for answer in begun]
    assert [_total(answer) for answer in begun] == [1, 10, 100, 1000]
    assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2]

    first = sessions[0]
    beside = next(session for session, pid in zip(sessions[1:], pids[1:], strict=True) if pid == pids[0])
    with server.streamed("sessions", first) as pieces:
        assert _total(next(pieces)) == 1
        # Others of the same sequence, and of others in the same worker, are answered meanwhile.
        assert _total(server.say("sessions", first, add=1)) == 2
        assert [_pid(server.say("sessions", beside)), _pid(server.say("sessions", first))] == [pids[0]] * 2
        with server.streamed("sessions", first) as others:
            assert _total(next(others)) == 2
            assert _total(server.say("sessions", first, add=1, say="cancel")) == 3
            rest = b"".join(others).split()
        rest += b"".join(pieces).split()
    assert {_total(piece) for piece in rest} <= {1, 2, 3}
    steps = [json.loads(line) for line in server.steps_of("sessions", pids[0])]
    assert any(names.count(first) == 3 for names in steps)
    assert any(beside in names and first in names for names in steps)
    # It goes on, in order, whoever waits.
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda _: server.say("sessions", first, add=1), range(8)))
    assert {answer.status_code for answer in done} == {200}
    assert sorted(map(_total, done)) == list(range(4, 12))
    # Through the native API it is the same sequence.
    assert _total(server.native.post("/predictions/sessions", json={"add": 1}, headers={ID: first})) == 12


def test_a_handler_ends_a_sequence_by_what_it_answers(server):
    config = STEPS.replace("batchSize: 4", "batchSize: 1").replace("maxNumSequence: 4", "maxNumSequence: 2")
    server.register("visits", config.replace("Workers: 2", "Workers: 1"), workers=1, code=SESSIONS)
    first, second = (server.say("visits", add=1).headers[ID] for _ in range(2))
    assert server.say("visits").status_code == 503
    with server.streamed("visits", first) as pieces:
        assert _total(next(pieces)) == 1
        ended = server.say("visits", first, add=4, say="end")
        assert (_total(ended), ended.headers[END]) == (5, f"x; {first}")
        assert {_total(piece) for piece in b"".join(pieces).split()} <= {1, 5}
    third = server.say("visits", add=7)
    assert (third.status_code, _total(third)) == (200, 7)
    assert server.say("visits").status_code == 503
    # Also with a later piece than the first.
    last = server.say("visits", second, left=3, streams=True, say="end last")
    assert (last.status_code, len(last.text.split())) == (200, 3)
    assert server.say("visits").status_code == 200


def test_a_worker_that_dies_takes_the_sequences_of_its_steps_along(server):
    server.register("brief", STEPS, code=SESSIONS)
    begun = [server.say("brief", add=number) for number in (1, 10)]
    first, other = (answer.headers[ID] for answer in begun)
    with server.streamed("brief", first) as pieces:
        pid = _pid(next(pieces))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx2.RemoteProtocolError, match="peer closed connection"):
            b"".join(pieces)
    assert server.say("brief", first).status_code == 503
    assert _total(server.say("brief", other, add=1)) == 11
    again = server.say("brief", first, headers={START: "true"}, add=5)
    assert (again.status_code, _total(again), again.headers[ID]) == (200, 5, first)


def _total(answer: httpx2.Response | bytes) -> int:
    return int((answer if isinstance(answer, bytes) else answer.content).split(b":")[1])


def _pid(answer: httpx2.Response | bytes) -> int:
    return int((answer if isinstance(answer, bytes) else answer.content).split(b":")[0])


def _states(server: Server, name: str) -> list[str]:
    groups = server.native.get(f"/models/{name}").json()[0]["models"][0]["workerGroups"]
    return [worker["state"] for group in groups for worker in group["workers"]]
