"""The Python client against a real server: every call that it has today, sync and async."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from support.archives import linear_onnx
from support.server import is_gone, running, wait_until

from flowyard.platform.client import (
    AsyncClient,
    Client,
    ConflictError,
    DeadlineError,
    InterruptedAnswerError,
    InvalidModelError,
    InvalidRequestError,
    InvalidWorkflowError,
    ModelNotFoundError,
    NoAnswerError,
    NodeError,
    NotReadyError,
    RegistrationFailedError,
    ShutDownError,
    TooLargeError,
)

STEPS = """
import pathlib
import time

def count(value):
    for number in range(value):
        yield {"n": number}

def breaks(value):
    yield 1
    raise ValueError("half way")

def gated(value):
    yield "first"
    while not pathlib.Path(value).exists():
        time.sleep(0.005)
    yield "second"

def sleepy(value):
    while not pathlib.Path(value).exists():
        time.sleep(0.005)

def kind(value):
    return {"is": type(value).__name__, "size": len(value)}
"""
FUNCTIONS = ("count", "breaks", "gated", "sleepy", "kind")
GATED = """
import pathlib
import time

while not pathlib.Path({gate!r}).exists():
    time.sleep(0.01)

def predict(value):
    return value
"""


@pytest.fixture(scope="module")
def url(server):
    return str(server.client.base_url).rstrip("/")


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def registered(client, tmp_path_factory):
    """A model of a file, and a workflow of a folder for each function."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "linear.onnx").write_bytes(linear_onnx([[1.0, 10.0], [2.0, 20.0]]))
    assert client.register_model(folder / "linear.onnx", model_name="linear").status == 'Model "linear" registered.'
    for name in FUNCTIONS:
        (folder / name).mkdir()
        (folder / name / "steps.py").write_text(STEPS)
        (folder / name / "workflow.yaml").write_text(f"name: {name}\nfunctions: {{f: steps:{name}}}\nworkflow:\n  out: [f, in]\n")
        assert client.register_workflow(folder / name).status == f'Workflow "{name}" registered.'
    return folder


def test_it_is_listed_and_described(client):
    assert {"linear", *FUNCTIONS} <= {item.workflow_name for item in client.list_workflows(1)}
    (model,) = [item for item in client.list_models(2) if item.model_name == "linear"]
    assert model.status == "READY"
    (version,) = client.describe("linear")
    assert (version.workflow_name, version.status, version.models[0].engine) == ("linear", "READY", "OnnxRuntime")
    (group,) = version.models[0].worker_groups
    assert (str(group.device), len(group.workers)) == ("cpu", 1)
    assert client.describe("count", kind="workflows")[0].functions is not None


def test_what_is_described_is_what_the_server_says(client, http):
    """No field that both know is lost or changed on the way."""

    def same(typed, raw):
        for key, value in raw.items():
            name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
            if not hasattr(typed, name):
                continue
            mine = getattr(typed, name)
            if isinstance(value, dict):
                same(mine, value)
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                assert len(mine) == len(value)
                for one, other in zip(mine, value, strict=True):
                    same(one, other)
            else:
                assert mine == (tuple(value) if isinstance(value, list) else value), key

    for name in ("linear", "count"):
        (raw,) = http.get(f"/models/{name}").json()
        same(client.describe(name)[0], raw)


def test_json_bytes_arrays_and_files(client, tmp_path):
    assert client.predict("linear", [[1, 1]]).value == [[3.0, 30.0]]
    array = np.ones((2, 2), np.float32)
    for data, options in [(array, {}), ({"x": array}, {}), ({"x": array}, {"content_type": "tensor/safetensors"}), ([array], {})]:
        value = client.predict("linear", data, **options).value
        value = value["y"] if isinstance(value, dict) else value[0] if isinstance(value, list) else value
        np.testing.assert_array_equal(value, [[3, 30], [3, 30]])
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(client.predict("linear", tmp_path / "x.npy").value, [[3, 30], [3, 30]])
    assert client.predict("kind", b"1234").value == {"is": "bytes", "size": 4}
    assert client.predict("kind", "word").value == {"is": "str", "size": 4}
    assert client.predict("linear", [[1, 1]], accept="tensor/npy").content_type == "tensor/npy"


def test_headers_of_a_prediction(client):
    result = client.predict("linear", [[1, 1]], request_id="mine", priority=9, timeout_s=20)
    assert (result.request_id, result.timing[0].name) == ("mine", "linear")


def test_pieces(client):
    assert client.predict("count", 2).value == [{"n": 0}, {"n": 1}]
    with client.stream("count", 2) as pieces:
        assert list(pieces) == [{"n": 0}, {"n": 1}]
    with client.stream("count", 2, accept="text/event-stream") as pieces:
        assert [event.json() for event in pieces] == [{"n": 0}, {"n": 1}]
    with client.stream("linear", [[1, 1]]) as pieces:
        assert list(pieces) == [[[3.0, 30.0]]]


def test_pieces_come_before_the_end(client, tmp_path):
    with client.stream("gated", str(tmp_path / "go")) as pieces:
        each = iter(pieces)
        assert next(each) == "first"
        (tmp_path / "go").touch()
        assert "".join(each) == "second"


