"""`flowyard torchserve` and `flowyard mms` as the commands whose place they take."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from support.archives import zipped
from support.server import wait_until

HANDLER = "def handle(data, context):\n    return None if data is None else ['OK'] * len(data)\n"
ONE_PORT = "http://127.0.0.1:0"


def archive(name: str, code: str = HANDLER, version: str = "1.0") -> bytes:
    manifest = {
        "runtime": "python",
        "model": {"modelName": name, "handler": "h.py", "modelVersion": version},
        "archiverVersion": "1",
    }
    return zipped({"h.py": code, "MAR-INF/MANIFEST.json": json.dumps(manifest)})


class DropIn:
    """One installation."""

    def __init__(self, folder: Path, command: str = "torchserve", *lines: str) -> None:
        self.folder = folder
        self.command = command
        self.store = folder / "store"
        self.store.mkdir()
        (self.store / "noop.mar").write_bytes(archive("noop"))
        keys = ("inference", "management", "metrics")
        self.config = folder / "config.properties"
        addresses = [f"{key}_address={ONE_PORT}" for key in keys]
        self.config.write_text("\n".join([*addresses, "disable_token_authorization=true", "enable_model_api=true", *lines]))
        self.ready = folder / "ready"
        self.env = os.environ | {"TMPDIR": str(folder), "FLOWYARD_ENABLE_GRPC_API": "false"}

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "flowyard.platform.cli.main",
            self.command,
            *flags,
            "--state-dir",
            str(self.folder / "state"),
        ]
        # The server in the background keeps the output: a file can be read while it runs, a pipe would be waited for.
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            done = subprocess.run(command, stdout=out, stderr=err, cwd=self.folder, env=self.env, check=False)
        texts = [(self.folder / name).read_text() for name in ("out", "err")]
        return subprocess.CompletedProcess(command, done.returncode, *texts)

    def start(self, *flags: str) -> httpx2.Client:
        self.ready.unlink(missing_ok=True)
        done = self.run("--start", "--model-store", "store", "--ready-file", str(self.ready), *flags)
        assert done.returncode == 0, done.stderr
        wait_until(self.ready.exists, 60)
        self.client = httpx2.Client(base_url=self.ready.read_text().split()[0], timeout=60)
        return self.client

    def stop(self) -> str:
        self.client.close()
        return self.run("--stop").stdout


@pytest.mark.parametrize(("command", "title"), [("torchserve", "TorchServe"), ("mms", "MMS")])
def test_start_goes_on_in_the_background_until_stop(tmp_path, command, title):
    server = DropIn(tmp_path, command)
    client = server.start(f"--{'ts' if command == 'torchserve' else 'mms'}-config", str(server.config))
    try:
        wait_until(lambda: "Model server started." in (tmp_path / "out").read_text())
        assert client.get("/ping").json() == {"status": "Healthy"}
        client.post("/models", params={"url": "noop.mar", "initial_workers": 1}).raise_for_status()
        assert client.post("/predictions/noop").text == "OK"
        again = server.run("--start", "--model-store", "store")
        assert (again.returncode, again.stdout) == (
            1,
            f"{title} is already running, please use {command} --stop to stop {title}.\n",
        )
    finally:
        assert server.stop() == f"{title} has stopped.\n"
    assert server.stop() == f"{title} is not currently running.\n"


def test_what_was_registered_is_there_again_unless_snapshots_are_not_wanted(tmp_path):
    server = DropIn(tmp_path)
    flags = ("--ts-config", str(server.config))
    client = server.start(*flags)
    client.post("/models", params={"url": "noop.mar", "initial_workers": 1}).raise_for_status()
    server.stop()
    client = server.start(*flags)
    wait_until(lambda: client.post("/predictions/noop").text == "OK")
    server.stop()
    client = server.start(*flags, "--ncs")
    assert client.get("/models").json() == {"models": []}
    server.stop()


@pytest.mark.parametrize("by_flag", [True, False])
def test_a_store_may_be_beside_the_working_directory(tmp_path, by_flag):
    server = DropIn(tmp_path)
    server.folder = tmp_path / "cwd"
    server.folder.mkdir()
    with server.config.open("a") as file:
        file.write("\nmodel_store=../store\n")
    flags = ("--model-store", "../store") if by_flag else ()
    done = server.run("--start", *flags, "--ts-config", str(server.config), "--ready-file", str(server.ready), "--ncs")
    assert done.returncode == 0, done.stderr
    wait_until(server.ready.exists, 60)
    with httpx2.Client(base_url=server.ready.read_text().split()[0], timeout=60) as client:
        assert client.post("/models", params={"url": "noop.mar"}).status_code == 200
        (tmp_path / "store" / "w.war").write_bytes(b"garbage")
        assert client.post("/workflows", params={"url": "w.war"}).status_code in (400, 500)
    server.run("--stop")


def test_a_snapshot_of_torchserve_is_read(tmp_path):
    server = DropIn(tmp_path)
    snapshots = tmp_path / "logs" / "config"
    snapshots.mkdir(parents=True)
    said = {"defaultVersion": True, "marName": "noop.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 3, "maxBatchDelay": 7}
    snapshot = {"name": "x.cfg", "modelCount": 1, "models": {"noop": {"1.0": {**said, "responseTimeout": 9, "runtimeType": ""}}}}
    (snapshots / "20260101000000000-shutdown.cfg").write_text(
        f"{server.config.read_text()}\nmodel_snapshot={json.dumps(snapshot)}\n"
    )
    client = server.start()
    try:
        wait_until(lambda: client.post("/predictions/noop").text == "OK")
        (found,) = client.get("/models/noop").json()
        assert (found["batchSize"], found["maxBatchDelay"], found["responseTimeout"], found["minWorkers"]) == (3, 7, 9, 1)
        assert (found["modelUrl"], found["loadedAtStartup"]) == ("noop.mar", True)
    finally:
        server.stop()


def snapshots(server: DropIn, kind: str) -> list[Path]:
    return sorted((server.folder / "logs" / "config").glob(f"*-{kind}.cfg"))


def described(client: httpx2.Client) -> dict[str, list[dict[str, object]]]:
    """How all versions of all models are served; the default one of each name first."""
    keys = (
        "modelVersion",
        "modelUrl",
        "minWorkers",
        "maxWorkers",
        "batchSize",
        "maxBatchDelay",
        "responseTimeout",
        "startupTimeout",
    )
    found = {}
    for model in client.get("/models").json()["models"]:
        name = model["modelName"]
        versions = [*client.get(f"/models/{name}").json(), *client.get(f"/models/{name}/all").json()]
        found[name] = [{key: version[key] for key in keys} for version in versions]
    return {name: [versions[0], *sorted(versions[1:], key=lambda one: one["modelVersion"])] for name, versions in found.items()}


def test_snapshots_are_written_and_can_be_handed_back(tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    servers = []
    for folder in folders:
        folder.mkdir()
        server = DropIn(folder, "torchserve", "vmargs=-Xmx1g", "job_queue_size=7")
        (server.store / "noop2.mar").write_bytes(archive("noop", version="2.0"))
        servers.append(server)
    first, second = servers
    client = first.start("--ts-config", str(first.config), "--models", "up=noop.mar")
    try:
        wait_until(lambda: len(snapshots(first, "startup")) == 1)
        client.post("/models", params={"url": "noop.mar", "batch_size": 3, "response_timeout": 9}).raise_for_status()
        wait_until(lambda: len(snapshots(first, "snapshot")) == 1)
        client.post("/models", params={"url": "noop2.mar", "initial_workers": 1, "synchronous": "false"}).raise_for_status()
        wait_until(lambda: len(snapshots(first, "snapshot")) == 2)
        client.put("/models/noop/2.0/set-default").raise_for_status()
        client.put("/models/up", params={"min_worker": 1, "max_worker": 2, "synchronous": "true"}).raise_for_status()
        before = described(client)
        assert [version["modelVersion"] for version in before["noop"]] == ["2.0", "1.0", "2.0"]
        assert (before["up"][0]["minWorkers"], before["up"][0]["maxWorkers"]) == (1, 2)
    finally:
        first.stop()
    (last,) = snapshots(first, "shutdown")
    assert "vmargs=-Xmx1g\n" in last.read_text()
    assert not [path for path in (first.folder / "logs").iterdir() if path.name.startswith(".")]
    client = second.start("--ts-config", str(last))
    try:
        wait_until(lambda: len(snapshots(second, "startup")) == 1)
        assert described(client) == before
        assert client.get("/models/noop").json()[0]["jobQueueStatus"]["remainingCapacity"] == 7
        assert client.post("/predictions/noop").text == "OK"
    finally:
        second.stop()
    # An earlier one, handed to the server that has gone on: what it says wins.
    (earlier,) = snapshots(first, "startup")
    client = first.start("--ncs", "--ts-config", str(earlier))
    try:
        wait_until(lambda: client.post("/predictions/up").text == "OK")
        assert list(described(client)) == ["up"]
    finally:
        first.stop()
    assert len(snapshots(first, "startup")) == 1


def test_without_a_configuration_the_last_snapshot_is_one_and_the_state_directory_knows_the_models(tmp_path):
    server = DropIn(tmp_path)
    (server.store / "noop2.mar").write_bytes(archive("noop", version="2.0"))
    client = server.start("--ts-config", str(server.config))
    for url in ("noop.mar", "noop2.mar"):
        client.post("/models", params={"url": url}).raise_for_status()
    wait_until(lambda: snapshots(server, "snapshot"))
    client.put("/models/noop/2.0/set-default").raise_for_status()
    server.stop()
    (last,) = snapshots(server, "shutdown")
    server.config.unlink()
    client = server.start()
    try:
        assert [version["modelVersion"] for version in described(client)["noop"]] == ["2.0", "1.0", "2.0"]
        client.delete("/models/noop/1.0").raise_for_status()
    finally:
        server.stop()
    # Nothing of the last one, which was not there for the change, comes back.
    for path in snapshots(server, "*"):
        if path != last:
            path.unlink()
    client = server.start()
    try:
        assert [version["modelVersion"] for version in described(client)["noop"]] == ["2.0", "2.0"]
    finally:
        server.stop()
    # One that is named says what is there, and which version is the default one.
    changed, other = tmp_path / "changed.cfg", {"true": "false", "false": "true"}
    changed.write_text(re.sub(r'("defaultVersion"\\: )(\w+)', lambda found: found[1] + other[found[2]], last.read_text()))
    client = server.start("--ts-config", str(changed))
    try:
        wait_until(lambda: [version["modelVersion"] for version in described(client)["noop"]] == ["1.0", "1.0", "2.0"])
    finally:
        server.stop()


def test_a_place_where_no_snapshots_can_be_written_is_a_warning(tmp_path):
    server = DropIn(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "config").write_text("a file")
    client = server.start("--ts-config", str(server.config))
    try:
        client.post("/models", params={"url": "noop.mar", "initial_workers": 1}).raise_for_status()
        assert client.post("/predictions/noop").text == "OK"
        wait_until(lambda: "a snapshot could not be written" in (tmp_path / "err").read_text())
    finally:
        server.stop()
    assert [path.name for path in (tmp_path / "logs").iterdir() if path.name.startswith(".")] == []


def test_models_that_cannot_be_loaded_are_passed_over(tmp_path):
    server = DropIn(tmp_path)
    (server.store / "bad.mar").write_bytes(b"garbage")
    client = server.start("--ts-config", str(server.config), "--models", "bad=bad.mar", "noop=noop.mar")
    try:
        wait_until(lambda: client.post("/predictions/noop").text == "OK")
        assert [model["modelName"] for model in client.get("/models").json()["models"]] == ["noop"]
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "Missing mandatory parameter --model-store"),
        (("--model-store", "none"), "--model-store directory not found: none"),
        (("--model-store", "store", "--ts-config", "none"), "--ts-config file not found: none"),
        (("--model-store", "store", "--log-config", "none"), "--log-config file not found: none"),
        (("--model-store", "store", "--ts-config", "bad"), "bad:1: job_queue_size: 'x' is not allowed"),
    ],
)
def test_a_start_that_cannot_be_says_why(tmp_path, flags, told):
    server = DropIn(tmp_path)
    (tmp_path / "bad").write_text("job_queue_size=x\n")
    done = server.run("--foreground", "--ncs", *flags) if flags else DropInWithoutConfig(server).run("--foreground")
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


class DropInWithoutConfig:
    """The same without the file that is found in the working directory."""

    def __init__(self, server: DropIn) -> None:
        server.config.unlink()
        self.run = server.run


def test_the_version(tmp_path):
    assert DropIn(tmp_path).run("--version").stdout == "TorchServe Version is 0.12.0\n"


TALKING = """
import logging, sys

