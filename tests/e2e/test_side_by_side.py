"""Handlers of TorchServe that compute requests side by side: continuous batching, and those that are awaited."""

from __future__ import annotations

import concurrent.futures
import functools
import json

import pytest
from support.archives import zipped
from support.server import running, wait_until
from support.torchserve import pack_model

#: Each request names a folder: it is let go on by files there, one for each step; `STEPS` tells who was in each step so far.
CONTINUOUS = """
import json
import pathlib
import time


class Words:
    def initialize(self, context):
        context.cache = {}
        self.context = context
        self.steps = pathlib.Path(context.model_yaml_config["handler"]["steps"])
        self.batch_size = context.system_properties["batch_size"]

    def handle(self, data, context):
        ids = list(context.request_ids.values())
        for request_id, row in zip(ids, data):
            if request_id not in context.cache:
                context.cache[request_id] = {**row["body"], "made": 0}
        asked = [context.cache[request_id] for request_id in ids]
        assert len(ids) <= self.batch_size
        with self.steps.open("a") as file:
            file.write(json.dumps([one["name"] for one in asked]) + "\\n")
        if any(one.get("fail") for one in asked):
            raise ValueError("no words")
        for one in asked:
            gate = pathlib.Path(one.get("gate", "/"), str(one["made"])) if "gate" in one else None
            while gate is not None and not gate.exists():
                time.sleep(0.005)
            one["made"] += 1
            time.sleep(one.get("nap", 0))
        context.stopping_criteria = [self.criterion(request_id) for request_id in ids]
        return ["" if one.get("silent") else f"{one['name']}{one['made']} " for one in asked]

    def criterion(self, request_id):
        def has_ended(word):
            one = self.context.cache[request_id]
            is_last = "gate" in one and pathlib.Path(one["gate"], "last").exists()
            if one["made"] < one["count"] and not is_last:
                return False
            del self.context.cache[request_id]
            return None if one["count"] == 1 else True
        return has_ended
"""
AWAITED = """
import asyncio

from ts.handler_utils.utils import send_intermediate_predict_response

class Awaited:
    def initialize(self, context):
        self.released = asyncio.Event()
        self.counts = {"here": 0, "most": 0, "cancelled": 0}

    async def handle(self, data, context):
        (row,) = data
        self.counts["here"] += 1
        self.counts["most"] = max(self.counts["most"], self.counts["here"])
        try:
            return [await self.answer(row["body"], context)]
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            raise
        finally:
            self.counts["here"] -= 1

    async def answer(self, asked, context):
        match asked["do"]:
            case "hold":
                await self.released.wait()
            case "release":
                self.released.set()
            case "hang":
                await asyncio.Event().wait()
            case "fail":
                raise ValueError("no")
            case "pieces":
                for piece in ("one ", "two "):
                    send_intermediate_predict_response([piece], context.request_ids, "Result", 200, context)
                    await self.released.wait()
                return "end"
            case "count":
                return dict(self.counts)
        return asked["do"]
"""


ADDRESSES = {
    "FLOWYARD_TORCHSERVE_INFERENCE_ADDRESS": "http://127.0.0.1:0",
    "FLOWYARD_TORCHSERVE_MANAGEMENT_ADDRESS": "http://127.0.0.2:0",
    "FLOWYARD_TORCHSERVE_METRICS_ADDRESS": "http://127.0.0.3:0",
    "FLOWYARD_TORCHSERVE_MODEL_API": "true",
    "FLOWYARD_DISABLE_TOKEN_AUTHORIZATION": "true",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("side")) as started:
        yield started


@pytest.fixture
def background():
    with concurrent.futures.ThreadPoolExecutor(80) as pool:
        yield pool.submit