def test_streams_that_fail(client):
    with pytest.raises(NodeError, match="half way"), client.stream("breaks", 1, accept="text/event-stream") as pieces:
        list(pieces)
    with pytest.raises(InterruptedAnswerError), client.stream("breaks", 1) as pieces:
        list(pieces)
    with pytest.raises(ModelNotFoundError), client.stream("nothing", 1):
        pass


def test_scaling_and_unregistering(client, registered):
    client.register_model(registered / "linear.onnx", model_name="scaled", model_version="v1", min_worker=1, max_worker=1)
    assert "min workers:2" in client.scale("scaled", "v1", min_worker=2, max_worker=3).status
    assert client.describe("scaled")[0].models[0].worker_groups[0].max_workers == 3
    client.scale("scaled", min_worker=0, max_worker=0)
    with pytest.raises(ShutDownError):
        client.predict("scaled", [[1, 1]])
    assert client.unregister("scaled", "v1").status == 'Workflow "scaled" unregistered'
    with pytest.raises(ModelNotFoundError):
        client.describe("scaled")


def test_an_asynchronous_registration(client, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.py").write_text(GATED.format(gate=str(tmp_path / "go")))
    client.register_model(tmp_path / "model", model_name="later", synchronous=False)
    with pytest.raises(NotReadyError):
        client.predict("later", 1)
    seen = []

    def on_progress(progress):
        seen.append(progress)
        (tmp_path / "go").touch()

    assert client.wait_until_ready("later", on_progress=on_progress)[0].status == "READY"
    assert seen
    assert client.predict("later", 1).value == 1


def test_a_registration_that_fails_later(client, tmp_path):
    (tmp_path / "model.py").write_text("import nothing_of_that_name\n\ndef predict(value):\n    return value\n")
    client.register_model(tmp_path, model_name="broken", synchronous=False)
    with pytest.raises(RegistrationFailedError, match="nothing_of_that_name"):
        client.wait_until_ready("broken")
    assert not client.ping().healthy
    client.unregister("broken")
    assert client.ping().healthy


def test_refusals_by_type(client, registered, tmp_path):
    (tmp_path / "workflow.yaml").write_text("name: x\nworkflow:\n  out: [nobody, in]\n")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    for cls, call in [
        (ModelNotFoundError, lambda: client.predict("nothing", 1)),
        (ModelNotFoundError, lambda: client.register_model("nothing.onnx")),
        (ConflictError, lambda: client.register_model(registered / "linear.onnx", model_name="linear")),
        (InvalidModelError, lambda: client.register_model(tmp_path / "broken.onnx")),
        (InvalidRequestError, lambda: client.register_model(registered / "linear.onnx", model_name="x", batch_size=0)),
        (NodeError, lambda: client.predict("kind", 5)),
        (DeadlineError, lambda: client.predict("sleepy", str(tmp_path / "never"), timeout_s=0.2)),
    ]:
        with pytest.raises(cls):
            call()
    (tmp_path / "never").touch()
    with pytest.raises(InvalidWorkflowError) as caught:
        client.register_workflow(tmp_path)
    assert any(problem.name == "nobody" or "nobody" in problem.message for problem in caught.value.problems)


def test_asyncio(url, registered, tmp_path):
    async def go():
        async with AsyncClient(url) as client:
            sent = []
            await client.register_model(registered / "linear.onnx", model_name="asynchronous", on_sent=sent.append)
            assert sent[-1].sent == sent[-1].total
            assert "asynchronous" in [item.model_name async for item in client.list_models(1)]
            results = await asyncio.gather(*(client.predict("asynchronous", [[n, n]]) for n in range(20)))
            assert [result.value for result in results] == [[[3.0 * n, 30.0 * n]] for n in range(20)]
            async with client.stream("count", 3) as pieces:
                assert [piece async for piece in pieces] == [{"n": 0}, {"n": 1}, {"n": 2}]
            async with client.stream("count", 1, accept="text/event-stream") as pieces:
                assert [event.json() async for event in pieces] == [{"n": 0}]
            with pytest.raises(NodeError):
                async with client.stream("breaks", 1, accept="text/event-stream") as pieces:
                    [piece async for piece in pieces]
            await client.unregister("asynchronous")

    asyncio.run(go())


def test_a_server_that_goes_away_in_mid_stream(tmp_path, registered):
    with running(tmp_path) as server, Client(str(server.client.base_url)) as client:
        client.register_workflow(registered / "gated")
        failures = []
        started = threading.Event()

        def read():
            try:
                with client.stream("gated", str(tmp_path / "never")) as pieces:
                    for _ in pieces:
                        started.set()
            except NoAnswerError as error:
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        assert started.wait(30)
        workers = server.workers()
        server.kill()
        reader.join(30)
        assert [type(error) for error in failures] == [InterruptedAnswerError]
        wait_until(lambda: all(is_gone(pid) for pid in workers))


def test_an_upload_over_the_limit(tmp_path, registered):
    (tmp_path / "large.onnx").write_bytes(b"x" * 200_000)
    with (
        running(tmp_path, env={"FLOWYARD_MAX_ARCHIVE_SIZE_BYTES": "100000"}) as server,
        Client(str(server.client.base_url)) as client,
    ):
        with pytest.raises(TooLargeError, match="max_archive_size_bytes"):
            client.register_model(tmp_path / "large.onnx")
        assert client.register_model(registered / "linear.onnx").status
