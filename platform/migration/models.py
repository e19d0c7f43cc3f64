"""What an installation serves, as documents for `flowyard apply`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from flowyard.engines.torchserve.folder import HANDLER
from flowyard.platform.archives.locate import path_of
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.names import LoadItem, check_name, check_version, infer_model_name, parse_load_item
from flowyard.platform.archives.remote import is_remote
from flowyard.platform.desired.documents import NameDocument, VersionDocument
from flowyard.platform.migration.archives import Archive, Archives
from flowyard.platform.migration.configuration import Configuration
from flowyard.platform.migration.installation import Installation
from flowyard.platform.migration.verdicts import Verdict, verdict
from flowyard.platform.migration.versions import judge, serving
from flowyard.platform.registry.startup import entries_of
from flowyard.platform.registry.traffic import DEFAULT
from flowyard.platform.torchserve_snapshots import KEY, ModelDefaults, model_defaults
from flowyard.schemas.errors import FlowyardError, InvalidRequestError
from flowyard.schemas.models import ModelSpec

#: Version of an archive of TorchServe or MMS that says none.
NO_VERSION = "1.0"
_WORKFLOWS = "*.war"
_ARCHIVES = (".mar", ".model")
#: What TorchServe loads of a store (TorchServe reference §5.1), and workflows.
_LOADED = (*_ARCHIVES, ".tar.gz", ".war")


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What an installation serves.

    Attributes:
        documents: One for each name.
        folders: Folders besides the stores that archives are in.
        urls: Remote URLs that archives come from.
        verdicts: What became of the keys that say how models are served, and of archives that are not carried over.
        notes: What there is to say besides.
    """

    documents: tuple[NameDocument, ...]
    folders: tuple[Path, ...] = ()
    urls: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()


def served(installation: Installation, configuration: Configuration) -> Served:
    """Makes documents of what an installation loads at its start, and of the workflows in its store.

    Args:
        installation: The installation.
        configuration: What it says.

    Returns:
        The documents; what is not there or would be refused is not in them, which a verdict says.

    Raises:
        InvalidRequestError: A store cannot be read.
    """
    serving_ = _Serving(installation, configuration)
    serving_.go_through()
    return serving_.served()