class Model:
    def __init__(self, server, name, folder):
        self.server = server
        self.name = name
        self.folder = folder

    def ask(self, headers=None, **asked):
        with self.server.client_of(self.server.urls[0]) as http:
            return http.post(f"/predictions/{self.name}", json=asked, headers=headers)

    def gate(self, name):
        (self.folder / name).mkdir()
        return str(self.folder / name)

    def let(self, name, *steps):
        for step in steps:
            (self.folder / name / str(step)).touch()

    def let_until(self, name, happens, step=0):
        """Lets a request go on step by step until something has happened; tells the number of the step that is under way then.

        It has to be in each step from here on: it alone is what holds the worker.
        """
        while not happens():
            gone_on = functools.partial(self.has_gone_on, len(self.steps), happens)
            self.let(name, step)
            wait_until(gone_on)
            step += 1
        return step

    def has_gone_on(self, before, happens):
        return len(self.steps) > before or happens()

    @property
    def steps(self):
        file = self.folder / "steps"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def count(self, what):
        return self.ask(do="count").json()[what]

    def workers(self):
        (told,) = self.server.client.get(f"/models/{self.name}").json()
        return [worker["pid"] for group in told["models"][0]["workerGroups"] for worker in group["workers"]]


@pytest.fixture
def register(server, tmp_path, request):
    names = []

    def pack_and_register(code, config, **params):
        name = request.node.name.split("[")[0]
        written = f"minWorkers: 1\nmaxWorkers: 1\n{config}handler:\n  steps: {tmp_path / 'steps'}\n"
        files = {"handler.py": code, "model-config.yaml": written}
        pack_model(server.model_store, tmp_path / "work", name, files, "--config-file", "model-config.yaml")
        answer = server.client.post("/models", params={"url": f"{name}.mar", **params})
        assert answer.status_code == 200, answer.text
        names.append(name)
        return Model(server, name, tmp_path)

    yield pack_and_register
    for name in names:
        assert server.client.delete(f"/models/{name}").status_code == 200


CONFIG = "batchSize: 3\nmaxBatchDelay: 5000\ncontinuousBatching: true\n"


def test_continuous_requests_join_and_leave_while_others_are_computed(register, background):
    model = register(CONTINUOUS, CONFIG)
    first = background(model.ask, name="a", count=100_000, gate=model.gate("a"))
    wait_until(lambda: model.steps == [["a"]])
    late = background(model.ask, name="b", count=1)
    step = model.let_until("a", lambda: ["a", "b"] in model.steps)
    assert not late.done()
    model.let("a", step)
    answer = late.result(20)
    assert (answer.text, answer.headers.get("ts_stream_next")) == ("b1 ", None)
    wait_until(lambda: model.steps[-1] == ["a"])
    assert not first.done()
    model.let("a", "last", step + 1)
    answer = first.result(20)
    assert answer.text == "".join(f"a{number} " for number in range(1, step + 3))
    assert answer.headers["ts_stream_next"] == "true"
    assert model.steps.count(["a", "b"]) == 1
    assert len(model.workers()) == 1


def test_continuous_pieces_come_as_they_are_made(register, background):
    model = register(CONTINUOUS, CONFIG)
    asked = {"name": "a", "count": 3, "gate": model.gate("a")}
    model.let("a", 0)
    with model.server.client.stream("POST", f"/predictions/{model.name}", json=asked) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"a1 "
        quick = background(model.ask, name="b", count=1)
        model.let("a", 1)
        assert next(pieces) == b"a2 "
        model.let("a", 2)
        assert b"".join(pieces) == b"a3 "
    assert quick.result(20).text == "b1 "


def test_no_more_continuous_requests_than_the_batch_has_room_for(register, background):
    model = register(CONTINUOUS, CONFIG, batch_size=2)
    first = background(model.ask, name="a", count=100_000, gate=model.gate("a"))
    wait_until(lambda: model.steps)
    others = [background(model.ask, name=name, count=3) for name in ("b", "c")]
    step = model.let_until("a", lambda: all(answer.done() for answer in others))
    assert sorted(answer.result(20).text for answer in others) == ["b1 b2 b3 ", "c1 c2 c3 "]
    model.let("a", "last", step)
    assert first.result(20).status_code == 200
    assert max(map(len, model.steps)) == 2
    assert model.server.client.get(f"/models/{model.name}").json()[0]["models"][0]["batchSize"] == 2


