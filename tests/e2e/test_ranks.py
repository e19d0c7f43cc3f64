"""Models that several processes serve together: a linear layer in parts, whose ranks add up what each has computed."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from support.accounts import STRANGER, open_folder, python_of_others
from support.archives import zipped
from support.server import ServerProcess, is_gone, running, wait_until
from support.torchserve import pack_model

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: W has a row for each of four numbers and two columns; every rank keeps its share of the rows.
WEIGHT = [[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]
TENSOR_PARALLEL = f"""
import json
import os
import pathlib
import signal

import torch
import torch.distributed as dist


class Linear:
    def initialize(self, context):
        self.rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        said = context.model_yaml_config.get("handler", {{}})
        broken = said.get("broken")
        if broken == self.rank:
            raise ValueError("no weights")
        if broken == "dies" and self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.init_process_group("gloo")
        rows = 4 // ranks
        self.share = slice(self.rank * rows, (self.rank + 1) * rows)
        self.weight = torch.tensor({WEIGHT})[self.share]
        self.pids = [None] * ranks
        dist.all_gather_object(self.pids, os.getpid())
        if "pids" in said:
            pathlib.Path(said["pids"], str(os.getpid())).write_text(json.dumps(self.pids))
        self.gpu = context.system_properties["gpu_id"]

    def handle(self, data, context):
        asked = [row["body"] for row in data]
        for one in asked:
            self.obey(one)
        inputs = torch.tensor([one["x"] for one in asked])
        outputs = inputs[:, self.share] @ self.weight
        dist.all_reduce(outputs)
        told = {{"pids": self.pids, "rank": self.rank, "batch": len(data), "threads": torch.get_num_threads()}}
        return [{{"y": row, "gpu": self.gpu, **told}} for row in outputs.tolist()]

    def obey(self, one):
        if one.get("raise") == "all":
            raise ValueError("none of us")
        if one.get("hang") == self.rank:
            signal.pause()
        if one.get("exit") == self.rank:
            os._exit(9)
"""
PIPELINE = """
import os

class Stages:
    def initialize(self, context):
        self.rank = int(os.environ["LOCAL_RANK"])
        self.environ = {key: os.environ[key] for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")}

    def handle(self, data, context):
        assert self.rank == 0, "only the first rank is asked"
        return [self.environ for _ in data]
"""
STREAM = """
import os

import torch
import torch.distributed as dist
from ts.handler_utils.utils import send_intermediate_predict_response

class Stream:
    def initialize(self, context):
        dist.init_process_group("gloo")

    def handle(self, data, context):
        for _ in range(3):
            total = torch.ones(1)
            dist.all_reduce(total)
            pieces = [f"{int(total)} of rank {dist.get_rank()} "] * len(data)
            send_intermediate_predict_response(pieces, context.request_ids, "", 200, context)
        return ["end"] * len(data)
"""
#: Every request says how many pieces it wants; a piece is the sum, over all ranks, of its number and of how many are in the step.
CONTINUOUS = """
import torch
import torch.distributed as dist

class Counting:
    def initialize(self, context):
        dist.init_process_group("gloo")
        self.made, self.wanted = {}, {}

    def handle(self, data, context):
        ids = list(context.request_ids.values())
        for index, (request_id, row) in enumerate(zip(ids, data)):
            if row:
                self.made[request_id], self.wanted[request_id] = 0, row["body"]["pieces"]
            if row and row["body"].get("ends"):
                context.set_response_header(index, context.header_key_sequence_end, context.get_sequence_id(index))
        sums = torch.tensor([[self.made[one] + 1.0, len(ids)] for one in ids])
        dist.all_reduce(sums)
        for one in ids:
            self.made[one] += 1
        context.stopping_criteria = [self.criterion(one) for one in ids]
        return [f"{int(number)}/{int(together)} " for number, together in sums.tolist()]

    def criterion(self, request_id):
        return lambda _: self.made[request_id] >= self.wanted[request_id]
"""
MPI = """
import os

import torch
import torch.distributed as dist
from djl_python import Input, Output

state = {}

def handle(inputs: Input):
    if inputs.is_empty():
        dist.init_process_group("gloo")
        return None
    total = torch.tensor([float(inputs.get_as_json()["x"]) * (dist.get_rank() + 1)])
    dist.all_reduce(total)
    keys = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "MKL_DYNAMIC")
    return Output().add_as_json({"sum": total.item(), **{key: os.environ[key] for key in keys}})
