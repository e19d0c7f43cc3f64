"""Sequences where there is more than one model: versions, shadows and workflows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from support.archives import zipped
from support.server import ServerProcess, running, wait_until
from support.torchserve import pack_model, pack_workflow

ID, START, END = "ts_request_sequence_id", "ts_request_sequence_start", "ts_request_sequence_end"
#: Tells its version, and what has been added up in the sequence.
TOTALS = """
class Totals:
    def initialize(self, context):
        self.totals = {}

    def handle(self, data, context):
        return [self.add(index, number_of(row.get("body")), context) for index, row in enumerate(data)]

    def add(self, index, number, context):
        sequence = context.get_sequence_id(index)
        if context.get_request_header(index, context.header_key_sequence_start):
            self.totals.pop(sequence, None)
        self.totals[sequence] = self.totals.get(sequence, 0) + number
        context.set_response_header(index, context.header_key_sequence_id, sequence)
        return str(self.totals[sequence])

def number_of(value):
    return int(value if isinstance(value, (int, str)) else bytes(value).decode())
"""
CONFIG = """
minWorkers: 1
maxWorkers: 1
batchSize: 4
maxNumSequence: 50
sequenceMaxIdleMSec: 60000
maxSequenceJobQueueSize: 10
sequenceBatching: true
"""
ENV = {
    "FLOWYARD_TORCHSERVE_INFERENCE_ADDRESS": "http://127.0.0.1:0",
    "FLOWYARD_TORCHSERVE_MANAGEMENT_ADDRESS": "http://127.0.0.2:0",
    "FLOWYARD_ENABLE_METRICS_API": "false",
    "FLOWYARD_TORCHSERVE_MODEL_API": "true",
    "FLOWYARD_DISABLE_TOKEN_AUTHORIZATION": "true",
}
FUNCTIONS = """
def pre(data, context):
    return data and [bytes(row["body"]).decode() for row in data]

def post(data, context):
    return data and ["total " + bytes(row["body"]).decode() for row in data]
"""


class Server:
    """The addresses of one server."""

    def __init__(self, process: ServerProcess, work: Path) -> None:
        self.process = process
        self.clients = [process.client_of(url) for url in process.urls]
        self.inference, self.management, self.native = self.clients
        self._work = work
        files = {"handler.py": TOTALS, "model-config.yaml": CONFIG}
        pack_model(process.model_store, work, "totals", files, "--config-file", "model-config.yaml")

    def register(self, name: str, *versions: str) -> None:
        for version in versions:
            params = {"url": "totals.mar", "model_name": name, "model_version": version}
            self.native.post("/models", params=params, timeout=120).raise_for_status()

    def workflow(self, text: str) -> httpx2.Response:
        return self.native.post("/workflows", content=zipped({"workflow.yaml": text}), timeout=120)

    def put(self, path: str, **params: str) -> None:
        self.native.put(path, params=params).raise_for_status()

    def add(self, name: str, number: int, sequence: str = "", *, client: httpx2.Client | None = None, **more: str):
        headers = more | ({ID: sequence} if sequence else {})
        return (client or self.native).post(f"/predictions/{name}", content=str(number).encode(), headers=headers, timeout=60)

    def shadow_of(self, path: str) -> dict[str, int]:
        (told,) = self.native.get(path).json()
        return told["shadowRequests"]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("apart"), "--dialect", "torchserve", env=ENV) as process:
        started = Server(process, tmp_path_factory.mktemp("archives"))
        yield started
        for client in started.clients:
            client.close()


def begun(server: Server, name: str, count: int) -> list[str]:
    """Sequences that have been begun, one after the other."""
    return [server.add(name, 1).headers[ID] for _ in range(count)]


def test_a_sequence_stays_at_the_version_where_it_began_whatever_the_weights_become(server):
    server.register("split", "v1", "v2")
    server.put("/models/split", weights="v1:1,v2:1")
    sequences = begun(server, "split", 4)
    # At another version than its own it would begin at nothing.
    for total in (2, 3):
        assert [server.add("split", 1, sequence).text for sequence in sequences] == [str(total)] * 4
    server.put("/models/split", weights="v2:1")
    assert [server.add("split", 1, sequence).text for sequence in sequences] == ["4"] * 4
    # Through each version by its name: who has which sequence.
    totals = [tuple(server.add(f"split/{version}", 0, one).text for version in ("v1", "v2")) for one in sequences]
    assert Counter(totals) == {("4", "0"): 2, ("0", "4"): 2}


def test_sequences_that_their_clients_name_meet_at_one_version(server):
    server.register("named", "v1", "v2", "v3")
    with ThreadPoolExecutor(8) as threads:
        for name in ("a", "b", "c", "d"):
            done = list(threads.map(lambda _, name=name: server.add("named", 1, name).text, range(8)))
            assert sorted(map(int, done)) == list(range(1, 9))


def test_in_torchserve_s_own_api_a_sequence_stays_when_the_default_moves(server):
    server.register("moved", "1.0", "2.0")
    client = server.inference
    old = server.add("moved", 1, client=client).headers[ID]
    server.management.put("/models/moved/2.0/set-default").raise_for_status()
    new = server.add("moved", 10, client=client).headers[ID]
    assert [server.add("moved", 1, one, client=client).text for one in (old, new, old)] == ["2", "11", "3"]
    assert server.add("moved/2.0", 0, old, client=client).text == "0"
    server.put("/models/moved", weights="1.0:1,2.0:1")
    assert [server.add("moved", 1, one, client=client).text for one in (old, new)] == ["4", "12"]


def test_the_state_that_is_lost_is_lost_at_its_version(server):
    server.register("lost", "v1", "v2")
    (sequence,) = begun(server, "lost", 1)
    groups = {
        version: server.native.get(f"/models/lost/{version}").json()[0]["models"][0]["workerGroups"] for version in ("v1", "v2")
    }
    for version, (group,) in groups.items():
        server.put(f"/models/lost/{version}", min_worker="0", max_worker="0")
        server.put(f"/models/lost/{version}", min_worker="1", max_worker="1", synchronous="true")
        assert len(group["workers"]) == 1
    # It does not begin anew at the other one, as if nothing had been.
    assert [server.add("lost", 1, sequence).status_code for _ in range(3)] == [503] * 3
    assert server.add("lost", 5, sequence, **{START: "true"}).text == "5"


def test_a_shadow_that_keeps_sequences_gets_no_copies(server):
    server.register("watched", "v1", "v2")
    server.put("/models/watched/v2", shadow="true")
    (sequence,) = begun(server, "watched", 1)
    assert server.add("watched", 1, sequence).text == "2"
    wait_until(lambda: server.shadow_of("/models/watched/v2")["skipped"] == 2)
    assert server.shadow_of("/models/watched/v2")["sent"] == 0


def test_a_copy_does_not_get_to_a_registered_model_that_keeps_sequences(server):
    server.register("kept", "")
    for version, nodes in (("v1", "out: [m, in]"), ("v2", "first: [m, in]\n  out: [m, first]")):
        text = f"name: asking\nversion: {version}\nmodels: {{m: {{model: kept}}}}\nworkflow:\n  {nodes}\n"
        assert server.workflow(text).status_code == 200
    server.put("/workflows/asking/v2", shadow="true")
    assert [server.add("asking", 1, "s").text for _ in range(2)] == ["1", "2"]
    wait_until(lambda: server.shadow_of("/workflows/asking/v2")["failed"] == 2)
    assert server.add("asking", 1, "s").text == "3"


def test_nodes_of_a_workflow_keep_sequences_under_the_name_that_the_client_gives(server):
    text = """
