"""What becomes of an installation: its keys, its archives, and what is wrong with it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import linear_onnx, zipped

from flowyard.platform import djl_config
from flowyard.platform.desired.documents import read
from flowyard.platform.devices import cpu_count
from flowyard.platform.migration.installation import find
from flowyard.platform.migration.migration import SETTINGS_FILE, Migration, escaped, migrate, write
from flowyard.platform.settings import load_settings
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.properties import parse_properties

HANDLER = "def handle(data, context):\n    return data\n"
#: Wherever there are no GPUs to share workers out among.
WORKERS = {"min_worker": 1, "max_worker": 1}


def mar(
    name: str, version: str = "1.0", config: str = "", *, handler: str = "h.py", runtime: str = "python", archiver: bool = True
) -> bytes:
    model = {"modelName": name, "modelVersion": version, **({"handler": handler} if handler else {})}
    model |= {"configFile": "model-config.yaml"} if config else {}
    manifest = {"runtime": runtime, "model": model} | (
        {"archiverVersion": "0.12.0"} if archiver else {"modelServerVersion": "1.0"}
    )
    files = {"h.py": HANDLER, "MAR-INF/MANIFEST.json": json.dumps(manifest)}
    return zipped(files | ({"model-config.yaml": config} if config else {}))


def war(name: str, url: str) -> bytes:
    manifest = {
        "createdOn": "01/01/2026 00:00:00",
        "workflow": {"workflowName": name, "specFile": "spec.yaml", "handler": "f.py"},
        "archiverVersion": "0.2.0",
    }
    spec = f"models:\n  m:\n    url: {url}\ndag:\n  pre: [m]\n"
    functions = "def pre(data, context):\n    return data\n"
    return zipped({"spec.yaml": spec, "f.py": functions, "WAR-INF/MANIFEST.json": json.dumps(manifest)})


class Folder:
    """An installation of TorchServe."""

    def __init__(self, folder: Path, *lines: str, archives: dict[str, bytes] | None = None, snapshot: object = None) -> None:
        self.folder = folder / "old"
        self.store = self.folder / "model-store"
        self.store.mkdir(parents=True)
        for name, content in (archives or {}).items():
            (self.store / name).write_bytes(content)
        self.config = self.folder / "config.properties"
        self.config.write_text("".join(f"{line}\n" for line in lines))
        self.snapshot = self.folder / "logs" / "config" / "20260101000000000-shutdown.cfg"
        if snapshot is not None:
            self.snapshot.parent.mkdir(parents=True)
            text = snapshot if isinstance(snapshot, str) else json.dumps(snapshot)
            self.snapshot.write_text(f"model_snapshot={text}\n")

    def migrate(self, env: dict[str, str] | None = None, **options) -> Migration:
        env = {"CUDA_VISIBLE_DEVICES": ""} | (env or {})
        return migrate(find(self.folder, env, **options), env)


def lines_of(migration: Migration, sign: str = "=-!") -> list[str]:
    return [str(verdict) for verdict in migration.verdicts if str(verdict)[0] in sign]


def versions(migration: Migration) -> dict[str, dict[str, object]]:
    """The documents' versions by label, without digests."""
    found = {}
    for document in migration.documents:
        for version in document.versions:
            said = {name: getattr(version, name) for name in version.__struct_fields__ if name not in ("version", "sha256")}
            found[f"{document.name}:{version.version}"] = {
                name: value for name, value in said.items() if value or (value == 0 and value is not False)
            }
    return found


MODEL_CONFIG = (
    "minWorkers: 2\nbatchSize: 4\nmaxWorkers: 3\nresponseTimeout: 33\nmaxBatchDelay: 0\njobQueueSize: 9\ndeviceType: cpu\n"
)
IN_CONFIG = {
    "min_worker": 2,
    "max_worker": 3,
    "batch_size": 4,
    "max_batch_delay": 0,
    "timeout": 33,
    "job_queue_size": 9,
    "device": "cpu",
}