def handle(data, context):
    if data is None:
        return None
    print("said")
    print("complained", file=sys.stderr)
    logging.info("logged")
    context.metrics.add_counter("Seen", 2)
    print("[METRICS]Printed.Count:1|#Level:Model|#hostname:h,1")
    return ["OK"] * len(data)
"""
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
ID = r"[0-9a-f-]{36}"


def asked_once(tmp_path, command: str, *lines: str) -> str:
    """Has a server answer a prediction and a request for nothing, and stops it; returns what it told on standard error."""
    server = DropIn(tmp_path, command, *lines)
    (server.store / "talk.mar").write_bytes(archive("talk", TALKING))
    client = server.start(f"--{'ts' if command == 'torchserve' else 'mms'}-config", str(server.config))
    try:
        client.post("/models", params={"url": "talk.mar", "initial_workers": 1}).raise_for_status()
        assert client.post("/predictions/talk").text == "OK"
        assert client.get("/nothing").status_code == 404
        errors = tmp_path / "err"
        wait_until(lambda: "complained\n" in errors.read_text())
        return errors.read_text()
    finally:
        server.stop()


def log_lines(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.log").read_text().splitlines()


def assert_there(lines: list[str], pattern: str) -> None:
    assert any(re.fullmatch(pattern, line) for line in lines), "\n".join(lines)


def test_log_files_of_torchserve(tmp_path):
    asked_once(tmp_path, "torchserve")
    logs = tmp_path / "logs"
    assert sorted(path.name for path in logs.iterdir()) == [
        "access_log.log",
        "config",
        "model_log.log",
        "model_metrics.log",
        "ts_log.log",
        "ts_metrics.log",
    ]
    registered, predicted, nothing = log_lines(logs, "access_log")
    call = STAMP + r' - /127\.0\.0\.1:\d+ "'
    assert re.fullmatch(call + r'POST /models\?url=talk\.mar&initial_workers=1 HTTP/1\.1" 200 \d+', registered)
    assert re.fullmatch(call + r'POST /predictions/talk HTTP/1\.1" 200 \d+', predicted)
    assert re.fullmatch(call + r'GET /nothing HTTP/1\.1" 404 \d+', nothing)
    told = log_lines(logs, "model_log")
    worker = r"W-9000-talk_1\.0"
    for level, output, text in (
        ("INFO ", "stdout", "Torch worker started."),
        ("INFO ", "stdout", "said"),
        ("WARN ", "stderr", "complained"),
        ("INFO ", "stdout", "logged"),
    ):
        assert_there(told, rf"{STAMP} \[{level}\] {worker}-{output} MODEL_LOG - {re.escape(text)}")
    assert not any("METRICS" in line for line in told)
    measured = log_lines(logs, "model_metrics")
    of_model = r"\|#ModelName:talk,Level:Model\|#hostname:[^,]+"
    assert_there(measured, rf"{STAMP} - Seen\.Count:2\.0{of_model},requestID:{ID},timestamp:\d+")
    assert_there(measured, rf"{STAMP} - PredictionTime\.ms:[\d.]+{of_model},requestID:{ID},timestamp:\d+")
    assert_there(measured, rf"{STAMP} - Printed\.Count:1\.0\|#Level:Model\|#hostname:[^,]+,requestID:null,timestamp:\d+")
    counted = log_lines(logs, "ts_metrics")
    host = r"\|#Level:Host\|#hostname:[^,]+,timestamp:\d+"
    for name in (
        r"Requests2XX\.Count:1\.0",
        r"Requests4XX\.Count:1\.0",
        r"QueueTime\.Milliseconds:[\d.]+",
        r"MemoryUsed\.Megabytes:[\d.]+",
    ):
        assert_there(counted, rf"{STAMP} - {name}{host}")
    assert_there(counted, rf"{STAMP} - WorkerLoadTime\.Milliseconds:[\d.]+\|#WorkerName:{worker},Level:Host\|#hostname:.*")
    everything = log_lines(logs, "ts_log")
    state = r"org\.pytorch\.serve\.wlm\.WorkerThread - W-9000-talk_1\.0 State change WORKER_STARTED -> WORKER_MODEL_LOADED"
    assert_there(everything, rf"{STAMP} \[DEBUG\] {worker} {state}")
    assert_there(everything, rf"{STAMP} \[INFO \] event-loop ACCESS_LOG - .*GET /nothing.*")
    assert_there(everything, rf"{STAMP} \[INFO \] event-loop TS_METRICS - Requests4XX.*")


def test_log_files_of_mms_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LOG_LOCATION", str(tmp_path / "var" / "log"))
    monkeypatch.setenv("METRICS_LOCATION", str(tmp_path / "var" / "metrics"))
    asked_once(tmp_path, "mms")
    assert not (tmp_path / "logs").exists()
    logs, metrics = tmp_path / "var" / "log", tmp_path / "var" / "metrics"
    assert sorted(path.name for path in logs.iterdir()) == ["access_log.log", "mms_log.log", "model_log.log"]
    assert_there(
        log_lines(metrics, "mms_metrics"), rf"{STAMP} - Requests2XX\.Count:1\|#Level:Host\|#hostname:[^,]+,timestamp:\d+"
    )
    measured = rf"{STAMP} - Seen\.Count:2\|#ModelName:talk,Level:Model\|#hostname:[^,]+,requestID:{ID},timestamp:\d+"
    assert_there(log_lines(metrics, "model_metrics"), measured)
    assert_there(log_lines(logs, "model_log"), rf"{STAMP} \[INFO \] W-9000-talk-stdout .*WorkerLifeCycle - said")


def test_no_log_files_where_nobody_wants_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWYARD_LOG_LOCATION", "")
    assert "said\n" in asked_once(tmp_path, "torchserve")
    assert not (tmp_path / "logs").exists()


def test_a_folder_where_no_logs_can_be_written_is_no_reason_not_to_start(tmp_path):
    (tmp_path / "logs").write_text("a file")
    told = asked_once(tmp_path, "torchserve")
    assert f"warning: no log files are written: none can be in {tmp_path / 'logs'} (variable LOG_LOCATION)" in told
    assert (tmp_path / "logs").read_text() == "a file"


def test_a_place_that_is_named_and_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOG_LOCATION", str(tmp_path / "file"))
    server = DropIn(tmp_path)
    done = server.run("--foreground", "--model-store", "store", "--ts-config", str(server.config))
    assert done.returncode == 1
    assert f"log_location {tmp_path / 'file'}: no files can be written there" in done.stderr


def test_a_model_that_does_not_go_in_time_stays(tmp_path):
    server = DropIn(tmp_path, "torchserve", "unregister_model_timeout=0")
    client = server.start("--ts-config", str(server.config))
    try:
        client.post("/models", params={"url": "noop.mar", "initial_workers": 1}).raise_for_status()
        refused = client.delete("/models/noop")
        assert (refused.status_code, refused.json()) == (
            408,
            {"code": 408, "type": "RequestTimeoutException", "message": "Timed out while cleaning resources: noop"},
        )
        assert client.post("/predictions/noop").text == "OK"
        # Without workers there is nothing to wait for.
        client.put("/models/noop", params={"min_worker": 0, "synchronous": "true"}).raise_for_status()
        wait_until(lambda: client.get("/models/noop").json()[0]["workers"] == [])
        assert client.delete("/models/noop").json() == {"status": 'Model "noop" unregistered'}
    finally:
        server.stop()


def test_a_model_that_is_busy_stays_until_it_has_answered(tmp_path):
    gate, started = tmp_path / "go", tmp_path / "started"
    waiting = f"""