class _Serving:
    """Goes through what is loaded, and collects documents."""

    def __init__(self, installation: Installation, configuration: Configuration) -> None:
        self._installation = installation
        self._configuration = configuration
        self._settings = settings = configuration.settings
        self._is_djl = installation.product == "djl"
        self._store = Path(str(settings.model_store))
        self._workflow_store = Path(settings.workflow_store) if settings.workflow_store else self._store
        self._archives = Archives(settings)
        self._said = model_defaults(settings.models)
        loads = configuration.loads
        self._of_snapshot = loads is not None and loads.name == KEY
        self._versions: dict[str, dict[str, VersionDocument]] = {}
        self._is_workflow: dict[str, bool] = {}
        self._seen: set[Path] = set()
        self._folders: list[Path] = []
        self._urls: list[str] = []
        self._verdicts: list[Verdict] = []
        self._notes: list[str] = []
        self._needs_default_handler = False

    def go_through(self) -> None:
        """Takes everything that is loaded."""
        for item in self._items():
            if is_remote(item.url):
                self._take_remote(item)
            else:
                self._take(item)

    def served(self) -> Served:
        """What has been taken."""
        models = self._configuration.models
        carried = {(name, version) for name, versions in self._versions.items() for version in versions}
        judged = judge(models, carried) if models is not None else ()
        verdicts = [*self._default_handler(), *judged, *self._verdicts]
        return Served(
            documents=tuple(self._document(name, versions) for name, versions in self._versions.items()),
            folders=tuple(dict.fromkeys(self._folders)),
            urls=tuple(dict.fromkeys(self._urls)),
            verdicts=tuple(verdicts),
            notes=(*self._notes, *self._others()),
        )

    def _document(self, name: str, versions: dict[str, VersionDocument]) -> NameDocument:
        """In the originals the version that is loaded first is the default one."""
        first, *others = versions
        return NameDocument(
            name=name, versions=tuple(versions.values()), default=first or DEFAULT if others and not self._is_djl else None
        )

    # ---- what is loaded ----

    def _items(self) -> Iterator[LoadItem]:
        for text in (*self._settings.load, *self._settings.load_models):
            match text.upper():
                case "ALL":
                    yield from self._everything()
                case "NONE":
                    pass
                case _:
                    try:
                        yield parse_load_item(text)
                    except InvalidRequestError as error:
                        self._lose(text, error)
        if self._installation.product == "torchserve":
            yield from (LoadItem(str(file)) for file in sorted(self._workflow_store.glob(_WORKFLOWS)) if file not in self._seen)

    def _everything(self) -> Iterator[LoadItem]:
        for entry, reason in entries_of(self._store, Limits.of(self._settings)):
            passed_over = not (self._is_djl or entry.is_dir() or entry.name.endswith(_LOADED))
            if reason or passed_over:
                why = reason or f"{self._installation.title} passes it over"
                self._notes.append(f"{entry} is not loaded: {why}")
            else:
                yield LoadItem(str(entry))

    def _others(self) -> Iterator[str]:
        """Archives in the store that are not loaded."""
        for file in sorted(self._store.glob("*")):
            if file.suffix in _ARCHIVES and file not in self._seen:
                yield f"{file} is in the store and was not loaded at the start: it is in no document"

    def _take(self, item: LoadItem) -> None:
        try:
            path = self._find(item.url)
        except InvalidRequestError as error:
            self._lose(f"models.{item.name}.{item.version}.marName" if self._of_snapshot else str(item), error)
            return
        self._seen.add(path)
        found: list[Verdict] = []
        try:
            archive = self._archives.look(path, lambda archive: self._spec(item, archive), found)
            self._add(item, archive, path)
        except (FlowyardError, OSError) as error:
            lost = Verdict(file=str(path), outcome="changes answers", text=_told(error))
            refused = [one for one in found if one.outcome == "changes answers"]
            self._verdicts += [*refused, lost]
        else:
            self._verdicts += found

    def _lose(self, key: str, error: FlowyardError) -> None:
        """Says that something is not there that the configuration names."""
        loads = self._configuration.loads
        if loads is None:
            self._verdicts.append(Verdict(file=str(self._store), key=key, outcome="changes answers", text=_told(error)))
        else:
            self._verdicts.append(verdict(loads, "changes answers", _told(error), f"{loads.name}.{key}"))

    def _find(self, url: str) -> Path:
        """The file or folder of an item: in the store, or anywhere.

        Raises:
            InvalidRequestError: Nothing is there.
        """
        path = path_of(url)
        places = [self._store / path, self._installation.folder / path]
        if not self._is_djl:
            # The originals look for the last part of a path in their store.
            places.append(self._store / Path(path).name)
        for place in places:
            if place.exists():
                return place
        raise InvalidRequestError(f"{places[0]} is not there")

    # ---- one version ----

    def _of(self, item: LoadItem, archive: Archive) -> ModelDefaults:
        """What the configuration says of a version."""
        return self._said.get((item.name or archive.name, item.version or archive.version), ModelDefaults())

    def _handler(self, item: LoadItem, archive: Archive) -> str:
        named = self._of(item, archive).handler
        default = self._configuration.default_handler
        if named or default is None or archive.manifest is None or archive.manifest.handler:
            return named or ""
        self._needs_default_handler = True
        return str(default.value)

    def _spec(self, item: LoadItem, archive: Archive) -> ModelSpec:
        handler = self._handler(item, archive)
        return ModelSpec(engine=item.engine, device=item.devices, options={HANDLER: handler} if handler else {})

    def _serving(self, item: LoadItem, archive: Archive) -> dict[str, Any]:
        return serving(
            archive,
            self._of(item, archive),
            self._settings,
            of_snapshot=self._of_snapshot,
            handler=self._handler(item, archive),
            gpus=self._archives.gpus,
        )

    def _add(self, item: LoadItem, archive: Archive, path: Path) -> None:
        given: dict[str, Any] = {"url": self._url(path)}
        if archive.sha256:
            given["sha256"] = archive.sha256
        if not (self._is_djl or archive.is_workflow):
            given |= self._serving(item, archive)
        for outside in archive.outside:
            self._allow(outside)
        self._put(item, archive, given)

    def _allow(self, url: str) -> None:
        """Lets the new server have what a workflow names outside of its archive.

        Raises:
            InvalidRequestError: It is not there.
        """
        if is_remote(url):
            self._urls.append(url)
            return
        path = self._store / path_of(url)
        if not path.exists():
            raise InvalidRequestError(f"{path} is not there, which it names")
        if not path.is_relative_to(self._store):
            self._folders.append(path.parent)

    def _take_remote(self, item: LoadItem) -> None:
        """What is remote is not looked into: the server fetches it."""
        try:
            archive = Archive(name=item.name or infer_model_name(item.url), version="" if self._is_djl else NO_VERSION)
            self._put(item, archive, {"url": item.url} | ({} if self._is_djl else self._serving(item, archive)))
        except FlowyardError as error:
            self._lose(str(item), error)
            return
        self._urls.append(item.url)
        if item.name is None or item.version is None:
            label = f"{item.name or archive.name}:{item.version or archive.version or DEFAULT}"
            self._notes.append(f"{item.url} was not fetched; its name and version are taken to be {label}")

    def _url(self, path: Path) -> str:
        """Relative to the model store where it is there, as the originals tell it."""
        if path.is_relative_to(self._store):
            return path.relative_to(self._store).as_posix()
        if not path.is_relative_to(self._workflow_store):
            self._folders.append(path.parent)
        return str(path)

    def _put(self, item: LoadItem, archive: Archive, given: dict[str, Any]) -> None:
        """Adds a version of a name.

        Raises:
            InvalidRequestError: It is there already, or not allowed.
        """
        name, version = check_name(item.name or archive.name), item.version or archive.version
        if version:
            check_version(version)
        if self._is_workflow.get(name, archive.is_workflow) != archive.is_workflow:
            raise InvalidRequestError(f"{name} is a model and a workflow; here they need names of their own")
        versions = self._versions.get(name, {})
        if version in versions:
            raise InvalidRequestError(f"{name}:{version or DEFAULT} is {versions[version].url} already")
        engine, device = {"engine": item.engine}, {"device": item.devices}
        said = {key: value for key, value in (engine | device).items() if value is not None}
        document = {"version": version or DEFAULT, **given, **said}
        try:
            versions[version] = msgspec.convert(document, VersionDocument, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidRequestError(f"{name}:{version or DEFAULT}: {error}") from None
        self._versions[name] = versions
        self._is_workflow[name] = archive.is_workflow

    def _default_handler(self) -> Iterator[Verdict]:
        item = self._configuration.default_handler
        if item is not None and self._needs_default_handler:
            yield verdict(item, "carried", "handler of the documents whose archives name none")
        elif item is not None:
            yield verdict(item, "no effect", "every archive names its handler")


def _told(error: FlowyardError | OSError) -> str:
    text = f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
    return " ".join(text.split())
