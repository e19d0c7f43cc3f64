"""`flowyard migrate`: installations of TorchServe, MMS and DJL Serving whose answers are the same afterwards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from support.archives import linear_onnx
from support.commands import run_text
from support.server import running
from support.torchserve import mms_archive, pack_model, pack_workflow, write

GREET = """
def handle(data, context):
    if data is None:
        return None
    bodies = [row.get("body") or row.get("data") for row in data]
    return ["{word} " + (body if isinstance(body, str) else bytes(body).decode()) for body in bodies]
"""
SPEC = """
models:
  min-workers: 1
  max-workers: 1
  batch-size: 1
  max-batch-delay: 10
  loud:
    url: loud.mar
dag:
  polite: [loud]
"""
FUNCTIONS = """
def polite(data, context):
    return None if data is None else [b"please " + (row.get("body") or row.get("data")) for row in data]
"""
LOUD = """
def handle(data, context):
    return None if data is None else [bytes(row.get("body") or row.get("data")).decode().upper() for row in data]
"""
DJL_HANDLER = """
from djl_python import Output

def handle(inputs):
    return None if inputs.is_empty() else Output().add(inputs.get_as_bytes() * 2)
"""
MODEL_CONFIG = "minWorkers: 1\nmaxWorkers: 2\nbatchSize: 3\nmaxBatchDelay: 20\nresponseTimeout: 33\nuseJobTicket: true\n"
ADDRESSES = [f"{part}_address=http://127.0.0.1:0" for part in ("inference", "management", "metrics")]
SAID = {"minWorkers": 1, "maxWorkers": 2, "batchSize": 2, "maxBatchDelay": 10, "responseTimeout": 9, "runtimeType": "python"}
SNAPSHOT = {
    "name": "s.cfg",
    "models": {
        "greet": {
            "1.0": {"defaultVersion": False, "marName": "greet1.mar", **SAID},
            "2.0": {"defaultVersion": True, "marName": "greet2.mar", **SAID, "startupTimeout": 77},
        },
        "loud": {"1.0": {"defaultVersion": True, "marName": "loud.mar", **SAID, "batchSize": 3, "responseTimeout": 33}},
    },
}


@pytest.fixture
def torchserve(tmp_path) -> Path:
    """A TorchServe that has been shut down: three archives and a workflow, made by its own archivers."""
    folder, work = tmp_path / "torchserve", tmp_path / "work"
    store, snapshots = folder / "model-store", folder / "logs" / "config"
    for place in (store, snapshots):
        place.mkdir(parents=True)
    for version in ("1.0", "2.0"):
        word = {"1.0": "hello", "2.0": "good day"}[version]
        pack_model(store, work, "greet", {"greet.py": GREET.format(word=word)}, "--version", version)
        (store / "greet.mar").rename(store / f"greet{version[0]}.mar")
    config = write(work / "config", {"model-config.yaml": MODEL_CONFIG}) / "model-config.yaml"
    pack_model(store, work, "loud", {"loud.py": LOUD}, "--config-file", str(config))
    pack_workflow(store, work, "polite", SPEC, FUNCTIONS)
    lines = [*ADDRESSES, "disable_token_authorization=true", "job_queue_size=50", "plugins_path=/opt/plugins", "vmargs=-Xmx1g"]
    (folder / "config.properties").write_text("\n".join([*lines, "load_models=greet1.mar", "decode_input_request=false"]))
    lines += ["load_models=greet1.mar", "model_store=/home/model-server/model-store", f"model_snapshot={json.dumps(SNAPSHOT)}"]
    lines += ["decode_input_request=false"]
    (snapshots / "20260101000000000-shutdown.cfg").write_text("\n".join(lines))
    return folder


def test_an_installation_of_torchserve_answers_as_before(torchserve, tmp_path):
    out = tmp_path / "out"
    done = run_text("migrate", torchserve, "--out", out)
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    snapshot = torchserve / "logs" / "config" / "20260101000000000-shutdown.cfg"
    for line in (
        f"! {torchserve}/config.properties:6: plugins_path: changes answers: Java plugins cannot be loaded",
        f"! {snapshot}:6: plugins_path: changes answers: Java plugins cannot be loaded",
        f"- {torchserve}/config.properties:7: vmargs: no effect: there is no Java",
        f"- {torchserve}/config.properties:8: load_models: no effect: {snapshot}:10: model_snapshot counts",
        f"= {snapshot}:5: job_queue_size -> setting job_queue_size",
        f"= {torchserve}/model-store/loud.mar/model-config.yaml:6: useJobTicket -> the archive, where it is read as before",
    ):
        assert line in done.stdout.splitlines()
    with served(out, tmp_path) as (url, dialect, native):
        applied = run_text("apply", out, "--url", url)
        assert applied.returncode == 0, applied.stdout + applied.stderr
        expected = {"greet": "good day you", "greet/1.0": "hello you", "greet/2.0": "good day you", "loud": "YOU"}
        for path, answer in expected.items():
            for client in (dialect, native):
                assert client.post(f"/predictions/{path}", content=b"you").text == answer
        assert dialect.post("/wfpredict/polite", content=b"you").text == "PLEASE YOU"
        assert native.post("/predictions/polite", content=b"you").text == "PLEASE YOU"
        described = {item["modelVersion"]: item for item in dialect.get("/models/greet/all").json()}
        keys = ("modelUrl", "minWorkers", "maxWorkers", "batchSize", "responseTimeout")
        assert [described["2.0"][key] for key in keys] == ["greet2.mar", 1, 2, 2, 9]
        # What only the configuration says, that JSON is not decoded, reaches models that are registered by `apply`.
        for client in (dialect, native):
            assert client.post("/predictions/loud", json="you").text == '"YOU"'
        (loud,) = dialect.get("/models/loud").json()
        assert (loud["batchSize"], loud["maxBatchDelay"], loud["responseTimeout"]) == (3, 10, 33)
        again = run_text("apply", out, "--url", url, "--dry-run")
        assert (again.returncode, again.stdout) == (0, "nothing to change\n")


@contextlib.contextmanager
def served(out: Path, folder: Path) -> Iterator[tuple[str, httpx2.Client, httpx2.Client]]:
    """A server with the settings that were written: where its native API is, and clients of the first API and of that."""
    place = folder / "server"
    place.mkdir()
    with (
        running(place, "--config", str(out / "settings.properties"), store=False) as started,
        started.client_of(started.urls[0]) as first,
        started.client_of(started.urls[-1]) as native,
    ):
        yield started.urls[-1], first, native


def test_an_installation_of_mms_answers_as_before(tmp_path):
    folder, out = tmp_path / "mms", tmp_path / "out"
    (folder / "model-store").mkdir(parents=True)
    (folder / "model-store" / "loud.mar").write_bytes(mms_archive("loud", LOUD))
    lines = [*ADDRESSES[:2], "load_models=loud=loud.mar", "default_response_timeout=2", "preload_model=true"]
    (folder / "config.properties").write_text("\n".join(lines))
    done = run_text("migrate", folder, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["product"], report["names"], report["changes_answers"]) == ("mms", {"loud": ["1.0"]}, False)
    with served(out, tmp_path) as (url, dialect, native):
        assert run_text("apply", out, "--url", url).returncode == 0
        assert dialect.post("/predictions/loud", content=b"you").text == "YOU"
        assert native.post("/predictions/loud", content=b"you").text == "YOU"
        assert dialect.get("/models/loud").json()["modelName"] == "loud"


def test_an_installation_of_djl_serving_answers_as_before(tmp_path):
    folder, out = tmp_path / "djl", tmp_path / "out"
    twice, double = folder / "models" / "twice", folder / "models" / "double"
    for place in (folder / "conf", twice, double):
        place.mkdir(parents=True)
    (double / "double.onnx").write_bytes(linear_onnx([[2.0]]))
    (double / "serving.properties").write_text("engine=OnnxRuntime\nbatch_size=2\n")
    (twice / "model.py").write_text(DJL_HANDLER)
    (twice / "serving.properties").write_text("engine=Python\n")
    lines = [
        "inference_address=http://127.0.0.1:0",
        "model_store=models",
        "job_queue_size=7",
        "cluster_address=http://10.0.0.1:1",
    ]
    (folder / "conf" / "config.properties").write_text("\n".join([*lines, "load_models=twice,[double:v1]=double", "io_ratio=70"]))
    done = run_text("migrate", folder, "--out", out)
    assert done.returncode == 1, done.stderr
    config = folder / "conf" / "config.properties"
    assert done.stdout.splitlines()[:3] == [
        f"= {config}:1: inference_address -> setting inference_address",
        f"= {config}:2: model_store -> setting model_store",
        f"= {config}:3: job_queue_size -> setting job_queue_size",
    ]
    assert f"! {config}:4: cluster_address: changes answers: this server is not part of a cluster" in done.stdout.splitlines()
    with served(out, tmp_path) as (url, _, native):
        applied = run_text("apply", out, "--url", url)
        assert applied.returncode == 0, applied.stdout + applied.stderr
        assert native.post("/predictions/twice", content=b"ab").text == "abab"
        assert native.post("/predictions/double/v1", json=[[3.0]]).json() == {"predictions": [[6.0]]}
        assert native.get("/models/double").json()[0]["models"][0]["queueSize"] == 7


def test_a_dry_run_reports_and_writes_nothing_and_a_folder_is_not_overwritten(torchserve, tmp_path):
    out = tmp_path / "out"
    dry = run_text("migrate", torchserve, "--out", out, "--dry-run", "--json")
    assert (dry.returncode, out.exists()) == (1, False)
    report = json.loads(dry.stdout)
    assert (report["out"], report["files"], report["snapshot"]) == (None, [], str(next(torchserve.glob("logs/config/*.cfg"))))
    assert report["names"] == {"greet": ["2.0", "1.0"], "loud": ["1.0"], "polite": ["default"]}
    changing = [
        (Path(key["file"]).name, key["line"], key["key"]) for key in report["keys"] if key["outcome"] == "changes answers"
    ]
    assert changing == [("config.properties", 6, "plugins_path"), ("20260101000000000-shutdown.cfg", 6, "plugins_path")]
    out.mkdir()
    (out / "mine").write_text("")
    refused = run_text("migrate", torchserve, "--out", out)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"flowyard: {out} is not empty; --force overwrites what is in it\n"
    assert run_text("migrate", torchserve, "--out", out, "--force", "--ncs").returncode == 1
    assert sorted(file.name for file in out.iterdir()) == ["greet.yaml", "mine", "polite.yaml", "settings.properties"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nowhere"], 1, "nowhere: no such folder"),
        (["."], 1, "neither an installation of TorchServe or MMS"),
        ([".", "--from", "triton"], 2, "--from"),
        ([], 2, "argument"),
    ],
)
def test_a_wrong_call_is_told_without_a_trace(tmp_path, monkeypatch, arguments, status, words):
    monkeypatch.chdir(tmp_path)
    done = run_text("migrate", *arguments)
    assert done.returncode == status
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