def test_a_continuous_request_whose_client_goes_away_leaves(register, background):
    model = register(CONTINUOUS, CONFIG)
    gone = {"name": "gone", "count": 1000, "gate": model.gate("gone")}
    model.let("gone", 0)
    with (
        model.server.client_of(model.server.urls[0]) as http,
        http.stream("POST", f"/predictions/{model.name}", json=gone) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces) == b"gone1 "
        kept = background(model.ask, name="kept", count=100_000, gate=model.gate("kept"))
        model.let_until("gone", lambda: ["gone", "kept"] in model.steps, 1)
    model.let("gone", *range(1, 1000))
    step = model.let_until("kept", lambda: model.steps[-1] == ["kept"])
    model.let("kept", "last", step)
    assert kept.result(20).text.endswith(f"kept{step + 1} ")
    assert sum("gone" in names for names in model.steps) < 999


def test_a_continuous_request_that_is_late_leaves_before_its_first_piece(register, background):
    model = register(CONTINUOUS, CONFIG)
    late = background(model.ask, headers={"x-request-timeout": "300ms"}, name="late", count=9, gate=model.gate("late"))
    assert late.result(20).status_code == 504
    model.let("late", 0)
    assert model.ask(name="b", count=2).text == "b1 b2 "
    assert model.steps[-1] == ["b"]


def test_a_continuous_step_that_hangs_costs_the_worker(register):
    model = register(CONTINUOUS, f"{CONFIG}responseTimeout: 1\n")
    pids = model.workers()
    late = model.ask(name="a", count=2, gate=model.gate("a"))
    assert (late.status_code, late.json()["message"]) == (503, "Worker died.")
    wait_until(lambda: model.ask(name="b", count=1).status_code == 200, 40)
    assert model.workers() != pids


def test_each_continuous_step_has_as_much_time_and_the_client_s_own_limit_is_for_all_of_them(register):
    """Also where a step makes nothing to send: its end tells that the worker goes on."""
    model = register(CONTINUOUS, f"{CONFIG}responseTimeout: 2\n")
    pids = model.workers()
    answer = model.ask(name="a", count=5, nap=0.6, silent=True)
    assert (answer.status_code, answer.text, len(model.steps)) == (200, "", 5)
    late = model.ask(headers={"x-request-timeout": "1s"}, name="b", count=100, nap=0.4, silent=True)
    assert (late.status_code, "Deadline exceeded in computation" in late.text) == (504, True)
    assert model.ask(name="c", count=2).text == "c1 c2 "
    assert (model.steps[-1], model.workers()) == (["c"], pids)


def test_what_a_continuous_handler_raises_fails_those_of_the_step(register, background):
    model = register(CONTINUOUS, CONFIG)
    pids = model.workers()
    held = background(model.ask, name="a", count=100_000, gate=model.gate("a"))
    wait_until(lambda: model.steps == [["a"]])
    failing = background(model.ask, name="b", count=1, fail=True)
    model.let_until("a", failing.done)
    answer = failing.result(20)
    assert (answer.status_code, answer.json()["message"]) == (503, "Prediction failed")
    # Its first pieces have been sent: the answer ends without its last chunk.
    with pytest.raises(Exception, match="peer closed connection"):
        held.result(20)
    assert model.ask(name="c", count=2).text == "c1 c2 "
    assert model.workers() == pids


def test_awaited_requests_overlap_in_one_worker(register, background):
    model = register(AWAITED, "asyncCommunication: true\nbatchSize: 1\n")
    held = [background(model.ask, do="hold") for _ in range(3)]
    wait_until(lambda: model.count("here") == 4)
    assert model.ask(do="quick").text == "quick"
    failed = model.ask(do="fail")
    assert (failed.status_code, failed.json()["message"]) == (503, "Prediction failed")
    assert not any(answer.done() for answer in held)
    model.ask(do="release")
    assert [answer.result(20).text for answer in held] == ["hold"] * 3
    assert len(model.workers()) == 1