import os, pathlib, time
def handle(data, context):
    if data is not None:
        pathlib.Path({str(started)!r}).touch()
    while data is not None and not os.path.exists({str(gate)!r}):
        time.sleep(0.01)
    return None if data is None else ["OK"] * len(data)
"""
    server = DropIn(tmp_path, "mms", "unregister_model_timeout=1")
    (server.store / "busy.mar").write_bytes(archive("busy", waiting))
    client = server.start("--mms-config", str(server.config))
    try:
        client.post("/models", params={"url": "busy.mar", "initial_workers": 1}).raise_for_status()
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(client.post, "/predictions/busy")
            wait_until(started.exists)
            refused = client.delete("/models/busy")
            assert refused.status_code == 408
            assert refused.json()["message"] == "Timed out while cleaning resources: busy"
            gate.touch()
            assert answer.result().text == "OK"
        assert client.delete("/models/busy").json() == {"status": 'Model "busy" unregistered'}
        assert client.post("/predictions/busy").status_code == 404
    finally:
        gate.touch()
        server.stop()


def test_an_archive_without_manifest_has_the_default_handler(tmp_path):
    server = DropIn(tmp_path, "torchserve", "default_service_handler=service:answer")
    (server.store / "bare.mar").write_bytes(zipped({"service.py": HANDLER.replace("handle", "answer")}))
    client = server.start("--ts-config", str(server.config))
    try:
        answer = client.post("/models", params={"url": "bare.mar", "model_name": "bare", "initial_workers": 1})
        assert answer.status_code == 200, answer.text
        assert client.post("/predictions/bare").text == "OK"
        client.post("/models", params={"url": "noop.mar", "initial_workers": 1}).raise_for_status()
        assert client.post("/predictions/noop").text == "OK"
    finally:
        server.stop()


DECLARED = """
dimensions:
  - &model_name "ModelName"
  - &level "Level"