def test_what_an_archive_says_of_itself_counts_more_than_the_key_models_and_less_than_a_snapshot(tmp_path):
    said = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 2, "responseTimeout": 5, "startupTimeout": 7}
    archives = {"m.mar": mar("m", config=MODEL_CONFIG), "n.mar": mar("n")}
    models = {"m": {"1.0": said}, "n": {"1.0": said}, "o": {"1.0": said}}
    configured = Folder(tmp_path / "a", "load_models=m.mar,n.mar", f"models={json.dumps(models)}", archives=archives).migrate()
    in_models = {"min_worker": 1, "max_worker": 1, "batch_size": 2, "timeout": 5, "startup_timeout": 7}
    assert versions(configured)["m:1.0"] == {"url": "m.mar", "startup_timeout": 7, **IN_CONFIG}
    assert versions(configured)["n:1.0"] == {"url": "n.mar", **in_models}
    assert any("models.o.1.0: no effect: it is in no document" in line for line in lines_of(configured))
    snapshot = {"models": {"m": {"1.0": {"marName": "m.mar", "defaultVersion": True, **said}}}}
    taken = Folder(tmp_path / "b", archives=archives, snapshot=snapshot).migrate()
    assert versions(taken)["m:1.0"] == {"url": "m.mar"} | IN_CONFIG | in_models | {"timeout": 33}
    assert taken.notes == (
        f"{tmp_path}/b/old/model-store/n.mar is in the store and was not loaded at the start: it is in no document",
    )


def test_without_a_word_there_is_a_worker_for_each_core(tmp_path):
    migration = Folder(tmp_path, "load_models=m.mar", archives={"m.mar": mar("m")}).migrate()
    assert versions(migration) == {"m:1.0": {"url": "m.mar", "min_worker": cpu_count(), "max_worker": cpu_count()}}


def test_defaults_of_the_server_that_apply_does_not_know_are_in_the_documents(tmp_path):
    archives = {"m.mar": mar("m"), "n.mar": mar("n", handler="")}
    keys = (
        "service_envelope=kserve",
        "decode_input_request=false",
        "default_workers_per_model=1",
        "default_service_handler=h.py",
    )
    migration = Folder(tmp_path, *keys, archives=archives).migrate()
    (m, n) = (document.versions[0] for document in migration.documents)
    assert (m.service_envelope, m.decode_input_request, m.handler) == ("kserve", False, None)
    assert (n.service_envelope, n.decode_input_request, n.handler) == ("kserve", False, "h.py")
    assert (
        f"= {tmp_path}/old/config.properties:4: default_service_handler -> handler of the documents whose archives name none"
        in lines_of(migration)
    )
    assert migration.notes[0].startswith("nothing says which models are loaded")
    unused = Folder(tmp_path / "b", "default_service_handler=h.py", archives={"m.mar": mar("m")}).migrate()
    assert lines_of(unused) == [
        f"- {tmp_path}/b/old/config.properties:1: default_service_handler: no effect: every archive names its handler"
    ]


def test_versions_of_a_name_are_one_document_with_the_default_one(tmp_path):
    said = {"minWorkers": 1, "maxWorkers": 1}
    models = {"m": {"1.0": {"marName": "a.mar", **said}, "2.0": {"marName": "b.mar", "defaultVersion": True, **said}}}
    archives = {"a.mar": mar("m"), "b.mar": mar("m", "2.0")}
    (document,) = Folder(tmp_path / "a", archives=archives, snapshot={"models": models}).migrate().documents
    assert (document.default, [version.version for version in document.versions]) == ("2.0", ["2.0", "1.0"])
    migration = Folder(tmp_path / "b", "load_models=all", archives={**archives, "c.mar": mar("m")}).migrate()
    (document,) = migration.documents
    assert (document.default, [version.url for version in document.versions]) == ("1.0", ["a.mar", "b.mar"])
    (lost,) = lines_of(migration, "!")
    assert lost == f"! {tmp_path}/b/old/model-store/c.mar: changes answers: m:1.0 is a.mar already"


