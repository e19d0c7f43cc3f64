"""Models and workflows made for TorchServe and MMS, served as they are through the native API."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.archives import zipped
from support.server import running, wait_until
from support.torchserve import mms_archive, pack_model, pack_workflow

ECHO = """
class Echo:
    def initialize(self, context):
        self.calls = 0

    def handle(self, data, context):
        self.calls += 1
        return [{key: text(value) for key, value in row.items()} for row in data]

def text(value):
    return value.decode() if isinstance(value, bytearray) else value
"""
PROBE = """
import os, sys, time
from ts.utils.util import PredictionException

class Probe:
    def initialize(self, context):
        self.calls = 0

    def handle(self, data, context):
        command = data[0]["body"]
        if command["do"] == "count":
            self.calls += 1
            return [self.calls]
        if command["do"] == "raise":
            raise ValueError("boom")
        if command["do"] == "status":
            context.set_response_status(418, "Teapot", 0)
            context.set_response_header(0, "X-Own", "1")
            return ["tea"]
        if command["do"] == "exception":
            raise PredictionException("mine", 409)
        if command["do"] == "memory":
            raise MemoryError("big")
        if command["do"] == "exit":
            sys.exit(3)
        return {"no": "list"}
"""
STREAM = """
from ts.handler_utils.utils import send_intermediate_predict_response

class Stream:
    def initialize(self, context): ...
    def handle(self, data, context):
        for piece in ("one ", "two "):
            send_intermediate_predict_response([piece] * len(data), context.request_ids, "", 200, context)
        if data[0]["body"] == "fail":
            raise ValueError("after pieces")
        return ["end"] * len(data)
"""
BATCH = """
class Batch:
    def initialize(self, context): ...
    def handle(self, data, context):
        return [f"{place} of {len(data)}" for place, _ in enumerate(data, 1)]
"""
NUMBERS = """
class Node:
    def initialize(self, context):
        self.operation = context.model_name.rsplit("__", 1)[-1]
        self.failed = set()

    def handle(self, data, context):
        return [self.answer(index, int(bytes(row.get("body"))), context) for index, row in enumerate(data)]

    def answer(self, index, number, context):
        if self.operation == "flaky" and number not in self.failed:
            self.failed.add(number)
            raise ValueError("the first time")
        if self.operation == "status":
            context.set_response_status(418, "Teapot", index)
        return str(number * 2 if self.operation == "dbl" else number + 1)
"""
FUNCTIONS = """
import json

def pre(data, context):
    return data and [str(int(bytes(row.get("data", row.get("body"))).decode())) for row in data]

def post(data, context):
    return data and [json.dumps({"result": int(bytes(row["body"]))}) for row in data]

def merge(data, context):
    return data and [{name: [type(value).__name__, value.decode()] for name, value in sorted(row.items())} for row in data]

def headers(data, context):
    return data and [context.get_request_header(0, "X-Probe") or "none"]
