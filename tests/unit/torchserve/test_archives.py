"""What archives of TorchServe and MMS say about themselves, read without running anything of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowyard.engines.torchserve.config import read_config
from flowyard.engines.torchserve.folder import Manifest, find_manifest, recognise
from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.models import ModelSpec

TORCHSERVE = {
    "createdOn": "20/11/2024 22:34:17",
    "runtime": "python",
    "model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.5", "configFile": "model-config.yaml"},
    "archiverVersion": "0.12.0",
}
MMS = {
    "specificationVersion": "1.0",
    "implementationVersion": "1.0",
    "modelServerVersion": "1.0",
    "license": "Apache 2.0",
    "runtime": "PYTHON3",
    "engine": {"engineName": "MXNet", "engineVersion": "1.3"},
    "model": {"modelName": "m", "modelVersion": "2.0", "handler": "h.py:handle", "extensions": {"x": 1}},
    "publisher": {"author": "a", "email": "e"},
}
LEGACY = {
    "Engine": {"MXNet": 0.12},
    "Model-Archive-Version": 0.1,
    "Model": {"Service": "s.py", "Signature": "signature.json", "Model-Name": "old", "Model-Format": "MXNet-Symbolic"},
}
#: Those of early versions of TorchServe's archiver have MMS's keys too.
EARLY = {
    "specificationVersion": "1.0",
    "runtime": "python",
    "model": {"modelName": "m", "handler": "h", "serializedFile": "m.pt"},
}


def write(folder: Path, manifest: object, name: str = "MAR-INF/MANIFEST.json", config: str = "") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    if config:
        (folder / "model-config.yaml").write_text(config)
    return folder


def test_a_manifest_of_torchserve(tmp_path):
    found = recognise(write(tmp_path, TORCHSERVE))
    assert found.manifest == Manifest(
        handlers="torchserve",
        file="MAR-INF/MANIFEST.json",
        name="m",
        version="1.5",
        handler="h.py",
        config_file="model-config.yaml",
    )
    assert found.parameters == {
        "handler": "h.py",
        "runtime": "python",
        "manifest": "MAR-INF/MANIFEST.json",
        "config_file": "model-config.yaml",
        "model_config": "{}",
        "requirements_file": "",
        "service_envelope": "",
        "decode_input_request": "true",
    }
    # Without a word, batches are filled for up to 100 ms, as in TorchServe.
    assert found.spec() == ModelSpec(batching="fill", max_batch_delay=100)


@pytest.mark.parametrize(
    ("manifest", "name", "family", "version", "handler", "engine"),
    [
        (MMS, "MAR-INF/MANIFEST.json", "mms", "2.0", "h.py:handle", "MXNet"),
        (LEGACY, "MANIFEST.json", "mms", "snapshot", "s.py", "MXNet"),
        (EARLY, "MAR-INF/MANIFEST.json", "torchserve", "1.0", "h", ""),
        ({"model": {"handler": "h"}}, "MAR-INF/MANIFEST.json", "torchserve", "1.0", "h", ""),
        ({"model": {"handler": "h", "modelVersion": 3}}, "MAR-INF/MANIFEST.json", "torchserve", "3", "h", ""),
        ({}, "MAR-INF/MANIFEST.json", "torchserve", "1.0", "", ""),
    ],
)
def test_whose_a_manifest_is(tmp_path, manifest, name, family, version, handler, engine):
    found = recognise(write(tmp_path, manifest, name)).manifest
    assert (found.handlers, found.version, found.handler, found.engine) == (family, version, handler, engine)


def test_a_single_folder_in_the_archive_stands_for_it(tmp_path):
    write(tmp_path / "inner", TORCHSERVE)
    folder, manifest = find_manifest(tmp_path)
    assert (folder, manifest.name) == (tmp_path / "inner", "m")


def test_an_archive_of_nothing_but_its_manifest_is_not_descended_into(tmp_path):
    assert find_manifest(write(tmp_path, TORCHSERVE))[0] == tmp_path


@pytest.mark.parametrize("name", ["MANIFEST.json", "manifest.json"])
def test_other_files_of_the_name_are_none(tmp_path, name):
    assert recognise(write(tmp_path, {"name": "a web app"}, name)) is None
    assert recognise(tmp_path / name) is None


def test_a_registration_may_name_the_handler_of_a_folder_without_a_manifest(tmp_path):
    (tmp_path / "h.py").write_text("")
    assert recognise(tmp_path) is None
    found = recognise(tmp_path, {"handler": "h.py", "runtime": "PYTHON3"})
    assert (found.handler, found.parameters["runtime"], found.handlers) == ("h.py", "python3", "torchserve")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("{not json", r"^Failed to parse signature.json. \(MAR-INF/MANIFEST.json: "),
        ("[1]", "is no JSON object"),
        ('{"a": ' * 100_000, "Failed to parse"),
        ({"model": 3}, "model is no JSON object"),
        ({"model": {"modelName": ["m"]}}, "modelName is no text"),
        ({"runtime": "ruby", "model": {}}, r"^Runtime is not defined or invalid. \(.*'ruby', known are python"),
        ({"runtime": 3, "model": {}}, "Runtime is not defined or invalid"),
        (MMS | {"model": {"modelName": "m"}}, r"^Model handler is not defined. \(MAR-INF/MANIFEST.json has no model.handler"),
        ({"model": {"envelope": "soap"}}, "there is no envelope 'soap'; known are body, json, kserve, kservev2"),
        ({"model": {"configFile": "../secret"}}, "leads out of the model's folder"),
    ],
)
def test_wrong_manifests(tmp_path, manifest, words):
    with pytest.raises(InvalidModelError, match=words):
        recognise(write(tmp_path, manifest))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "ruby"}, "option runtime: 'ruby'"),
    ],
)
def test_wrong_options(tmp_path, options, words):
    with pytest.raises(InvalidModelError, match=words):
        recognise(write(tmp_path, TORCHSERVE), options)


def test_a_loading_time_that_is_none(tmp_path):
    found = recognise(write(tmp_path, TORCHSERVE), {"startup_timeout": "soon"})
    with pytest.raises(InvalidModelError, match="option startup_timeout: 'soon' is no number of seconds"):
        found.loading_timeout_s()


def test_a_configuration_says_how_the_model_is_served(tmp_path):
    config = """
        minWorkers: 2
        maxWorkers: 4
        batchSize: 8
        maxBatchDelay: 50
        responseTimeout: 30
        startupTimeout: 60
        jobQueueSize: 7
        deviceType: gpu
        deviceIds: [0, 2]
        maxRetryTimeoutInSec: 10
        handler: {topk: 3}
    """
    found = recognise(write(tmp_path, TORCHSERVE, config=config), gpus=3)
    assert found.spec() == ModelSpec(
        min_worker=2,
        max_worker=4,
        batch_size=8,
        max_batch_delay=50,
        timeout=30.0,
        job_queue_size=7,
        device="gpu0;gpu2",
        batching="fill",
    )
    assert found.loading_timeout_s() == 60
    assert recognise(tmp_path, {"startup_timeout": "5"}).loading_timeout_s() == 5


@pytest.mark.parametrize(
    ("config", "spec", "said"),
    [
        ("batchSize: many", {}, "Invalid batchSize: many, should be integer"),
        ("batchSize: true", {}, "Invalid batchSize"),
        ("batchSize: 0\nmaxBatchDelay: 7", {"max_batch_delay": 7}, "Invalid batchSize: 0"),
        ("minWorkers: 5\nmaxWorkers: 2", {}, "minWorkers is over maxWorkers"),
        ("minWorkers: 0\nmaxWorkers: 2", {"min_worker": 1, "max_worker": 2}, ""),
        ("deviceType: tpu", {}, "Invalid deviceType: tpu, should be cpu, or gpu"),
        ("deviceType: cpu\ndeviceIds: [0]", {"device": "cpu"}, ""),
        ("deviceIds: [0, 9]", {}, "deviceIds [0, 9]: there are 1 GPUs; all ids are ignored"),
        ("deviceIds: 3", {}, "Invalid deviceIds"),
        ("useVenv: 1", {}, "Invalid useVenv: 1, should be boolean"),
        ("torchrun: 1", {}, "Invalid torchrun"),
        ("{nonsense", {}, "Failed to parse model config file model-config.yaml"),
        ("!!python/object/apply:os.system [id]", {}, "Failed to parse model config file"),
        ("- a list", {}, ""),
    ],
)
def test_what_is_wrong_in_a_configuration_is_logged_and_ignored(tmp_path, caplog, config, spec, said):
    found = recognise(write(tmp_path, TORCHSERVE, config=config), gpus=1)
    assert found.spec() == ModelSpec(**{"batching": "fill", "max_batch_delay": 100, **spec})
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("sequenceBatching: true", "sequenceMaxIdleMSec: sequenceBatching needs a number of milliseconds over 0"),
        ("sequenceBatching: true\nsequenceMaxIdleMSec: 0", "sequenceMaxIdleMSec: sequenceBatching needs"),
        ("sequenceBatching: true\nsequenceMaxIdleMSec: 5\nasyncCommunication: true", "asyncCommunication: this version does not"),
    ],
)
def test_sequences_that_cannot_be_served_are_refused(tmp_path, config, words):
    with pytest.raises(InvalidModelError, match=rf"model-config\.yaml: {words}"):
        recognise(write(tmp_path, TORCHSERVE, config=config))


def test_what_a_configuration_says_of_sequences(tmp_path):
    text = "sequenceBatching: true\nsequenceMaxIdleMSec: 1500\nsequenceTimeoutMSec: 60000\n"
    text += "maxNumSequence: 7\nmaxSequenceJobQueueSize: 0"
    config = recognise(write(tmp_path, TORCHSERVE, config=text)).config
    assert (config.has_sequences, config.sequence_idle_s, config.sequence_timeout_s) == (True, 1.5, 60.0)
    assert (config.max_sequences, config.sequence_queue_size) == (7, 1)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (
            "continuousBatching: true\nasyncCommunication: true",
            {},
            "continuousBatching and asyncCommunication: a handler is called in one",
        ),
        ("continuousBatching: true", {"service_envelope": "json"}, "continuousBatching: not with service_envelope 'json'"),
        ("asyncCommunication: true", {"service_envelope": "body"}, "asyncCommunication: not with service_envelope 'body'"),
    ],
)
def test_ways_to_call_a_handler_that_do_not_go_together(tmp_path, config, options, words):
    with pytest.raises(InvalidModelError, match=words):
        recognise(write(tmp_path, TORCHSERVE, config=config), options)


@pytest.mark.parametrize(
    ("config", "together"),
    [
        ("batchSize: 8", 1),
        ("continuousBatching: true", 8),
        ("continuousBatching: true\nsequenceBatching: true\nsequenceMaxIdleMSec: 5", 16),
        ("continuousBatching: false", 1),
        ("asyncCommunication: true", 64),
        ("asyncCommunication: 1", 1),
    ],
)
def test_how_many_requests_a_worker_computes_side_by_side(tmp_path, config, together):
    found = recognise(write(tmp_path, TORCHSERVE, config=config))
    assert found.concurrency(8) == together
    assert found.is_asynchronous == (together > 1)
    assert found.concurrency(100) in (1, 100, 200)


def test_a_missing_configuration_is_logged_and_none(tmp_path, caplog):
    assert recognise(write(tmp_path, TORCHSERVE)).config.settings == {}
    assert "Failed to parse model config file" in caplog.text


def test_a_response_timeout_that_is_too_long_is_cut_down(tmp_path):
    (tmp_path / "model-config.yaml").write_text("responseTimeout: 300000\nbatchSize: 2\n")
    found = read_config(tmp_path, "model-config.yaml").spec()
    assert (found.timeout, found.batch_size) == (86_400, 2)
