"""`flowyard torchserve` and `flowyard mms` as the commands whose place they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from support.archives import zipped
from support.server import wait_until

HANDLER = "def handle(data, context):\n    return None if data is None else ['OK'] * len(data)\n"
ONE_PORT = "http://127.0.0.1:0"


def archive(name: str) -> bytes:
    manifest = {
        "runtime": "python",
        "model": {"modelName": name, "handler": "h.py", "modelVersion": "1.0"},
        "archiverVersion": "1",
    }
    return zipped({"h.py": HANDLER, "MAR-INF/MANIFEST.json": json.dumps(manifest)})


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