def test_what_would_be_refused_is_in_no_document_and_says_why(tmp_path):
    archives = {
        "parallel.mar": mar("parallel", config="batchSize: 1\nparallelType: tp\ntorchrun: {nnodes: 2}\n"),
        "restless.mar": mar("restless", config="sequenceBatching: true\n"),
        "cpp.mar": mar("cpp", runtime="LSP"),
        "garbage.mar": b"garbage",
        "other.onnx": linear_onnx([[2.0]]),
        "good.mar": mar("good", config="batchSize: many\nmaxRetryTimeoutInSec: 9\nmine: {a: 1}\nstartupTimeout: 3\n"),
        "nohandler.mar": mar("nohandler", handler=""),
        "strange.mar": mar("a b"),
        "good.war": war("good", "good.mar"),
        "lame.war": war("lame", "nowhere.mar"),
        "flow.war": war("flow", "good.mar"),
    }
    installation = Folder(tmp_path, "default_workers_per_model=1", archives=archives)
    migration = installation.migrate()
    assert versions(migration) == {"flow:default": {"url": "flow.war"}, "good:1.0": {"url": "good.mar", **WORKERS}}
    store = installation.store
    told = lines_of(migration, "!")
    expected = [
        (store / "parallel.mar/model-config.yaml:2: parallelType", "torchrun: nnodes: 2 is not possible"),
        (store / "parallel.mar/model-config.yaml:3: torchrun", "torchrun: nnodes: 2 is not possible"),
        (store / "parallel.mar", "torchrun: nnodes: 2 is not possible"),
        (store / "restless.mar/model-config.yaml:1: sequenceBatching", "sequenceMaxIdleMSec: sequenceBatching needs"),
        (store / "restless.mar", "sequenceMaxIdleMSec"),
        (store / "cpp.mar", "handlers in C++ are not supported"),
        (store / "good.war", "good is a model and a workflow"),
        (store / "lame.war", "nowhere.mar"),
        (store / "nohandler.mar", "it names no handler"),
        (store / "strange.mar", "Invalid name"),
    ]
    for place, words in expected:
        assert any(line.startswith(f"! {place}: changes answers: ") and words in line for line in told), (place, told)
    assert len(told) == len(expected)
    assert f"{store}/other.onnx is not loaded: TorchServe passes it over" in migration.notes
    assert f"{store}/garbage.mar is not loaded: it is neither an archive nor a model that an engine recognises" in migration.notes
    config = f"{store}/good.mar/model-config.yaml"
    assert f"- {config}:1: batchSize: no effect: TorchServe passes over this value, too" in lines_of(migration)
    assert f"= {config}:4: startupTimeout -> the archive, where it is read as before" in lines_of(migration)
    assert any(line.startswith(f"- {config}:2: maxRetryTimeoutInSec: no effect: ") for line in lines_of(migration))
    assert not any("mine" in line for line in lines_of(migration))


def test_models_of_several_processes_are_carried_over(tmp_path):
    torchrun = "torchrun: {nproc-per-node: 2, rdzv-backend: c10d}\n"
    archives = {
        "both.mar": mar("both", config=f"parallelType: tp\n{torchrun}"),
        "none.mar": mar("none", config=f"minWorkers: 1\n{torchrun}"),
    }
    installation = Folder(tmp_path, "load_models=all", archives=archives)
    migration = installation.migrate()
    assert set(versions(migration)) == {"both:1.0", "none:1.0"}
    both, none = (f"{installation.store}/{name}.mar/model-config.yaml" for name in ("both", "none"))
    as_before = "the archive, where it is read as before"
    assert f"= {both}:1: parallelType -> {as_before}" in lines_of(migration)
    assert f"= {both}:2: torchrun -> {as_before}; rdzv-backend: the server starts the processes itself" in lines_of(migration)
    assert f"- {none}:2: torchrun: no effect: without parallelType one process serves the model, as in TorchServe" in lines_of(
        migration
    )