"""
MODELS = "models:\n  max-batch-delay: 5\n  retry-attempts: {retries}\n" + "".join(
    f"  {name}: {{{{url: numbers.mar}}}}\n" for name in ("inc", "dbl", "status", "flaky")
)
DAGS = {
    "seq": "{pre: [inc], inc: [dbl], dbl: [post]}",
    "par": "{pre: [inc, dbl], inc: [merge], dbl: [merge]}",
    "leaves": "{pre: [inc, post]}",
    "teapot": "{pre: [status], status: [post]}",
    "again": "{pre: [flaky], flaky: [post]}",
    "told": "{inc: [headers]}",
}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def store(server, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    folder = server.model_store
    pack_model(folder, work, "echo", {"echo.py": ECHO})
    pack_model(folder, work, "stored", {"echo.py": ECHO}, "--archive-format", "zip-store")
    pack_model(folder, work, "packed", {"echo.py": ECHO}, "--archive-format", "tgz")
    pack_model(folder, work, "folder", {"echo.py": ECHO}, "--archive-format", "no-archive")
    pack_model(folder, work, "probe", {"probe.py": PROBE})
    pack_model(folder, work, "stream", {"stream.py": STREAM})
    config = {"batch.py": BATCH, "model-config.yaml": "batchSize: 3\nmaxBatchDelay: 3000\n"}
    pack_model(folder, work, "batch", config, "--config-file", "model-config.yaml")
    pack_model(folder, work, "numbers", {"numbers.py": NUMBERS})
    for name, dag in DAGS.items():
        retries = 1 if name == "again" else 0
        used = [node for node in ("inc", "dbl", "status", "flaky") if node in dag]
        lines = [
            line
            for line in MODELS.format(retries=retries).splitlines()
            if "numbers" not in line or line.split(":")[0].strip() in used
        ]
        pack_workflow(folder, work, name, "\n".join([*lines, f"dag: {dag}"]), FUNCTIONS)
    return folder


@pytest.mark.parametrize(
    ("url", "name"), [("echo.mar", "echo"), ("stored.mar", "stored"), ("packed.tar.gz", "packed"), ("folder", "folder")]
)
def test_every_form_of_archive(http, store, url, name):
    answer = http.post("/models", params={"url": url})
    assert (answer.status_code, answer.json()) == (200, {"status": f'Model "{name}" registered.'})
    (told,) = http.get(f"/models/{name}").json()
    assert told["version"] == "1.0"
    assert http.post(f"/predictions/{name}/1.0", json={"a": 1}).json() == {"body": {"a": 1}}
    assert http.post(f"/predictions/{name}", content=b"raw").json() == {"body": "raw"}
    assert http.post(f"/predictions/{name}?q=1", data={"a": "1", "b": "two"}).json() == {"a": "1", "b": "two"}
    files = {"data": ("f.bin", b"bytes"), "j": ("j.json", b"[1]", "application/json")}
    assert http.post(f"/predictions/{name}", files=files).json() == {"data": "bytes", "j": [1]}
    # What curl -d sends without a type is JSON to the native API.
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert http.post(f"/predictions/{name}", content=b'{"a": 1}', headers=form).json() == {"body": {"a": 1}}
    assert http.delete(f"/models/{name}").status_code == 200


def test_an_archive_can_be_uploaded_and_has_its_own_name_and_version(http, store):
    content = (store / "echo.mar").read_bytes()
    answer = http.post("/models", files={"file": ("whatever.mar", content)})
    assert answer.json() == {"status": 'Model "echo" registered.'}
    assert http.post("/models", files={"file": ("whatever.mar", content)}).status_code == 409
    http.delete("/models/echo")


def test_what_a_handler_says_and_how_it_fails(http, store):
    http.post("/models", params={"url": "probe.mar"})

    def do(what):
        return http.post("/predictions/probe", json={"do": what})

    assert (do("count").json(), do("count").json()) == (1, 2)
    tea = do("status")
    assert (tea.status_code, tea.text, tea.headers["x-own"]) == (418, "tea", "1")
    failed = do("raise")
    assert failed.status_code == 503
    assert failed.json() == {
        "code": 503,
        "type": "InternalServerException",
        "message": "Prediction failed",
        "detail": 'node "probe": ValueError: boom',
    }
    told = {"exception": (409, "mine"), "memory": (507, "Out of resources"), "else": (503, "Invalid model predict output")}
    for what, (status, message) in told.items():
        answer = do(what)
        assert (answer.status_code, answer.json()["message"]) == (status, message)
    assert do("exit").status_code == 503
    # Another worker has taken over, as in TorchServe.
    wait_until(lambda: do("count").status_code == 200)
    assert do("count").json() >= 2
    http.delete("/models/probe")


def test_pieces_go_out_as_they_are_sent(http, store):
    http.post("/models", params={"url": "stream.mar"})
    with http.stream("POST", "/predictions/stream", content=b"x") as answer:
        assert answer.headers["ts_stream_next"] == "true"
        assert b"".join(answer.iter_raw()) == b"one two end"
    with pytest.raises(Exception, match="peer closed connection"):
        http.post("/predictions/stream", content=b"fail", headers={"content-type": "text/plain"})
    http.delete("/models/stream")


def test_a_batch_is_filled_as_torchserve_fills_it(http, store):
    http.post("/models", params={"url": "batch.mar"})
    with ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(lambda _: http.post("/predictions/batch", content=b"x").text, range(3)))
    assert sorted(answers) == ["1 of 3", "2 of 3", "3 of 3"]
    (told,) = http.get("/models/batch").json()
    assert (told["models"][0]["batchSize"], told["models"][0]["maxBatchDelayMillis"]) == (3, 3000)
    http.delete("/models/batch")
    # What the registration says counts more.
    http.post("/models", params={"url": "batch.mar", "batch_size": 1, "max_batch_delay": 7})
    (told,) = http.get("/models/batch").json()
    assert (told["models"][0]["batchSize"], told["models"][0]["maxBatchDelayMillis"]) == (1, 7)
    http.delete("/models/batch")


def test_an_archive_of_multi_model_server(http):
    code = """
