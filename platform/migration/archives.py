"""Looks into the archives of an installation, as a registration would, without executing anything of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import yaml

from flowyard.engines.torchserve import config as model_config
from flowyard.engines.torchserve import parallel
from flowyard.engines.torchserve.config import ModelConfig, load_yaml, read_config
from flowyard.engines.torchserve.folder import HANDLER, Manifest, find_manifest
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.names import infer_model_name
from flowyard.platform.archives.store import ArchiveStore, StoredArchive
from flowyard.platform.desired.documents import file_digest
from flowyard.platform.devices import discover
from flowyard.platform.migration.verdicts import Outcome, Verdict
from flowyard.platform.registry.checking import check_place
from flowyard.platform.registry.layout import WORKFLOW_FILES, find_workflow
from flowyard.platform.registry.places import outside_urls
from flowyard.platform.registry.planner import Planner
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import InvalidModelError, InvalidWorkflowError
from flowyard.schemas.models import ModelSpec
from flowyard.workflows.plan import single_model_plan

#: Runtime of handlers in C++.
_CPP = "lsp"
_GPU = "gpu"
#: Keys that are right or wrong together with others.
_CHECKED_WITH = {
    "sequenceBatching": ("sequenceMaxIdleMSec", "asyncCommunication"),
    **dict.fromkeys(parallel.KEYS, (*parallel.KEYS, "continuousBatching", "asyncCommunication")),
}


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """What is in an archive.

    Attributes:
        name: What it calls itself, else what its file is called.
        version: Its version, empty for none.
        sha256: Of the file, empty for a folder.
        is_workflow: Whether it is a workflow rather than one model.
        manifest: The manifest of TorchServe or MMS, `None` where it is no archive of theirs.
        config: Its `model-config.yaml`.
        outside: What a workflow names outside of its archive: URLs and paths.
    """

    name: str
    version: str = ""
    sha256: str = ""
    is_workflow: bool = False
    manifest: Manifest | None = None
    config: ModelConfig = ModelConfig()
    outside: tuple[str, ...] = ()


class Archives:
    """Looks into archives.

    Args:
        settings: Those of the new server.
    """

    def __init__(self, settings: Settings) -> None:
        self._limits = Limits.of(settings)
        self._store = Path(settings.model_store) if settings.model_store else None
        available = discover()
        self._planner = Planner(settings, available)
        self.gpus = sum(device.type == _GPU for device in available)

    def look(self, path: Path, said: Callable[[Archive], ModelSpec], verdicts: list[Verdict]) -> Archive:
        """Looks into an archive, model file or folder.

        Args:
            path: Where it is.
            said: What is said about serving it, once it is known what it is.
            verdicts: Gets what became of the keys of its `model-config.yaml`.

        Returns:
            What is in it.

        Raises:
            FlowyardError: A registration would refuse it.
            OSError: It cannot be read, or there is no room to unpack it.
        """
        folder = path.parent if path.name in WORKFLOW_FILES else path
        if folder.is_dir():
            return self._look(path, StoredArchive("", folder.resolve(), ""), "", said, verdicts)
        with tempfile.TemporaryDirectory(prefix="flowyard-migrate-") as scratch:
            stored = ArchiveStore(Path(scratch)).add_file(path, path.name, self._limits)
            return self._look(path, stored, file_digest(path), said, verdicts)

    def _look(
        self,
        path: Path,
        stored: StoredArchive,
        sha256: str,
        said: Callable[[Archive], ModelSpec],
        verdicts: list[Verdict],
    ) -> Archive:
        place = find_workflow(stored.folder)
        if place is not None:
            name = place.file.relative_to(stored.folder).as_posix()
            checked = check_place(
                place, stored.folder, f"{path}/{name}", name=_inferred(path), store=self._store, is_store_known=True
            )
            if checked.plan is None:
                raise InvalidWorkflowError(checked.problems)
            plan = checked.plan
            outside = tuple(outside_urls(plan, stored.folder))
            return Archive(name=plan.name, version=plan.version, sha256=sha256, is_workflow=True, outside=outside)
        found = find_manifest(stored.folder / stored.filename)
        config = ModelConfig()
        if found is not None:
            config = _config(path, *found, verdicts)
        manifest = found[1] if found is not None else None
        name = (manifest.name if manifest is not None else "") or _inferred(path)
        version = manifest.version if manifest is not None else ""
        archive = Archive(name=name, version=version, sha256=sha256, manifest=manifest, config=config)
        self._check(archive, stored, said(archive))
        return archive

    def _check(self, archive: Archive, stored: StoredArchive, spec: ModelSpec) -> None:
        """Refuses what a registration would refuse, or could only fail in a worker."""
        manifest = archive.manifest
        if manifest is not None:
            if manifest.runtime == _CPP:
                raise InvalidModelError("handlers in C++ are not supported (runtime LSP)")
            if not (manifest.handler or spec.options.get(HANDLER)):
                raise InvalidModelError("it names no handler")
        spec = msgspec.structs.replace(spec, url=stored.filename or ".")
        plan = single_model_plan(archive.name, spec)
        self._planner.pool_specs(archive.name, plan, stored.folder, spec, {})


def _inferred(path: Path) -> str:
    return infer_model_name(path.name)


def _config(path: Path, folder: Path, manifest: Manifest, verdicts: list[Verdict]) -> ModelConfig:
    """The `model-config.yaml` of an archive, with a verdict on each key that is TorchServe's own."""
    config = read_config(folder, manifest.config_file)
    if not manifest.config_file:
        return config
    file = folder / manifest.config_file
    lines = _lines(file)
    for key, value in load_yaml(file).items():
        if key in model_config.KEYS:
            outcome, text = _outcome(config, key, value)
            place = f"{path}/{manifest.config_file}"
            verdicts.append(Verdict(file=place, line=lines.get(key, 0), key=key, outcome=outcome, text=text))
    return config


def _outcome(config: ModelConfig, key: str, value: object) -> tuple[Outcome, str]:
    if key not in config.settings:
        return "no effect", "TorchServe passes over this value, too"
    with_it = _CHECKED_WITH.get(key, ())
    try:
        ModelConfig(config.file, {key: value} | {one: config.settings[one] for one in with_it if one in config.settings}).check()
    except InvalidModelError as error:
        return "changes answers", error.message.removeprefix(f"{config.file}: ")
    if key in model_config.OF_SEQUENCES and not config.has_sequences:
        return "no effect", "it is about sequences of requests, and there are none without sequenceBatching"
    if key in parallel.KEYS and not config.parallel.kind:
        return "no effect", f"without {parallel.TYPE} one process serves the model, as in TorchServe"
    if key == parallel.TORCHRUN and (idle := sorted(parallel.WITHOUT_EFFECT & config.settings[key].keys())):
        return "carried", f"the archive, where it is read as before; {', '.join(idle)}: the server starts the processes itself"
    if key in model_config.WITHOUT_EFFECT:
        return "no effect", model_config.WITHOUT_EFFECT[key]
    return "carried", "documents" if key in model_config.NUMBERS else "the archive, where it is read as before"


def _lines(file: Path) -> Mapping[str, int]:
    """The lines of the keys of a YAML file; none of one that cannot be read."""
    try:
        root = yaml.compose(file.read_bytes(), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    entries = root.value if isinstance(root, yaml.MappingNode) else []
    return {str(key.value): int(key.start_mark.line) + 1 for key, _ in entries}