ts_metrics:
  counter:
    - name: Requests2XX
      unit: Count
      dimensions: [*level, "Hostname"]
model_metrics:
  counter:
    - {name: InferenceRequestCount, unit: count, dimensions: []}
    - {name: InitializeCallCount, unit: count, dimensions: [*model_name, *level]}
  gauge:
    - {name: RequestBatchSize, unit: count, dimensions: [*model_name]}
"""
COUNTING = """
from ts.metrics.metric_type_enum import MetricTypes

class Handler:
    def initialize(self, context):
        self.context = context
        self.count = context.metrics.add_metric_to_cache("InferenceRequestCount", "count", [], MetricTypes.COUNTER)
        context.metrics.add_metric("InitializeCallCount", 1, "count", metric_type=MetricTypes.COUNTER)

    def handle(self, data, context):
        self.count.add_or_update(1, [])
        size = context.metrics.get_metric("RequestBatchSize", MetricTypes.GAUGE)
        size.add_or_update(len(data), [context.model_name])
        context.metrics.add_counter("Undeclared", 1)
        return ["OK"] * len(data)
"""


@pytest.mark.parametrize("detected", [False, True])
def test_a_metrics_yaml_says_which_metrics_there_are(tmp_path, detected):
    (tmp_path / "metrics.yaml").write_text(DECLARED)
    lines = ["metrics_mode=prometheus", f"metrics_config={tmp_path / 'metrics.yaml'}"]
    server = DropIn(tmp_path, "torchserve", *lines, *(["model_metrics_auto_detect=true"] if detected else []))
    (server.store / "counting.mar").write_bytes(archive("counting", COUNTING))
    client = server.start("--ts-config", str(server.config))
    metrics = f"{[url for url in server.ready.read_text().split() if url.startswith('http')][-1]}/metrics"
    try:
        client.post("/models", params={"url": "counting.mar", "initial_workers": 1}).raise_for_status()
        for _ in range(2):
            assert client.post("/predictions/counting").text == "OK"
        # Values come behind the answer that they belong to.
        wait_until(lambda: re.search(r"^InferenceRequestCount{.*} 2\.0$", httpx2.get(metrics).text, re.MULTILINE))
        text = re.sub(r'Hostname="[^"]*"', 'Hostname="h"', httpx2.get(metrics).text)
        told = {line for line in text.splitlines() if not line.startswith(("#", "Requests2XX", "PredictionTime"))}
        assert told == {
            'InferenceRequestCount{Hostname="h",} 2.0',
            'InitializeCallCount{ModelName="counting",Level="Model",Hostname="h",} 1.0',
            'RequestBatchSize{ModelName="counting",Hostname="h",} 1.0',
            *(['Undeclared{ModelName="counting",Level="Model",Hostname="h",} 2.0'] if detected else []),
        }
        assert ("# TYPE PredictionTime gauge" in text) is detected
        assert "ts_inference_requests_total" not in text
    finally:
        server.stop()


def test_a_mistake_in_a_metrics_yaml_is_told_at_the_start(tmp_path):
    (tmp_path / "metrics.yaml").write_text("model_metrics: {counter: [{name: a b, unit: count}]}")
    server = DropIn(tmp_path, "torchserve", f"metrics_config={tmp_path / 'metrics.yaml'}")
    done = server.run("--foreground", "--model-store", "store", "--ts-config", str(server.config))
    assert done.returncode == 1
    assert f"metrics_config {tmp_path / 'metrics.yaml'}: model_metrics.counter[0]: name 'a b' is none" in done.stderr