name: twice
models: {one: totals.mar, two: totals.mar}
workflow:
  first: [one, in]
  out: [two, first]
"""
    assert server.workflow(text).status_code == 200
    # 1, 1+2, 1+2+3 in the first node; the second one adds those up.
    assert [server.add("twice", number, "s").text for number in (1, 2, 3)] == ["1", "4", "10"]
    assert server.add("twice", 5, "other").text == "5"
    assert server.add("twice", 0, "s", **{END: "true"}).text == "16"
    assert server.add("twice", 7, "s", **{START: "true"}).text == "7"
    refused = server.add("twice", 1)
    assert refused.status_code == 400
    assert refused.json()["message"].startswith('Header ts_request_sequence_id is required: node "first" keeps the state of')


def test_nodes_that_are_registered_models_share_their_sequences(server):
    server.register("shared", "v1", "v2")
    text = "name: through\nmodels: {m: {model: shared}}\nworkflow: {out: [m, in]}\n"
    assert server.workflow(text).status_code == 200
    assert server.workflow("name: inner\nworkflow: {out: [{workflow: shared}, in]}\n").status_code == 200
    (sequence,) = begun(server, "shared", 1)
    assert [server.add(name, 1, sequence).text for name in ("through", "inner", "shared", "through")] == ["2", "3", "4", "5"]
    assert [server.add(name, 1).status_code for name in ("through", "inner")] == [400, 400]


def test_a_workflow_of_torchserve_keeps_sequences(server, tmp_path):
    spec = "models:\n  batch-size: 4\n  sums: {url: totals.mar}\ndag:\n  pre: [sums]\n  sums: [post]\n"
    pack_workflow(server.process.model_store, tmp_path, "summing", spec, FUNCTIONS)
    server.management.post("/workflows", params={"url": "summing.war"}, timeout=120).raise_for_status()

    def ask(number: int, **headers: str) -> httpx2.Response:
        return server.inference.post("/wfpredict/summing", content=str(number).encode(), headers=headers, timeout=60)

    assert [ask(number, **{ID: "s"}).text for number in (1, 2, 3)] == ["total 1", "total 3", "total 6"]
    refused = ask(1)
    assert refused.status_code == 400
    assert "Header ts_request_sequence_id is required" in refused.json()["message"]


@pytest.mark.parametrize(("cache", "model"), [("true", "totals.mar"), ("60s", "{model: noted}")])
def test_a_node_that_keeps_sequences_cannot_answer_from_a_cache(server, cache, model):
    if model != "totals.mar":
        server.register("noted", "")
    text = f"name: forgetful\nmodels: {{m: {model}}}\nworkflow:\n  out: {{call: [m, in], cache: {cache}}}\n"
    refused = server.workflow(text)
    assert refused.status_code == 400
    assert 'node "out" keeps its results, but its model keeps the state of sequences' in refused.json()["message"]
    assert server.native.get("/workflows/forgetful").status_code == 404
