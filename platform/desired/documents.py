"""The files of `flowyard apply`: YAML documents, one for each name."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from flowyard.platform.archives.names import NAME_PATTERN, VERSION_PATTERN
from flowyard.platform.client.answers import NameState, VersionState
from flowyard.platform.registry.traffic import DEFAULT, MAX_WEIGHT
from flowyard.schemas.adapters import AdapterSpec
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.models import (
    HANDLER_OPTIONS,
    BatchSize,
    DelayMs,
    Envelope,
    IdleS,
    QueueSize,
    TimeoutS,
    Workers,
    handler_options,
)

Name = Annotated[str, Meta(pattern=f"^{NAME_PATTERN}$")]
Version = Annotated[str, Meta(pattern=f"^{VERSION_PATTERN}$")]
Weight = Annotated[int, Meta(ge=0, le=MAX_WEIGHT)]
Sha256 = Annotated[str, Meta(pattern="^[0-9A-Fa-f]{64}$")]
Numbers = dict[str, dict[str, tuple[Workers, Workers]]]

SUFFIXES = (".yaml", ".yml")
MAX_FILE_BYTES = 2**20
#: Parameters of a registration that have the same name in a document; others of a model are its own business.
PARAMETERS = (
    "engine",
    "device",
    "batch_size",
    "max_batch_delay",
    "batching",
    "job_queue_size",
    "max_idle_time",
    "timeout",
    "trusted",
)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class VersionDocument(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One version that is wanted: where it comes from, and the parameters of its registration.

    Attributes:
        version: Its version, `default` for the one without.
        url: Where the server finds it; either this or `file`.
        file: Where it is here, relative to the document: a file that is uploaded.
        sha256: What the digest of the file has to be.
        min_worker: Least workers per device, of every model; not said: as they are.
        max_worker: The same, at most.
        workers: Minimum and maximum by model and device, where they differ.
        adapters: All adapters of a model, by its local name; of a model that is not said: as they are.
        handler: Handler of an archive of TorchServe or MMS, and further options of its registration.
    """

    version: Version = DEFAULT
    url: str = ""
    file: str = ""
    sha256: Sha256 | None = None
    engine: str | None = None
    device: str | None = None
    batch_size: BatchSize | None = None
    max_batch_delay: DelayMs | None = None
    batching: Literal["eager", "fill"] | None = None
    min_worker: Workers | None = None
    max_worker: Workers | None = None
    workers: Numbers = {}
    adapters: dict[str, tuple[AdapterSpec, ...]] = {}
    job_queue_size: QueueSize | None = None
    max_idle_time: IdleS | None = None
    timeout: TimeoutS | None = None
    trusted: bool = False
    handler: str | None = None
    service_envelope: Envelope | None = None
    decode_input_request: bool | None = None
    startup_timeout: TimeoutS | None = None

    @property
    def exact(self) -> str:
        """The version as the server has it: empty for the one without."""
        return "" if self.version == DEFAULT else self.version

    def parameters(self) -> dict[str, object]:
        """What is said about its registration, without workers."""
        return {name: value for name in PARAMETERS if (value := getattr(self, name)) not in (None, False)}

    def options(self) -> dict[str, str]:
        """What is said to its handler."""
        return handler_options(self)