"""


def config(**said):
    lines = {"responseTimeout": 60, **said}
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items())


def pack(store, work, name, code, **said):
    files = {"handler.py": code, "model-config.yaml": config(**said)}
    pack_model(store, work, name, files, "--config-file", "model-config.yaml")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("ranks")) as server:
        yield server


@pytest.fixture(scope="module")
def http(server):
    return server.client


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def store(server, work):
    folder = server.model_store
    two = {"parallelType": "tp", "torchrun": {"nproc-per-node": 2}}
    pack(folder, work, "linear", TENSOR_PARALLEL, parallelType="tp", parallelLevel=2, batchSize=4, maxBatchDelay=2000)
    pack(folder, work, "quick", TENSOR_PARALLEL, **two | {"responseTimeout": 3})
    pack(folder, work, "many", TENSOR_PARALLEL, handler={"pids": str(work)}, **two)
    pack(folder, work, "lame", TENSOR_PARALLEL, handler={"broken": 1}, **two)
    pack(folder, work, "lamefirst", TENSOR_PARALLEL, handler={"broken": 0}, **two)
    pack(folder, work, "dying", TENSOR_PARALLEL, handler={"broken": "dies"}, **two)
    pack(folder, work, "stages", PIPELINE, parallelType="pp", torchrun={"nproc-per-node": 2})
    pack(folder, work, "stream", STREAM, **two)
    pack(folder, work, "counting", CONTINUOUS, continuousBatching=True, batchSize=3, **two)
    sequences = {"sequenceBatching": True, "sequenceMaxIdleMSec": 60_000, "maxNumSequence": 2}
    pack(folder, work, "sessions", CONTINUOUS, continuousBatching=True, batchSize=1, **sequences, **two)
    return folder


def ask(http, name, **said):
    return http.post(f"/predictions/{name}", json={"x": [1.0, 1.0, 1.0, 1.0]} | said)


def told(http, name):
    (one,) = http.get(f"/models/{name}").json()
    return [worker for group in one["models"][0]["workerGroups"] for worker in group["workers"]]


def test_ranks_compute_every_batch_together_and_the_first_answers(http, store):
    assert http.post("/models", params={"url": "linear.mar"}).status_code == 200
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        inputs = [[float(place == axis) for axis in range(4)] for place in range(4)]
        answers = list(clients.map(lambda x: http.post("/predictions/linear", json={"x": x}).json(), inputs))
    assert [answer["y"] for answer in answers] == WEIGHT
    assert {(answer["batch"], answer["rank"], answer["gpu"]) for answer in answers} == {(4, 0, None)}
    pids = answers[0]["pids"]
    assert len(set(pids)) == 2
    (worker,) = told(http, "linear")
    assert worker["pid"] == pids[0]
    # Both processes have torch in memory.
    assert worker["memory"] > 1.5 * (int(Path(f"/proc/{pids[0]}/statm").read_text().split()[1]) * PAGE_BYTES)
    http.delete("/models/linear")
    wait_until(lambda: all(map(is_gone, pids)))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_dies_takes_the_others_along_and_all_of_them_come_back(http, store, lost):
    http.post("/models", params={"url": "quick.mar"}).raise_for_status()
    before = ask(http, "quick").json()["pids"]
    os.kill(before[lost], signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, before)))
    answer = ask(http, "quick")
    assert (answer.status_code, answer.json()["y"]) == (200, [10.0, 100.0])
    assert not set(before) & set(answer.json()["pids"])
    http.delete("/models/quick")
    wait_until(lambda: all(map(is_gone, answer.json()["pids"])))


def test_what_goes_wrong_while_a_batch_is_computed(http, store):
    http.post("/models", params={"url": "quick.mar"}).raise_for_status()
    before = ask(http, "quick").json()["pids"]
    failed = ask(http, "quick", **{"raise": "all"})
    assert (failed.status_code, failed.json()["message"]) == (503, "Prediction failed")
    assert ask(http, "quick").json()["pids"] == before
    # Tried twice, each time by new processes.
    lost = ask(http, "quick", exit=1)
    assert (lost.status_code, lost.json()["message"]) == (503, "Worker died.")
    wait_until(lambda: all(map(is_gone, before)))
    again = ask(http, "quick").json()["pids"]
    hung = ask(http, "quick", hang=1)
    assert hung.status_code >= 500
    wait_until(lambda: all(map(is_gone, again)))
    assert ask(http, "quick").json()["y"] == [10.0, 100.0]
    http.delete("/models/quick")


def test_workers_of_ranks_are_scaled_as_others_and_leave_nothing_behind(http, store, work):
    http.post("/models", params={"url": "many.mar"}).raise_for_status()
    http.put("/models/many", params={"min_worker": 2, "max_worker": 2, "synchronous": "true"}).raise_for_status()
    ranks = {worker["pid"]: json.loads((work / str(worker["pid"])).read_text()) for worker in told(http, "many")}
    everyone = {pid for pids in ranks.values() for pid in pids}
    assert len(everyone) == 4
    assert not any(map(is_gone, everyone))
    http.put("/models/many", params={"min_worker": 1, "max_worker": 1, "synchronous": "true"}).raise_for_status()
    wait_until(lambda: sum(map(is_gone, everyone)) == 2)
    (left,) = told(http, "many")
    assert not any(map(is_gone, ranks[left["pid"]]))
    assert ask(http, "many").json()["pids"] == ranks[left["pid"]]
    http.delete("/models/many").raise_for_status()
    wait_until(lambda: all(map(is_gone, everyone)))


def test_a_server_that_is_killed_leaves_no_rank_behind(store, tmp_path):
    with running(tmp_path) as server:
        shutil.copy(store / "quick.mar", server.model_store)
        server.client.post("/models", params={"url": "quick.mar"}).raise_for_status()
        pids = ask(server.client, "quick").json()["pids"]
        server.kill()
        wait_until(lambda: all(map(is_gone, pids)))
        server.start()
        assert ask(server.client, "quick").json()["y"] == [10.0, 100.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lame", "rank 1: handler.py:17: ValueError: no weights"),
        ("lamefirst", "handler.py:17: ValueError: no weights"),
        ("dying", "rank 1: the process ended while loading: killed by SIGKILL"),
    ],
)
def test_a_rank_that_cannot_load_the_model_fails_the_registration_with_its_own_reason(http, server, store, name, words):
    answer = http.post("/models", params={"url": f"{name}.mar"})
    assert answer.status_code >= 400
    assert words in answer.json()["message"]
    assert http.get(f"/models/{name}").status_code == 404


def test_in_a_pipeline_only_the_first_rank_gets_batches(http, store):
    http.post("/models", params={"url": "stages.mar"}).raise_for_status()
    expected = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    assert [ask(http, "stages").json() for _ in range(3)] == [expected] * 3
    http.delete("/models/stages")


def test_only_the_first_rank_sends_pieces(http, store):
    http.post("/models", params={"url": "stream.mar"}).raise_for_status()
    for _ in range(2):
        with http.stream("POST", "/predictions/stream", content=b"x") as answer:
            assert b"".join(answer.iter_raw()) == b"2 of rank 0 " * 3 + b"end"
    http.delete("/models/stream")


def test_ranks_take_the_steps_of_continuous_batching_together(http, store):
    http.post("/models", params={"url": "counting.mar"}).raise_for_status()
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        wanted = [1, 5, 2, 7, 3, 4, 6, 1]
        asked = [clients.submit(http.post, "/predictions/counting", json={"pieces": pieces}) for pieces in wanted]
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    for answer, pieces in zip(answers, wanted, strict=True):
        numbers, together = zip(*(map(int, piece.split("/")) for piece in answer.text.split()), strict=True)
        assert numbers == tuple(range(2, 2 * pieces + 1, 2))
        assert set(together) <= {2, 4, 6}
    http.delete("/models/counting")


def test_ranks_keep_sequences_together_and_the_first_one_ends_them(http, store):
    http.post("/models", params={"url": "sessions.mar"}).raise_for_status()

    def say(session, **asked):
        return http.post("/predictions/sessions", json={"pieces": 1} | asked, headers={"ts_request_sequence_id": session})

    with concurrent.futures.ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(lambda session: say(session, pieces=3), "ab"))
    assert [[piece.split("/")[0] for piece in answer.text.split()] for answer in answers] == [["2", "4", "6"]] * 2
    assert say("c").status_code == 503
    assert say("a", ends=True).status_code == 200
    assert say("c").status_code == 200
    http.delete("/models/sessions")


def test_handlers_of_djl_in_mpi_mode(http, store):
    properties = "engine=MPI\noption.tensor_parallel_degree=2\nminWorkers=1\nmaxWorkers=1\n"
    content = zipped({"serving.properties": properties, "model.py": MPI})
    http.post("/models", files={"file": ("mpi.zip", content)}).raise_for_status()
    answer = http.post("/predictions/mpi", json={"x": 2})
    numbers = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    assert answer.json() == {"sum": 6.0, **numbers, "MKL_DYNAMIC": "FALSE"}
    http.delete("/models/mpi")


CONFINED = """
import os
import resource

