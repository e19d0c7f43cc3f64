"""A server set up as a DJL Serving installation is: its files, variables, flags, and what they bring about."""

from __future__ import annotations

import pytest
from support.archives import linear_onnx, zipped
from support.server import ServerProcess, running, wait_until

FLOW = "name: flow\nmodels: {m: model.onnx}\nworkflow:\n  out: [m, in]\n"
#: Answers numbers, raises for `bad`.
STEPS = "def one(x):\n    if x == 'bad':\n        raise ValueError('no')\n    return x\n"
FUNCTION = "name: calls\nfunctions: {one: steps:one}\nworkflow:\n  out: [one, in]\n"


def model(weight: float = 5.0) -> bytes:
    return linear_onnx([[weight]])


@pytest.fixture
def store(tmp_path):
    store = tmp_path / "models"
    store.mkdir()
    (store / "single.onnx").write_bytes(model(1.0))
    (store / "packed.zip").write_bytes(zipped({"model.onnx": model(2.0)}))
    (store / "flow").mkdir()
    (store / "flow" / "workflow.yaml").write_text(FLOW)
    (store / "flow" / "model.onnx").write_bytes(model(3.0))
    (store / ".DS_Store").write_bytes(b"x")
    (store / "README").write_text("about\n")
    return store


def test_a_djl_installation_starts_as_it_is(tmp_path, store):
    home = tmp_path / "home"
    (home / "conf").mkdir(parents=True)
    store.rename(home / "models")
    config = home / "conf" / "config.properties"
    config.write_text(
        "# as delivered\n"
        "inference_address=http://127.0.0.1:0\n"
        "management_address=http://127.0.0.1:0\n"
        "model_store = models\n"
        "job_queue_size: 7\n"
        "batch_size=2\n"
        "number_of_netty_threads=4\n"
        "plugin_folder=plugins\n"
        "batchsize=3\n"
        "throttle_error_http_code=429\n"
    )
    env = {"MODEL_SERVER_HOME": str(home), "SERVING_BATCH_SIZE": "4", "SERVING_JOB_QUEUE": "1"}
    server = ServerProcess(tmp_path, host=None, env=env)
    server.has_store = False
    server.start()
    try:
        assert len(server.urls) == 1
        names = {item["modelName"]: item["status"] for item in server.client.get("/models").json()["models"]}
        assert names == {"single_onnx": "READY", "packed": "READY", "flow:m": "READY"}
        assert [server.client.post(f"/predictions/{name}", json=[1]).json() for name in ("single_onnx", "packed", "flow")] == [
            [1.0],
            [2.0],
            [3.0],
        ]
        info = server.client.get("/models/packed").json()[0]["models"][0]
        assert (info["batchSize"], info["queueSize"], info["loadedAtStartup"]) == (4, 7, True)
        log = server.log.read_text()
        assert log.count(f"{config}:7: number_of_netty_threads has no effect: it tunes Netty") == 1
        assert log.count(f"{config}:8: plugin_folder has no effect") == 1
        assert log.count(f"{config}:9: batchsize is not a setting, did you mean batch_size?") == 1
        assert "SERVING_JOB_QUEUE is not a setting, did you mean SERVING_JOB_QUEUE_SIZE?" in log
        assert '"entry":"README"' in log
        assert '"entry":".DS_Store"' in log
    finally:
        assert server.stop() == 0


def test_djls_flags(tmp_path, store):
    config = tmp_path / "config"
    config.write_text("batch_size=3\n")
    other = tmp_path / "other.onnx"
    other.write_bytes(model(7.0))
    flags = ("-f", str(config), "-m", f"[seven:v1:OnnxRuntime:*]={other}", "two::onnxruntime=packed.zip", "-m", "flow")
    with running(tmp_path, *flags) as server:
        assert server.client.post("/predictions/seven/v1", json=[1]).json() == [7.0]
        assert server.client.post("/predictions/two", json=[1]).json() == [2.0]
        assert server.client.post("/predictions/flow", json=[1]).json() == [3.0]
        (described,) = server.client.get("/models/seven").json()
        assert (described["version"], described["models"][0]["engine"]) == ("v1", "OnnxRuntime")
        assert described["models"][0]["batchSize"] == 3
        assert described["models"][0]["workerGroups"][0]["device"]["deviceType"] in ("cpu", "gpu")


