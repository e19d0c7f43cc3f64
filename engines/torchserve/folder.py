"""What an archive of TorchServe or Multi Model Server says about itself: manifest and configuration. Nothing is executed here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from flowyard.engines import discovery
from flowyard.engines.torchserve.config import ModelConfig, read_config
from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.ranks import Ranks

MANIFEST = "MAR-INF/MANIFEST.json"
#: Where MMS 0.x has it.
LEGACY_MANIFEST = "MANIFEST.json"
MAX_MANIFEST_BYTES = 1 << 20
RUNTIMES = ("python", "python2", "python3", "lsp")
#: Milliseconds that both servers wait for company where nobody says.
BATCH_DELAY_MS = 100
#: What the registration may say in `options`, over what the archive says.
HANDLER, RUNTIME, ENVELOPE, DECODE, STARTUP = (
    "handler",
    "runtime",
    "service_envelope",
    "decode_input_request",
    "startup_timeout",
)
#: The handler of what names none, where the server has one (TorchServe reference §5.1, `default_service_handler`).
DEFAULT_HANDLER = "default_service_handler"
#: Where the server finds the name of the file of what is to be installed, and TorchServe's keys of `model-config.yaml` as JSON.
REQUIREMENTS, CONFIG = "requirements_file", "model_config"
#: What workers are told of the metrics that the server knows of handlers: JSON, a list of name, unit, dimensions and kind.
MODEL_METRICS = "model_metrics"
#: The context's names of the headers that tell of sequences, under which workers are told which these are.
SEQUENCE_HEADERS = ("header_key_sequence_id", "header_key_sequence_start", "header_key_sequence_end")
ENVELOPES = ("body", "json", "kserve", "kservev2")

# What the servers say of a bad archive; our messages begin with it and tell in parentheses what is wrong where.
NO_JSON = "Failed to parse signature.json."
NO_HANDLER = "Model handler is not defined."
BAD_RUNTIME = "Runtime is not defined or invalid."
BAD_TYPE = "Model name is not defined."
NO_ENGINE = "engineName is required in <engine>."

#: What only TorchServe's manifests have; those of MMS 1.0 have the other keys of the early TorchServe as well.
_TORCHSERVE_KEYS = ("archiverVersion", "createdOn")
_TORCHSERVE_MODEL_KEYS = ("serializedFile", "modelFile", "requirementsFile", "configFile", "envelope", "sourceVocab")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of a manifest; all else reaches the handler.

    Attributes:
        handlers: Whose it is.
        file: Its path in the archive, empty where there is none.
        name: What the archive calls the model.
        version: Its version; `snapshot` for MMS 0.x, which has none.
        handler: `module`, `module:function`, `file.py`, `file.py:function`, or the name of a default handler.
        runtime: In lower case.
        config_file: The model's `model-config.yaml`.
        requirements_file: What the handler wants installed.
        engine: The engine that MMS names.
        envelope: The `service_envelope` that old manifests of TorchServe name.
    """

    handlers: Literal["torchserve", "mms"] = "torchserve"
    file: str = ""
    name: str = ""
    version: str = ""
    handler: str = ""
    runtime: str = "python"
    config_file: str = ""
    requirements_file: str = ""
    engine: str = ""
    envelope: str = ""

    @property
    def is_legacy(self) -> bool:
        """Whether it is one of MMS 0.x."""
        return self.file == LEGACY_MANIFEST


class ArchivedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of TorchServe's or MMS's kind.

    Attributes:
        folder: Where its files are.
        manifest: Its manifest.
        config: Its `model-config.yaml`.
        options: What the registration says over both.
        gpus: How many GPUs there are.
    """

    folder: Path
    manifest: Manifest
    config: ModelConfig = ModelConfig()
    options: Mapping[str, str] = {}
    gpus: int = 0

    @property
    def handlers(self) -> Literal["torchserve", "mms"]:
        """Whose handlers it has."""
        return self.manifest.handlers

    @property
    def handler(self) -> str:
        """What the registration or the manifest names, else the server; empty for none of them."""
        return self.options.get(HANDLER) or self.manifest.handler or self.options.get(DEFAULT_HANDLER, "")

    @property
    def is_asynchronous(self) -> bool:
        """Whether a worker computes requests side by side, and answers each when it is done."""
        return self.config.is_continuous or self.config.is_asynchronous

    def concurrency(self, batch_size: int) -> int:
        """Most requests that one of its workers computes side by side; 1 where it takes batches.

        Args:
            batch_size: What it is registered with.
        """
        return self.config.concurrency(batch_size)

    @property
    def ranks(self) -> Ranks | None:
        """How a worker is made of processes; `None` where it is one like any other."""
        return self.config.parallel.ranks

    @property
    def parameters(self) -> dict[str, str]:
        """What the worker is told."""
        return {
            HANDLER: self.handler,
            RUNTIME: self.options.get(RUNTIME, self.manifest.runtime).lower(),
            "manifest": self.manifest.file,
            "config_file": self.config.file,
            CONFIG: self.config.as_json(),
            REQUIREMENTS: self.manifest.requirements_file,
            ENVELOPE: self.options.get(ENVELOPE, self.manifest.envelope),
            DECODE: self.options.get(DECODE, "true"),
        } | ({"engine": self.manifest.engine} if self.manifest.engine else {})

    def spec(self, device_type: str = "cpu") -> ModelSpec:
        """What the archive says about serving the model; batches are filled, as these servers do it.

        Args:
            device_type: Where it runs; here it makes no difference.
        """
        del device_type
        spec = self.config.spec()
        delay = BATCH_DELAY_MS if spec.max_batch_delay is None else spec.max_batch_delay
        return msgspec.structs.replace(spec, batching="fill", max_batch_delay=delay, device=self.config.device(self.gpus))

    def loading_timeout_s(self) -> float | None:
        """How long loading may take, where the registration or the archive says so.

        Raises:
            InvalidModelError: The value is no number of seconds.
        """
        text = self.options.get(STARTUP)
        if text is None:
            return self.config.startup_timeout_s
        try:
            return max(float(text), 0.001)
        except ValueError:
            raise InvalidModelError(f"option {STARTUP}: {text[:50]!r} is no number of seconds") from None


def recognise(path: Path, options: Mapping[str, str] | None = None, gpus: int = 0) -> ArchivedModel | None:
    """Finds out whether a path is a model of TorchServe's or MMS's kind.

    Args:
        path: A folder.
        options: What the registration says: `handler`, or that of the server, makes a model of a folder without a manifest.
        gpus: How many GPUs there are.

    Returns:
        The model; `None` where there is no manifest, and no handler is named.

    Raises:
        InvalidModelError: The manifest is none, or asks for something that is not supported; where these servers refuse it too,
            the message begins with their words.
    """
    given = options or {}
    found = find_manifest(path)
    # A single file that is no Python is a model of another engine, whatever the server's handler.
    may_default = DEFAULT_HANDLER in given and (path.is_dir() or path.suffix == ".py")
    if found is None and HANDLER not in given and not may_default:
        return None
    folder, manifest = found or (discovery.descend(path) if path.is_dir() else path.parent, Manifest())
    _check_options(given)
    if manifest.handlers == "mms" and not (manifest.handler or given.get(HANDLER) or given.get(DEFAULT_HANDLER)):
        raise InvalidModelError(f"{NO_HANDLER} ({manifest.file} has no model.handler)")
    config = read_config(folder, manifest.config_file)
    config.check(given.get(ENVELOPE, manifest.envelope))
    return ArchivedModel(folder=folder, manifest=manifest, config=config, options=given, gpus=gpus)


def find_manifest(path: Path) -> tuple[Path, Manifest] | None:
    """Reads the manifest of an archive.

    Args:
        path: A folder; one whose only entry is a folder stands for that one.

    Returns:
        The folder that the manifest is in, and the manifest; `None` where there is none.

    Raises:
        InvalidModelError: It is no manifest.
    """
    if not path.is_dir():
        return None
    deepest = discovery.descend(path)
    for folder in (path, *reversed([deepest, *deepest.parents][: len(deepest.parts) - len(path.parts)])):
        if (folder / MANIFEST).is_file():
            return folder, _manifest(_read(folder / MANIFEST, MANIFEST))
        if (folder / LEGACY_MANIFEST).is_file():
            legacy = _legacy(_read(folder / LEGACY_MANIFEST, LEGACY_MANIFEST))
            if legacy is not None:
                return folder, legacy
    return None


def _read(file: Path, shown: str) -> dict[str, Any]:
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise InvalidModelError(f"{shown} has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidModelError(f"{NO_JSON} ({shown}: {error})") from None
    if not isinstance(manifest, dict):
        raise InvalidModelError(f"{NO_JSON} ({shown} is no JSON object)")
    return manifest


def _manifest(given: dict[str, Any]) -> Manifest:
    model = given.get("model", {})
    if not isinstance(model, dict):
        raise InvalidModelError(f"{BAD_TYPE} ({MANIFEST}: model is no JSON object)")
    engine = given.get("engine")
    if isinstance(engine, dict) and not _text(engine, "engineName"):
        raise InvalidModelError(f"{NO_ENGINE} ({MANIFEST})")
    return Manifest(
        handlers="torchserve" if is_of_torchserve(given) else "mms",
        file=MANIFEST,
        name=_text(model, "modelName"),
        version=_text(model, "modelVersion") or "1.0",
        handler=_text(model, "handler"),
        runtime=_runtime(given),
        config_file=_text(model, "configFile"),
        requirements_file=_text(model, "requirementsFile"),
        envelope=_envelope(_text(model, "envelope"), MANIFEST),
        engine=_text(engine, "engineName") if isinstance(engine, dict) else "",
    )


def is_of_torchserve(given: Mapping[str, Any]) -> bool:
    """Whether a manifest is TorchServe's; else it is one of MMS."""
    model = given.get("model")
    model = model if isinstance(model, dict) else {}
    if any(key in given for key in _TORCHSERVE_KEYS) or any(key in model for key in _TORCHSERVE_MODEL_KEYS):
        return True
    return not any(key in given for key in ("specificationVersion", "modelServerVersion", "implementationVersion", "engine"))