import torch.distributed as dist

class Confined:
    def initialize(self, context):
        dist.init_process_group("gloo")
        lines = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
        umask = os.umask(0)
        os.umask(umask)
        own = {
            "ids": [os.getuid(), os.getgid(), os.getgroups()],
            "privileges": lines["NoNewPrivs"].strip(),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "umask": umask,
            "secret": os.environ.get("FLOWYARD_TOKEN"),
        }
        self.seen = [None] * 2
        dist.all_gather_object(self.seen, own)

    def handle(self, data, context):
        return [self.seen for _ in data]
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as somebody else")
def test_every_rank_is_confined_as_the_worker_is(tmp_path):
    pack(tmp_path, tmp_path / "work", "confined", CONFINED, parallelType="tp", parallelLevel=2)
    with open_folder() as folder:
        found = python_of_others(folder)
        if found is None:
            pytest.skip("no Python here that another user may start")
        limits = {
            "FLOWYARD_WORKER_USER": f"{STRANGER}:{STRANGER}",
            "FLOWYARD_WORKER_OPEN_FILES": "99",
            "FLOWYARD_TOKEN": "s3cret",
        }
        server = ServerProcess(folder, env={**limits, **found[1]})
        server.python = found[0]
        server.start()
        try:
            shutil.copy(tmp_path / "confined.mar", server.model_store)
            answer = server.client.post("/models", params={"url": "confined.mar"})
            assert answer.status_code == 200, answer.text
            seen = ask(server.client, "confined").json()
        finally:
            assert server.stop() == 0
    expected = {"ids": [STRANGER, STRANGER, []], "privileges": "1", "files": [99, 99], "core": [0, 0], "umask": 0o077}
    assert seen == [expected | {"secret": None}] * 2