def test_changed_words_about_a_model_count_at_the_next_start(tmp_path):
    file = tmp_path / "m.py"
    file.write_text("def handle(x):\n    return x\n")
    onnx = tmp_path / "m.onnx"
    onnx.write_bytes(model())
    with running(tmp_path, "--load", f"m::OnnxRuntime:cpu={onnx}") as server:
        assert server.client.get("/models/m").json()[0]["models"][0]["workerGroups"][0]["device"]["deviceType"] == "cpu"
        server.stop()
        server._flags = ("--host", "127.0.0.1", "--port", "0", "--load", f"m::PyTorch={onnx}")
        with pytest.raises(AssertionError, match="cannot load m::PyTorch="):
            server.start()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--load", "m=nowhere.onnx"], "flowyard: cannot load m=nowhere.onnx: Invalid model url: nowhere.onnx"),
        (["--models", "m::Nothing=single.onnx"], "cannot load m::Nothing="),
        (
            ["--load", "m:v1:OnnxRuntime:gpu99=models/single.onnx"],
            "cannot load m:v1:OnnxRuntime:gpu99=models/single.onnx: Device",
        ),
        (["--load", "[a:b:c:d:e]=x"], "'[a:b:c:d:e]' in '[a:b:c:d:e]=x' is not NAME[:VERSION[:ENGINE[:DEVICES]]]"),
        (["-f", "absent.properties"], "absent.properties: cannot be read"),
    ],
)
def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path, store, flags, words):
    server = ServerProcess(tmp_path, *flags)
    server.cwd = tmp_path
    with pytest.raises(AssertionError) as failed:
        server.start()
    assert words in str(failed.value)
    assert "Traceback" not in str(failed.value)
    assert server.status == 1


def test_models_may_load_while_the_server_answers(tmp_path, store):
    gate = tmp_path / "gate"
    slow = tmp_path / "slow"
    slow.mkdir()
    waiting = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists():\n    time.sleep(0.01)\n"
    (slow / "workflow.yaml").write_text(FUNCTION.replace("calls", "slow"))
    (slow / "steps.py").write_text(waiting + STEPS)
    env = {"FLOWYARD_WAIT_MODEL_LOADING": "false", "FLOWYARD_ALLOW_MULTI_STATUS": "true"}
    flags = (
        "--load",
        f"slow={slow}",
        "--load",
        f"bad={store / 'README'}",
        "--load",
        "gone=/nowhere",
        "--load",
        "last=models/flow",
    )
    server = ServerProcess(tmp_path, *flags, env=env)
    server.cwd = tmp_path
    server.start()
    try:
        pending = server.client.get("/ping")
        assert (pending.status_code, set(pending.json())) == (207, {"slow", "bad", "gone", "last"})
        assert server.client.post("/predictions/slow", json=1).status_code == 503
        assert server.client.delete("/models/gone").status_code == 200
        gate.touch()
        health = wait_until(
            lambda: (found := server.client.get("/ping")).status_code == 500 and "last:m" in found.json() and found
        )
        assert health.json() == {
            "slow:functions": {"status": "Healthy"},
            "bad": {"status": "FAILED"},
            "last:m": {"status": "Healthy"},
        }
        assert server.client.post("/predictions/slow", json=1).json() == 1
        assert server.client.post("/predictions/last", json=[1]).json() == [3.0]
        (failed,) = server.client.get("/models/bad").json()
        assert failed["status"] == "FAILED"
        assert "README" in failed["reason"]
        assert server.client.delete("/models/bad").status_code == 200
        assert server.client.get("/ping").status_code == 200
    finally:
        assert server.stop() == 0
    # What was recorded comes back the same way.
    gate.unlink()
    server._flags = ("--host", "127.0.0.1", "--port", "0")
    server.start()
    assert server.client.get("/ping").json()["slow"] == {"status": "PENDING"}
    assert server.stop() == 0