def test_what_archives_say_of_sequences(tmp_path):
    of_sequences = "sequenceMaxIdleMSec: 10\nmaxNumSequence: 4\nsequenceBatching: true\n"
    archives = {
        "steps.mar": mar("steps", config=f"{of_sequences}continuousBatching: true\n"),
        "awaited.mar": mar("awaited", config=f"{of_sequences}asyncCommunication: true\n"),
        "none.mar": mar("none", config="maxNumSequence: 4\n"),
    }
    migration = Folder(tmp_path, "default_workers_per_model=1", "load_models=all", archives=archives).migrate()
    told = [line for line in lines_of(migration) if "model-config.yaml" in line]
    keys = ("sequenceMaxIdleMSec", "maxNumSequence", "sequenceBatching", "continuousBatching")
    place = f"{tmp_path}/old/model-store"
    for number, key in enumerate(keys, 1):
        assert f"= {place}/steps.mar/model-config.yaml:{number}: {key} -> the archive, where it is read as before" in told
    refusal = "asyncCommunication: this version does not do so together with sequenceBatching"
    assert f"! {place}/awaited.mar/model-config.yaml:3: sequenceBatching: changes answers: {refusal}" in told
    assert any(line.startswith(f"- {place}/none.mar/model-config.yaml:1: maxNumSequence: no effect") for line in told)
    assert list(versions(migration)) == ["none:1.0", "steps:1.0"]


def test_an_archive_that_the_snapshot_names_and_that_is_not_there(tmp_path):
    models = {name: {"1.0": {"marName": f"{name}.mar", "minWorkers": 1, "maxWorkers": 1}} for name in ("here", "gone")}
    installation = Folder(tmp_path, archives={"here.mar": mar("here")}, snapshot={"models": models})
    migration = installation.migrate()
    assert list(versions(migration)) == ["here:1.0"]
    place = f"{installation.snapshot}:1: model_snapshot.models.gone.1.0.marName"
    assert lines_of(migration, "!") == [f"! {place}: changes answers: {installation.store}/gone.mar is not there"]
    assert migration.changes_answers


def test_values_that_cannot_be_taken_change_an_answer(tmp_path):
    lines = (
        "job_queue_size=x",
        "keystore_type=JKS",
        "allowed_urls=(",
        "certificate_file=c.pem",
        "models={",
        "vmargs=",
        "nonsense=1",
    )
    installation = Folder(tmp_path, *lines, "load_models=m.mar,a b:c:d:e:f=m.mar", archives={"m.mar": mar("m")})
    migration = installation.migrate()
    told = {line.split(": ")[1]: line for line in lines_of(migration, "!")}
    assert "'x' is not allowed, allowed is a whole number from" in told["job_queue_size"]
    assert "allowed is one of PKCS12" in told["keystore_type"]
    assert "is no regular expression" in told["allowed_urls"]
    assert f"there is no file {installation.folder}/c.pem" in told["certificate_file"]
    assert "this is no JSON of models by name and version" in told["models"]
    assert f"- {installation.config}:6: vmargs: no effect: it has no value" not in lines_of(migration)
    assert f"- {installation.config}:7: nonsense: no effect: TorchServe has no such key" in lines_of(migration)
    assert list(versions(migration)) == ["m:1.0"]
    assert not {"job_queue_size", "keystore_type", "certificate_file"} & {line.key for line in migration.lines}


def test_models_from_elsewhere_are_allowed(tmp_path):
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "far.mar").write_bytes(mar("far"))
    loads = f"load_models={tmp_path}/apart/far.mar,away:3=https://models.example.org/away.mar,sub/near.mar"
    lines = (loads, "allowed_urls=https://other/.*", "default_workers_per_model=1")
    migration = Folder(tmp_path, *lines, archives={"near.mar": mar("near")}).migrate()
    assert versions(migration) == {
        "far:1.0": {"url": f"{tmp_path}/apart/far.mar", **WORKERS},
        "away:3": {"url": "https://models.example.org/away.mar", **WORKERS},
        "near:1.0": {"url": "near.mar", **WORKERS},
    }
    said = {line.key: line.value for line in migration.lines}
    assert (said["allowed_paths"], said["allowed_urls"]) == (f"{tmp_path}/apart", "https://models.example.org/away.mar")
    assert said["allowed_url_regexes"] == "https://other/.*"