from mms.service import PredictionException
class Service:
    ready = False
    def initialize(self, context): self.ready = context.system_properties["server_version"]
    def handle(self, data, context): return [f"{self.ready} {row['body']}" for row in data]
_service = Service()
def handle(data, context):
    if not _service.ready:
        _service.initialize(context)
    return _service.handle(data, context) if data is not None else None
"""
    answer = http.post("/models", params={"model_name": "mms"}, content=mms_archive("mms", code))
    assert answer.json() == {"status": 'Model "mms" registered.'}
    assert http.post("/predictions/mms", json=[1]).text == "1.1.11 [1]"
    http.delete("/models/mms")


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ({"MAR-INF/MANIFEST.json": "{no"}, 400, "Failed to parse signature.json. (MAR-INF/MANIFEST.json: "),
        ({"MAR-INF/MANIFEST.json": '{"runtime": "ruby"}'}, 400, "Runtime is not defined or invalid. (MAR-INF/MANIFEST.json"),
        ({"MAR-INF/MANIFEST.json": '{"runtime": "LSP", "model": {"handler": "h"}}'}, 400, "the runtime LSP"),
        ({"MAR-INF/MANIFEST.json": '{"model": {}}'}, 400, "the archive names no handler"),
        ({"MAR-INF/MANIFEST.json": '{"model": {"modelName": "a/b"}}'}, 400, "a/b"),
        ({"MAR-INF/MANIFEST.json": '{"model": {"handler": "no.py"}}'}, 400, "there is no file 'no.py' in the archive"),
        (
            {"MAR-INF/MANIFEST.json": '{"model": {"handler": "h.py"}}', "h.py": "import nowhere"},
            400,
            "h.py:1: ModuleNotFoundError: No module named 'nowhere'",
        ),
        (
            {"MAR-INF/MANIFEST.json": '{"model": {"handler": "h.py"}}', "h.py": "def handle(d, c): raise MemoryError('no')"},
            507,
            "Out of resources: MemoryError: no",
        ),
        (
            {"MAR-INF/MANIFEST.json": '{"model": {"configFile": "c.yaml"}}', "c.yaml": "sequenceBatching: true"},
            400,
            "c.yaml: sequenceMaxIdleMSec: sequenceBatching needs a number of milliseconds over 0 that a sequence may rest",
        ),
    ],
)
def test_wrong_archives_leave_nothing_behind(http, files, status, words):
    answer = http.post("/models", files={"file": ("wrong.mar", zipped(files))})
    assert answer.status_code == status
    assert words in answer.json()["message"]
    assert "/tmp" not in answer.text
    assert "Traceback" not in answer.text
    assert http.get("/models/wrong").status_code == 404


# --- Workflows ---


@pytest.fixture(scope="module")
def workflows(http, store):
    for name in DAGS:
        answer = http.post("/workflows", params={"url": f"{name}.war"})
        assert (answer.status_code, answer.json()) == (200, {"status": f'Workflow "{name}" registered.'})
    return http


@pytest.mark.parametrize("sent", [{"content": b"5"}, {"data": {"data": "5"}}, {"files": {"data": ("f", b"5")}}])
def test_nodes_in_a_row(workflows, sent):
    assert workflows.post("/predictions/seq", **sent).json() == {"result": 12}


def test_several_parents_are_named(workflows):
    answer = workflows.post("/predictions/par", content=b"10").json()
    assert answer == {"dbl": ["bytearray", "20"], "inc": ["bytearray", "11"]}


def test_several_leaves_are_one_object(workflows):
    assert workflows.post("/predictions/leaves", content=b"4").json() == {"inc": 5, "post": {"result": 4}}


def test_the_status_of_a_node_is_of_no_account(workflows):
    answer = workflows.post("/predictions/teapot", content=b"4")
    assert (answer.status_code, answer.json()) == (200, {"result": 5})


def test_a_failed_node_is_tried_again(workflows):
    assert workflows.post("/predictions/again", content=b"4").json() == {"result": 5}


def test_a_node_that_fails_for_good_is_named(workflows):
    answer = workflows.post("/predictions/seq", content=b"no number")
    assert (answer.status_code, answer.json()["message"]) == (503, "Prediction failed")
    assert answer.json()["detail"].startswith('node "pre": ValueError: invalid literal')


def test_nodes_get_the_headers_of_the_request(workflows):
    assert workflows.post("/predictions/told", content=b"4", headers={"X-Probe": "seen"}).text == "seen"


def test_64_clients_at_once(workflows):
    def ask(number):
        return workflows.post("/predictions/par", content=str(number).encode()).json()

    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(ask, range(512)))
    assert answers == [{"dbl": ["bytearray", str(2 * n)], "inc": ["bytearray", str(n + 1)]} for n in range(512)]


MANIFEST = {
    "createdOn": "x",
    "archiverVersion": "0.2.15",
    "workflow": {"workflowName": "w", "specFile": "spec.yaml", "handler": "functions.py"},
}
SPEC = "models: {inc: {url: numbers.mar}}\ndag: {pre: [inc]}"


def war(manifest=MANIFEST, spec=SPEC, functions=FUNCTIONS, **changes):
    told = manifest if isinstance(manifest, str) else json.dumps(manifest | changes)
    return {"WAR-INF/MANIFEST.json": told, "spec.yaml": spec, "functions.py": functions}


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        (war("{no"), 400, "Failed to parse signature.json. (WAR-INF/MANIFEST.json: "),
        (war("[]"), 400, "WAR-INF/MANIFEST.json: Expected `object`, got `array`"),
        (war(workflow=None), 400, "Workflow name is not defined."),
        (war(workflow={"specFile": "spec.yaml"}), 400, "Workflow name is not defined."),
        (war(archiverVersion=""), 400, "Workflow archive version is not defined."),
        (war(createdOn=None), 400, "Workflow archive createdOn is not defined."),
        (war(workflow={"workflowName": "w", "specFile": "no.yaml"}), 400, 'no file "no.yaml" in the archive'),
        (war(workflow={"workflowName": "w", "specFile": "../../etc/passwd"}), 400, 'no file "../../etc/passwd" in the archive'),
        (war(workflow={"workflowName": "w"}), 400, 'no file "" in the archive'),
        (war(workflow={"workflowName": "a/b", "specFile": "spec.yaml", "handler": "functions.py"}), 400, "a/b"),
        (
            war(spec="models: {inc: {url: none.mar}}\ndag: {inc: }"),
            400,
            '"none.mar" is neither in the archive nor in the model store',
        ),
        (
            war(spec="models: {inc: {url: ../x.mar}}\ndag: {inc: }"),
            400,
            '"../x.mar" is neither in the archive nor in the model store',
        ),
        (war(spec="models: {inc: {url: numbers.mar}}\ndag: {inc: [nothing]}"), 400, 'no "nothing" in functions.py'),
        (war(functions="def pre(data, context):\n    raise ValueError('at load')"), 400, "functions.py:2: ValueError: at load"),
        (war(spec="models: {inc: {url: numbers.mar}}\ndag: {a: [inc], b: [inc]}"), 400, "DAG should have only one start node"),
    ],
)
def test_wrong_workflows_leave_nothing_behind(http, store, files, status, words):
    answer = http.post("/workflows", files={"file": ("w.war", zipped(files))})
    assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    assert "/tmp" not in answer.text
    assert http.get("/workflows/w").status_code == 404


def test_a_workflow_is_there_after_a_restart_without_the_store(tmp_path):
    with running(tmp_path) as server:
        pack_model(server.model_store, tmp_path / "work", "numbers", {"numbers.py": NUMBERS})
        spec = f"models: {{inc: {{url: numbers.mar}}, dbl: {{url: numbers.mar}}}}\ndag: {DAGS['seq']}"
        pack_workflow(server.model_store, tmp_path / "work", "seq", spec, FUNCTIONS)
        assert server.client.post("/workflows", params={"url": "seq.war"}).status_code == 200
        server.kill()
        for file in server.model_store.iterdir():
            file.unlink()
        server.start()
        assert server.client.post("/predictions/seq", content=b"5").json() == {"result": 12}