class NameDocument(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One name that is wanted, with all its versions.

    Attributes:
        name: The model or workflow.
        versions: All its versions.
        weights: Shares by version; none: the default version answers, or they take turns.
        default: The version that answers; none: no choice.
        shadows: Versions that get copies of requests.
    """

    name: Name
    versions: Annotated[tuple[VersionDocument, ...], Meta(min_length=1)]
    weights: dict[str, Weight] = {}
    default: str | None = None
    shadows: tuple[str, ...] = ()


class Wanted(msgspec.Struct, frozen=True):
    """A document, and where it is.

    Attributes:
        document: What is wanted.
        place: `FILE, document N`, for messages.
        folder: What `file` is relative to.
    """

    document: NameDocument
    place: str
    folder: Path

    def path(self, version: VersionDocument) -> Path:
        """The file of a version that is uploaded."""
        return self.folder / version.file


def read(path: Path) -> list[Wanted]:
    """Reads a file, or all YAML files of a folder and the folders in it.

    Args:
        path: The file or folder.

    Returns:
        What is wanted, in the order of the files' names.

    Raises:
        InvalidRequestError: There is nothing, or something that is no such document; the message names file, document and key.
    """
    if not path.exists():
        raise InvalidRequestError(f"{path}: no such file or folder")
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file() and not _is_hidden(file, path)
        )
    else:
        files = [path]
    wanted = [item for file in files for item in _read_file(file)]
    if path.is_dir() and not files:
        raise InvalidRequestError(f"{path}: no file with a name that ends in {' or '.join(SUFFIXES)} is in this folder")
    _check_once(wanted)
    return wanted


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _read_file(file: Path) -> Iterable[Wanted]:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{file}: it cannot be read: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise InvalidRequestError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
    try:
        # Aliases would be a way to blow up what is read.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise InvalidRequestError(f"{file}: aliases (*name) are not allowed here")
        documents = list(yaml.load_all(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{file}: no YAML: {' '.join(str(error).split())}") from None
    for number, document in enumerate(documents, 1):
        if document is not None:
            yield Wanted(_document(document, f"{file}, document {number}"), f"{file}, document {number}", file.parent)


def _document(given: Any, place: str) -> NameDocument:
    try:
        document = msgspec.convert(given, NameDocument)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{place}: {error}") from None
    versions = [version.version for version in document.versions]
    twice = next((version for version in versions if versions.count(version) > 1), None)
    if twice is not None:
        raise InvalidRequestError(f"{place}: version {twice} is listed twice")
    for version in document.versions:
        if bool(version.url) == bool(version.file):
            raise InvalidRequestError(f"{place}: version {version.version} needs either url or file")
        if version.workers and (version.min_worker is not None or version.max_worker is not None):
            raise InvalidRequestError(
                f"{place}: version {version.version} has workers and min_worker or max_worker; one is enough"
            )
        for model, adapters in version.adapters.items():
            (name, times), *_ = Counter(adapter.name for adapter in adapters).most_common(1) or [("", 0)]
            if times > 1:
                raise InvalidRequestError(f"{place}: version {version.version}: adapter {name} of {model} is listed twice")
    said = {"weights": document.weights, "default": filter(None, [document.default]), "shadows": document.shadows}
    for key, named in said.items():
        unknown = next((version for version in named if version not in versions), None)
        if unknown is not None:
            raise InvalidRequestError(f"{place}: {key}: no version {unknown} is listed, only {', '.join(versions)}")
    if document.weights and not any(document.weights.values()):
        raise InvalidRequestError(f"{place}: weights: one of them must be above 0")
    return document


def _check_once(wanted: Sequence[Wanted]) -> None:
    seen: dict[str, str] = {}
    for item in wanted:
        name = item.document.name
        if name in seen:
            raise InvalidRequestError(f"{item.place}: {name} is in {seen[name]} already")
        seen[name] = item.place


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        InvalidRequestError: There is no such file, or it is a folder.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except IsADirectoryError:
        raise InvalidRequestError(f"{path} is a folder; a document takes a file: an archive, or a model file") from None
    except OSError as error:
        raise InvalidRequestError(f"{path}: it cannot be read: {error.strerror}") from None


def exported(state: NameState) -> NameDocument:
    """The document that says what is registered.

    Args:
        state: What the server says.
    """
    return NameDocument(
        name=state.name,
        versions=tuple(_exported_version(version) for version in state.versions),
        weights=dict(state.weights),
        default=state.default,
        shadows=tuple(state.shadows),
    )


def _exported_version(state: VersionState) -> VersionDocument:
    parameters = {name: state.parameters[name] for name in (*PARAMETERS, "min_worker", "max_worker") if name in state.parameters}
    numbers = {pair for devices in state.workers.values() for pair in devices.values()}
    given: dict[str, object] = {"version": state.version or DEFAULT, "url": state.url, **parameters}
    # Of TorchServe's API a startup_timeout of 0 comes, with which nothing starts: it is no wish for another server.
    given |= {name: value for name, value in handler_options_of(state).items() if value != "0"}
    if state.sha256:
        given["sha256"] = state.sha256
    if len(numbers) == 1:
        given["min_worker"], given["max_worker"] = next(iter(numbers))
    elif numbers:
        given = {name: value for name, value in given.items() if name not in ("min_worker", "max_worker")}
        given["workers"] = state.workers
    given["adapters"] = {model: list(map(msgspec.structs.asdict, adapters)) for model, adapters in state.adapters.items()}
    return msgspec.convert(given, VersionDocument, strict=False)


def handler_options_of(state: VersionState) -> dict[str, str]:
    """What was said to the handler of a version when it was registered."""
    options = state.parameters.get("options") or {}
    return {name: str(options[name]) for name in HANDLER_OPTIONS if name in options}


def to_yaml(document: NameDocument) -> str:
    """A document as text."""
    text: str = yaml.safe_dump(
        msgspec.to_builtins(document), sort_keys=False, default_flow_style=None, width=130, allow_unicode=True
    )
    return text


def file_name(name: str) -> str:
    """What the file of a name is called."""
    return f"{_UNSAFE.sub('_', name)}.yaml"