def test_what_workflows_name_elsewhere_is_allowed(tmp_path):
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "far.mar").write_bytes(mar("far"))
    archives = {
        "a.war": war("a", "https://models.example.org/away.mar"),
        "b.war": war("b", f"{tmp_path}/apart/far.mar"),
        "c.war": war("c", f"{tmp_path}/apart/gone.mar"),
    }
    migration = Folder(tmp_path, "load_models=none", archives=archives).migrate()
    assert list(versions(migration)) == ["a:default", "b:default"]
    said = {line.key: line.value for line in migration.lines}
    assert (said["allowed_paths"], said["allowed_urls"]) == (f"{tmp_path}/apart", "https://models.example.org/away.mar")
    assert lines_of(migration, "!") == [
        f"! {tmp_path}/old/model-store/c.war: changes answers: {tmp_path}/apart/gone.mar is not there, which it names"
    ]


def test_archives_with_blanks_in_their_names_and_large_ones(tmp_path):
    said = {"marName": "my model.mar", "minWorkers": 1, "maxWorkers": 1}
    installation = Folder(tmp_path, archives={"my model.mar": mar("m")}, snapshot={"models": {"m": {"1.0": said}}})
    with (installation.store / "large.mar").open("wb") as file:
        file.truncate(3 * 2**30)
    migration = installation.migrate()
    assert versions(migration) == {"m:1.0": {"url": "my model.mar", **WORKERS}}
    sizes = {line.key: line.value for line in migration.lines if line.key.endswith("size_bytes")}
    assert sizes == {"max_archive_size_bytes": str(3 * 2**30), "max_unpacked_size_bytes": str(12 * 2**30)}


def test_stores_that_were_elsewhere_are_looked_for_by_name(tmp_path):
    lines = ("model_store=/home/model-server/model-store", "workflow_store=/home/model-server/wf-store", "load_models=m.mar")
    installation = Folder(tmp_path, *lines, archives={"m.mar": mar("m")})
    workflows = installation.folder / "wf-store"
    assert "no workflows are looked for in it" in installation.migrate().notes[1]
    workflows.mkdir()
    (workflows / "f.war").write_bytes(war("f", "m.mar"))
    migration = installation.migrate()
    said = {line.key: line.value for line in migration.lines}
    assert (said["model_store"], said["workflow_store"]) == (str(installation.store), str(workflows))
    assert versions(migration)["f:default"] == {"url": f"{workflows}/f.war"}
    assert [note.partition(": there is no folder")[0] for note in migration.notes] == [
        f"{installation.config}:1: model_store",
        f"{installation.config}:2: workflow_store",
    ]


def test_the_environment_counts_where_the_original_reads_it(tmp_path):
    installation = Folder(tmp_path, "enable_envvars_config=true", "job_queue_size=2", archives={"m.mar": mar("m")})
    env = {"TS_JOB_QUEUE_SIZE": "7", "TS_PLUGINS_PATH": "/p"}
    migration = installation.migrate(env)
    assert ("7", "TS_JOB_QUEUE_SIZE") in {(line.value, line.source) for line in migration.lines}
    assert "= TS_JOB_QUEUE_SIZE -> setting job_queue_size" in lines_of(migration)
    assert "! TS_PLUGINS_PATH: changes answers: Java plugins cannot be loaded" in lines_of(migration)
    assert f"- {installation.config}:2: job_queue_size: no effect: TS_JOB_QUEUE_SIZE counts" in lines_of(migration)


def test_an_installation_that_is_open_stays_open_and_says_so(tmp_path):
    lines = ("inference_address=http://0.0.0.0:8083", "disable_token_authorization=true")
    migration = Folder(tmp_path, *lines, archives={"m.mar": mar("m")}).migrate()
    said = {line.key: line.value for line in migration.lines}
    assert (said["insecure"], said["port"], migration.url) == ("true", "8084", "http://127.0.0.1:8084")
    assert any("can be reached from other machines" in note for note in migration.notes)
    kept = Folder(tmp_path / "b", lines[0], archives={"m.mar": mar("m")}).migrate()
    assert "insecure" not in {line.key for line in kept.lines}