def _legacy(given: dict[str, Any]) -> Manifest | None:
    """A manifest of MMS 0.x; `None` for any other file of that name."""
    model = given.get("Model")
    if not isinstance(model, dict) or "Service" not in model:
        return None
    return Manifest(
        handlers="mms",
        file=LEGACY_MANIFEST,
        name=_text(model, "Model-Name"),
        version="snapshot",
        handler=_text(model, "Service"),
        engine=next(iter(given["Engine"]), "") if isinstance(given.get("Engine"), dict) else "",
    )


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InvalidModelError(f"{BAD_TYPE} ({MANIFEST}: {key} is no text)")


def _runtime(given: Mapping[str, Any]) -> str:
    runtime = given.get("runtime", "python")
    if not isinstance(runtime, str) or runtime.lower() not in RUNTIMES:
        raise InvalidModelError(
            f"{BAD_RUNTIME} ({MANIFEST}: runtime is {str(runtime)[:50]!r}, known are python, python3 and LSP)"
        )
    return runtime.lower()


def _check_options(options: Mapping[str, str]) -> None:
    runtime = options.get(RUNTIME)
    if runtime is not None and runtime.lower() not in RUNTIMES:
        raise InvalidModelError(f"option {RUNTIME}: {runtime[:50]!r}; known are python, python3 and LSP")


def _envelope(name: str, place: str) -> str:
    if name and name not in ENVELOPES:
        raise InvalidModelError(f"{place}: there is no envelope {name[:50]!r}; known are {', '.join(ENVELOPES)}")
    return name