def test_awaited_pieces_come_as_they_are_sent(register):
    model = register(AWAITED, "asyncCommunication: true\n")
    with model.server.client.stream("POST", f"/predictions/{model.name}", json={"do": "pieces"}) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"one "
        assert answer.headers["ts_stream_next"] == "true"
        model.ask(do="release")
        assert b"".join(pieces) == b"two end"


def test_awaited_requests_that_nobody_waits_for_are_cancelled(register):
    model = register(AWAITED, "asyncCommunication: true\n")
    assert model.ask(do="hang", headers={"x-request-timeout": "300ms"}).status_code == 504
    wait_until(lambda: model.count("cancelled") == 1)
    with (
        model.server.client_of(model.server.urls[0]) as http,
        http.stream("POST", f"/predictions/{model.name}", json={"do": "pieces"}) as answer,
    ):
        assert next(answer.iter_raw()) == b"one "
    wait_until(lambda: model.count("cancelled") == 2)


def test_an_awaited_request_that_takes_too_long_costs_nobody_the_worker(register):
    model = register(AWAITED, "asyncCommunication: true\nresponseTimeout: 1\n")
    pids = model.workers()
    late = model.ask(do="hang")
    assert (late.status_code, late.json()["message"]) == (503, "Worker died.")
    assert model.ask(do="quick").text == "quick"
    assert model.workers() == pids


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (
            "continuousBatching: true\nasyncCommunication: true\n",
            {},
            "c.yaml: continuousBatching and asyncCommunication: a handler is called in one of these ways",
        ),
        (
            "asyncCommunication: true\n",
            {"service_envelope": "json"},
            "c.yaml: asyncCommunication: not with service_envelope 'json', which takes whole batches",
        ),
    ],
)
def test_ways_that_are_none_are_refused(server, config, options, words):
    manifest = {"createdOn": "now", "model": {"handler": "h.py", "configFile": "c.yaml"}}
    files = {"MAR-INF/MANIFEST.json": json.dumps(manifest), "c.yaml": config, "h.py": "async def handle(data, context): ..."}
    answer = server.client.post("/models", params=options, files={"file": ("none.mar", zipped(files))})
    assert answer.status_code == 400
    assert words in answer.json()["message"]
    assert server.client.get("/models/none").status_code == 404


def test_torchserve_s_own_api_streams_and_describes_them(tmp_path):
    files = {"handler.py": CONTINUOUS, "model-config.yaml": f"{CONFIG}handler:\n  steps: {tmp_path / 'steps'}\n"}
    with running(tmp_path, "--dialect", "torchserve", host=None, env=ADDRESSES) as process:
        pack_model(process.model_store, tmp_path / "work", "words", files, "--config-file", "model-config.yaml")
        with process.client_of(process.urls[0]) as inference, process.client_of(process.urls[1]) as management:
            answer = management.post("/models", params={"url": "words.mar", "initial_workers": 1})
            assert answer.status_code == 200, answer.text
            (told,) = management.get("/models/words").json()
            assert (told["continuousBatching"], told["batchSize"]) == (True, 3)
            with inference.stream("POST", "/predictions/words", json={"name": "a", "count": 3}) as answer:
                assert (answer.headers["ts_stream_next"], answer.headers["transfer-encoding"]) == ("true", "chunked")
                assert b"".join(answer.iter_raw()) == b"a1 a2 a3 "
            answer = inference.post("/predictions/words", json={"name": "a", "count": 1})
            assert (answer.text, answer.headers["content-length"]) == ("a1 ", "3")
            answer = inference.post("/predictions/words", json={"name": "a", "count": 1, "fail": True})
            assert (answer.status_code, answer.json()["message"]) == (503, "Prediction failed")