def test_keys_and_variables_of_djl_serving(tmp_path):
    model = tmp_path / "models" / "m"
    model.mkdir(parents=True)
    (tmp_path / "models" / "empty").mkdir()
    (model / "m.onnx").write_bytes(linear_onnx([[2.0]]))
    (tmp_path / "conf").mkdir()
    config = tmp_path / "conf" / "config.properties"
    config.write_text("job_queue_size=2\nbatch_size=4\nplugin_folder=plugins\nWEB_ROOT=/www\nmine=1\nio_ratio=\n")
    env = {
        "SERVING_JOB_QUEUE_SIZE": "7",
        "SERVING_FEATURES": "vllm",
        "SERVING_JOB_QUEUE": "1",
        "SAGEMAKER_NUM_MODEL_WORKERS": "2",
    }
    migration = migrate(find(tmp_path, env), env)
    assert lines_of(migration) == [
        f"- {config}:1: job_queue_size: no effect: SERVING_JOB_QUEUE_SIZE counts",
        f"= {config}:2: batch_size -> setting batch_size",
        f"- {config}:3: plugin_folder: no effect: Java plugins cannot be loaded",
        f"! {config}:4: WEB_ROOT: changes answers: no static files are served",
        f"- {config}:5: mine: no effect: DJL Serving has no such key",
        f"- {config}:6: io_ratio: no effect: it has no value",
        "= SAGEMAKER_NUM_MODEL_WORKERS -> setting min_workers",
        "= SAGEMAKER_NUM_MODEL_WORKERS -> setting max_workers",
        "- SERVING_FEATURES: no effect: nothing here looks at it",
        "- SERVING_JOB_QUEUE: no effect: DJL Serving has no such key",
        "= SERVING_JOB_QUEUE_SIZE -> setting job_queue_size",
    ]
    assert versions(migration) == {"m:default": {"url": "m"}}
    assert migration.notes == (f"{tmp_path}/models/empty is not loaded: the folder is empty",)
    assert set(djl_config.CHANGES_ANSWERS) <= set(djl_config.WITHOUT_EFFECT)


@pytest.mark.parametrize(
    ("files", "product"),
    [
        ({"config.properties": b"job_queue_size=1\n", "model-store/m.mar": mar("m")}, "torchserve"),
        ({"config.properties": b"job_queue_size=1\n", "model-store/m.mar": mar("m", archiver=False)}, "mms"),
        ({"config.properties": b"preload_model=true\n"}, "mms"),
        ({"config.properties": b"number_of_gpu=1\n"}, "torchserve"),
        ({"config/config.properties": b"number_of_gpu=1\n"}, "torchserve"),
        ({"config.properties": b"error_rate_any=1\n"}, "djl"),
        ({"conf/config.properties": b"number_of_gpu=1\n"}, "djl"),
        ({"logs/config/1.cfg": b""}, "torchserve"),
        ({"model-store/m.mar": mar("m")}, "torchserve"),
        ({"models/m/serving.properties": b""}, "djl"),
        ({"models/m.zip": b""}, "djl"),
    ],
)
def test_whose_installation_it_is(tmp_path, files, product):
    for name, content in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert find(tmp_path, {}).product == product
    assert find(tmp_path, {}, product="djl").product == "djl"


def broken(folder: Path, lines: str = "", snapshot: str = "") -> Path:
    installation = Folder(folder, archives={"m.mar": mar("m")}, snapshot=snapshot or None)
    installation.config.write_text(lines)
    return installation.folder


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda folder: folder / "nowhere", {}, "nowhere: no such folder"),
        (lambda folder: folder, {}, "neither an installation of TorchServe or MMS"),
        (broken, {"config": Path("nowhere")}, "--config nowhere: no such file"),
        (lambda folder: broken(folder, "a=1\nb=\\u00\n"), {}, "config.properties:2: \\u needs four hexadecimal digits"),
        (lambda folder: broken(folder, "model_store=$$HERE$$\n"), {}, "config.properties:1: Invalid Environment Variable HERE"),
        (
            lambda folder: broken(folder, "model_store=/none\\u0020\n"),
            {},
            "config.properties:1: model_store: there is no folder /none",
        ),
        (lambda folder: broken(folder, snapshot="{"), {}, "shutdown.cfg:1: model_snapshot: this is no snapshot of TorchServe"),
        (lambda folder: broken(folder, snapshot="[1]"), {}, "this is no snapshot of TorchServe"),
        (lambda folder: broken(folder, snapshot='{"models": {"m": {"1.0": {}}}}'), {}, "this is no snapshot of TorchServe"),
        (
            broken,
            {"product": "djl", "config": None, "store": Path("none")},
            "--model-store none: no such folder",
        ),
    ],
)
def test_what_is_no_installation_is_refused(tmp_path, make, options, words):
    store = options.pop("store", None) if "store" in options else None
    with pytest.raises(InvalidRequestError) as refused:
        migrate(find(make(tmp_path), {}, **options), {}, store)
    assert words in refused.value.message
    assert "\n" not in refused.value.message


