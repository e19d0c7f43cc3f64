"""Files that people write and archives bring along, as targets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from flowyard.engines.djl import folder as djl
from flowyard.engines.djl.pretrained import check_pretrained
from flowyard.engines.djl.translators.registry import check_translator
from flowyard.engines.torchserve import folder as torchserve
from flowyard.platform import torchserve_config, torchserve_snapshots
from flowyard.platform.inspection import inspect
from flowyard.platform.registry.layout import find_workflow
from flowyard.platform.settings import load_settings, settings_of
from flowyard.schemas.errors import FlowyardError
from fuzz.scratch import SCRATCH


def models(data: bytes) -> None:
    """What says in an archive how its models are to be served: each file in a folder of a model whose other files are right."""
    files = sorted(MODELS)
    if not data:
        return
    fuzzed = files[data[0] % len(files)]
    folder = SCRATCH / "models" / fuzzed.replace("/", "-")
    for name, text in MODELS[fuzzed].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    (folder / fuzzed).parent.mkdir(parents=True, exist_ok=True)
    (folder / fuzzed).write_bytes(data[1:])
    for describe in (_served, find_workflow, inspect):
        with contextlib.suppress(FlowyardError):
            describe(folder)


def _served(folder: Path) -> None:
    """How the planner and the compiler read a model's folder."""
    archived = torchserve.recognise(folder)
    if archived is not None:
        archived.spec()
        archived.loading_timeout_s()
        archived.parameters  # noqa: B018
        return
    found = djl.recognise(folder)
    if found is not None:
        found.spec()
        found.loading_timeout_s()
        if found.engine == "Python":
            check_pretrained(folder, found.properties, Path)
        else:
            check_translator(folder, found.properties, {})


_MANIFEST = b"""{"createdOn": "01/01/2026 00:00:00", "runtime": "python", "archiverVersion": "0.12.0", "model": {
 "modelName": "m", "modelVersion": "1.0", "handler": "handler.py", "serializedFile": "m.pt",
 "configFile": "model-config.yaml"}}"""
_LEGACY = b"""{"specificationVersion": "1.0", "implementationVersion": "1.0", "modelServerVersion": "1.0",
 "engine": {"engineName": "MXNet"}, "model": {"handler": "service.py:handle", "modelName": "m", "description": ""}}"""
_WAR = b"""{"archiverVersion": "0.2.4", "createdOn": "01/01/2026 00:00:00",
 "workflow": {"workflowName": "w", "specFile": "w.yaml", "handler": "h.py"}}"""
_CONFIG = b"""minWorkers: 1
maxWorkers: 2
batchSize: 4
maxBatchDelay: 100
responseTimeout: 120
deviceType: gpu
deviceIds: [0, 1]
parallelType: pp
torchrun: {nproc-per-node: 2}
handler: {model_path: x}
"""
_HANDLER = b"def handle(data, context):\n    return data\n"
#: By the file that is fuzzed: what else is in its folder.
MODELS: dict[str, dict[str, bytes]] = {
    "MAR-INF/MANIFEST.json": {"handler.py": _HANDLER, "m.pt": b"", "model-config.yaml": _CONFIG},
    "MANIFEST.json": {"service.py": _HANDLER},
    "WAR-INF/MANIFEST.json": {"w.yaml": b"models: {m: {url: a.mar}}\ndag: {m: [n]}\n", "h.py": _HANDLER},
    "model-config.yaml": {"MAR-INF/MANIFEST.json": _MANIFEST, "handler.py": _HANDLER, "m.pt": b""},
    "serving.properties": {"model.onnx": b"", "synset.txt": b"cat\n", "tokenizer.json": b"{}"},
    "config.json": {"serving.properties": b"engine=Python\noption.model_id=.\n", "model.safetensors": b""},
    "model.py": {"serving.properties": b"engine=Python\n"},
}


def model_seeds() -> Iterator[bytes]:
    """One of each file."""
    seeds = {
        "MAR-INF/MANIFEST.json": _MANIFEST,
        "MANIFEST.json": _LEGACY,
        "WAR-INF/MANIFEST.json": _WAR,
        "model-config.yaml": _CONFIG,
        "serving.properties": b"engine=OnnxRuntime\noption.modelName=model\napplication=cv/image_classification\n"
        b"translatorFactory=ai.djl.modality.cv.translator.ImageClassificationTranslatorFactory\nwidth=224\nresize=true\n"
        b"topK=5\nbatch_size=8\nmax_batch_delay=100\nminWorkers=1\nload_on_devices=0;1\nmodel_loading_timeout=30\n",
        "config.json": b'{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"0": "a"}}',
        "model.py": b"from djl_python import Input, Output\ndef handle(inputs: Input) -> Output:\n    return Output()\n",
    }
    for number, name in enumerate(sorted(MODELS)):
        yield bytes([number]) + seeds[name]


def configurations(data: bytes) -> None:
    """What an operator says: settings as YAML and as DJL's `config.properties`, TorchServe's and MMS's, with snapshots."""
    folder = SCRATCH / "files"
    folder.mkdir(exist_ok=True)
    for name in ("flowyard.yaml", "config.properties"):
        (folder / name).write_bytes(data)
        with contextlib.suppress(FlowyardError):
            load_settings(folder / name, {}, {})
    for dialect in DIALECTS:
        with contextlib.suppress(FlowyardError):
            said = torchserve_config.read_config(dialect, folder / "config.properties", {"X": "y"})
            settings, _ = settings_of([*said.given, *said.from_env], {})
            torchserve_snapshots.model_defaults(settings.models)


DIALECTS: tuple[Literal["torchserve", "mms"], ...] = ("torchserve", "mms")


def configuration_seeds() -> Iterator[bytes]:
    """One of each kind."""
    yield b"port: 8080\nmodel_store: /models\nload: [a=b.pt]\nallowed_urls: https://a.example\nmax_request_size: 100\n"
    yield b"inference_address=http://0.0.0.0:8080\nload_models=m::Python:*=file:/m.zip\njob_queue_size=10\nmodel_store=/m\n"
    yield (
        b"inference_address=http://127.0.0.1:8080\nmodel_store=$$X$$\ndefault_response_timeout=120\nmetrics_mode=prometheus\n"
        b'models={"m":{"1.0":{"defaultVersion":true,"marName":"m.mar","minWorkers":1,"maxWorkers":2,"batchSize":4}}}\n'
        b"enable_envvars_config=true\nunregister_model_timeout=0\n"
    )
    yield b'model_snapshot={"name":"startup","modelCount":1,"models":{"m":{"1.0":{"defaultVersion":true,"marName":"m.mar"}}}}\n'