def test_cross_origin_requests_are_off_unless_they_are_configured(tmp_path):
    with running(tmp_path) as server:
        answer = server.client.get("/ping", headers={"origin": "https://a.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_cross_origin_requests(tmp_path):
    config = tmp_path / "config.properties"
    config.write_text(
        "cors_allowed_origin=https://a.example\n"
        "cors_allowed_methods=GET, POST, PUT\n"
        "cors_allowed_headers=X-Custom, Content-Type\n"
    )
    with running(tmp_path, "--config", str(config)) as server:
        expected = {
            "access-control-allow-origin": "https://a.example",
            "access-control-allow-methods": "GET, POST, PUT",
            "access-control-allow-headers": "X-Custom, Content-Type",
            "vary": "Origin",
        }

        def headers(method: str, path: str, origin: str, **more: str) -> tuple[int, dict[str, str]]:
            answer = server.client.request(method, path, headers={"origin": origin} | more)
            assert answer.headers["x-request-id"]
            return answer.status_code, {name: answer.headers[name] for name in expected if name in answer.headers}

        for path, status in [("/ping", 200), ("/models/none", 404), ("/predictions/none", 404), ("/nowhere", 404)]:
            assert headers("GET", path, "https://a.example") == (status, expected)
            assert headers("GET", path, "https://b.example") == (status, {"vary": "Origin"})
        preflight = {"access-control-request-method": "PUT"}
        assert headers("OPTIONS", "/predictions/none", "https://a.example", **preflight) == (204, expected)
        assert headers("OPTIONS", "/models", "https://b.example", **preflight) == (204, {"vary": "Origin"})


def test_statuses_ids_and_error_rates_are_the_operators(tmp_path):
    flow = tmp_path / "calls"
    flow.mkdir()
    (flow / "workflow.yaml").write_text(FUNCTION)
    (flow / "steps.py").write_text(STEPS)
    onnx = tmp_path / "m.onnx"
    onnx.write_bytes(model())
    env = {
        "SERVING_BAD_REQUEST_HTTP_CODE": "422",
        "SERVING_WLM_ERROR_HTTP_CODE": "529",
        "SERVING_ERROR_RATE_ANY": "1/PT1H",
        "SERVING_REQUEST_ID_HEADER_KEY": "X-Amzn-SageMaker-Inference-Id",
    }
    with running(tmp_path, "--load", str(flow), "--load", f"m={onnx}", env=env) as server:
        bad = server.client.post("/predictions/m", json=["x"])
        assert (bad.status_code, bad.json()["code"]) == (422, 422)
        assert server.client.get("/models?limit=x").status_code == 400
        for path in ("/predictions/calls", "/ping", "/nowhere"):
            ids = {"x-amzn-sagemaker-inference-id": "sage", "x-request-id": "other"}
            assert server.client.post(path, json=1, headers=ids).headers["x-request-id"] == "sage"
        assert server.client.post("/predictions/calls", json="bad").status_code == 424
        assert server.client.get("/ping").status_code == 200
        assert server.client.put("/models/m", params={"min_worker": 0, "max_worker": 0}).status_code == 200
        gone = server.client.post("/predictions/m", json=[1])
        assert (gone.status_code, gone.json()["code"], gone.json()["type"]) == (529, 529, "WlmShutdownException")
        assert gone.headers["retry-after"]
        assert server.client.get("/ping").status_code == 503
        assert set(server.client.get("/ping").json()) == {"calls:functions", "m"}