def test_the_store_that_is_named_counts_and_load_is_taken_too(tmp_path):
    installation = Folder(tmp_path, "model_store=/none", archives={"m.mar": mar("m")})
    migration = migrate(find(installation.folder, {}), {}, installation.store)
    assert lines_of(migration) == [
        "= --model-store -> setting model_store",
        f"- {installation.config}:1: model_store: no effect: --model-store counts",
    ]
    (tmp_path / "djl" / "models").mkdir(parents=True)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / "djl" / "models" / name).write_bytes(linear_onnx([[2.0]]))
    (tmp_path / "djl" / "config.properties").write_text("error_rate_any=1\nload=x:v1=a.onnx\n")
    assert list(versions(migrate(find(tmp_path / "djl", {}), {}))) == ["x:v1"]


def test_snapshots_can_be_left_out(tmp_path):
    migration = Folder(tmp_path, "load_models=m.mar", archives={"m.mar": mar("m")}, snapshot="{").migrate(snapshots=False)
    assert list(versions(migration)) == ["m:1.0"]


def test_what_is_written_is_what_apply_and_serve_read(tmp_path):
    lines = ("keystore_pass=  a\\\\b c", "cors_allowed_origin=https://a.example", "disable_token_authorization=true")
    installation = Folder(tmp_path, *lines, archives={"m.mar": mar("m"), "f.war": war("f", "m.mar")})
    migration = installation.migrate()
    out = tmp_path / "out"
    files = write(migration, out, force=False)
    assert [file.name for file in files] == ["f.yaml", "m.yaml", SETTINGS_FILE]
    assert tuple(wanted.document for wanted in read(out)) == migration.documents
    settings, warnings = load_settings(out / SETTINGS_FILE, {}, {})
    assert (settings.keystore_pass, settings.cors_allowed_origin, settings.load_models) == (
        "a\\b c",
        "https://a.example",
        ("NONE",),
    )
    assert (settings.model_store, settings.dialects, warnings) == (str(installation.store), ("torchserve",), ())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_folder_is_overwritten_only_when_told_and_never_mixed(tmp_path):
    migration = Folder(tmp_path, archives={"m.mar": mar("m")}).migrate()
    out = tmp_path / "out"
    write(migration, out, force=False)
    with pytest.raises(InvalidRequestError, match="is not empty; --force overwrites"):
        write(migration, out, force=False)
    write(migration, out, force=True)
    (out / "other.yaml").write_text("name: other")
    with pytest.raises(InvalidRequestError, match=r"other.yaml is in the way: `flowyard apply .*` would read it, too"):
        write(migration, out, force=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequestError, match="file is no folder"):
        write(migration, tmp_path / "file", force=True)
    with pytest.raises(InvalidRequestError, match="it cannot be written: Not a directory"):
        write(migration, tmp_path / "file" / "below", force=True)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_value_is_read_as_it_was_written(value):
    ((key, found),) = [(entry.key, entry.value) for entry in parse_properties(f"k={escaped(value)}")]
    assert (key, found) == ("k", value)


def test_the_file_of_metrics_is_where_the_installation_has_it(tmp_path):
    installation = Folder(tmp_path / "a", "metrics_config=metrics.yaml", archives={"m.mar": mar("m")})
    (installation.folder / "metrics.yaml").write_text("model_metrics:")
    (line,) = [line for line in installation.migrate().lines if line.key == "metrics_config"]
    assert line.value == str(installation.folder / "metrics.yaml")
    missing = Folder(tmp_path / "b", "metrics_config=metrics.yaml", archives={"m.mar": mar("m")})
    (lost,) = lines_of(missing.migrate(), "!")
    assert f"metrics_config: changes answers: there is no file {missing.folder}/metrics.yaml" in lost
