"""An installation's configuration as settings of flowyard, with what became of each of its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from flowyard.platform import djl_config, torchserve_config
from flowyard.platform.addresses import Address
from flowyard.platform.archives.allowed import AllowedUrls
from flowyard.platform.djl_config import HOME
from flowyard.platform.doors import doors, open_to_others
from flowyard.platform.migration.installation import STORES, Installation
from flowyard.platform.migration.verdicts import Outcome, Verdict, verdict
from flowyard.platform.settings import Settings, settings_of
from flowyard.platform.sources import Given
from flowyard.platform.torchserve_snapshots import KEY, STATE_DIR, model_defaults
from flowyard.schemas.errors import InvalidRequestError

#: What the documents have instead.
LOADING = frozenset({"load", "load_models", "models"})
#: Where the first free port for the native API is looked for.
NATIVE_PORT = 8083
#: How many times its own size the largest archive may have unpacked; weights are hardly compressed.
UNPACKED = 4
#: Handler of archives of MMS and TorchServe that name none: the documents have it, and the server for what is registered later.
DEFAULT_HANDLER = "default_service_handler"
_FOLDERS = ("model_store", "workflow_store")
_FILES = ("certificate_file", "keystore", "metrics_config", "private_key_file")
_HERE = "flowyard migrate"


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What an installation says.

    Attributes:
        settings: What its server is to be like, with what it loads at the start.
        lines: What is said of it, each setting once; without what it loads.
        loads: What says which models are loaded, `None` where nothing does.
        models: What says how models are served, `None` where nothing does.
        default_handler: What names the handler of archives without one.
        verdicts: What became of each key.
        notes: What there is to say besides.
    """

    settings: Settings
    lines: tuple[Given, ...]
    loads: Given | None = None
    models: Given | None = None
    default_handler: Given | None = None
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()


def read(installation: Installation, env: Mapping[str, str], model_store: Path | None = None) -> Configuration:
    """Reads an installation's configuration.

    Args:
        installation: The installation.
        env: Its environment.
        model_store: Its model store, where the configuration does not say it.

    Raises:
        InvalidRequestError: The configuration is broken, or there is no model store.
    """
    reading = _Reading(installation)
    if installation.product == "djl":
        reading.read_djl({**env, HOME: str(installation.folder)})
    else:
        reading.read_torchserve(installation.product, env)
    return reading.configuration(model_store)


class _Reading:
    """Takes in what the files and variables of an installation say, later ones over earlier ones."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._said: list[Given] = []
        self._default_handler: Given | None = None
        self._verdicts: list[Verdict] = []
        self._notes: list[str] = []

    def read_torchserve(self, dialect: torchserve_config.Dialect, env: Mapping[str, str]) -> None:
        """Reads the `config.properties`, then the snapshot."""
        files = [file for file in (self._installation.config, self._installation.snapshot) if file is not None]
        for file in files or (None,):
            config = torchserve_config.read_config(dialect, file, env)
            for item in (*config.given, *config.from_env):
                if item.key == DEFAULT_HANDLER:
                    self._default_handler = item
                else:
                    self._said.append(item)
            self._verdicts += [verdict(item, "no effect", "it has no value") for item in config.empty]
            for passed_over in config.passed_over:
                self._pass_over(passed_over)

    def _pass_over(self, passed_over: torchserve_config.PassedOver) -> None:
        item = passed_over.item
        if item.key in (KEY, STATE_DIR):
            return
        outcome: Outcome = "changes answers" if passed_over.changes_answers else "no effect"
        self._verdicts.append(verdict(item, outcome, passed_over.reason or f"{self._installation.title} has no such key"))

    def read_djl(self, env: Mapping[str, str]) -> None:
        """Reads the `config.properties` and the variables of DJL Serving."""
        config = self._installation.config
        variables = djl_config.from_env(env)
        given = [*(djl_config.from_properties(config, env) if config is not None else []), *variables.sagemaker]
        for item in [*given, *variables.settings]:
            reason = djl_config.WITHOUT_EFFECT.get(item.key)
            if not item.value:
                self._verdicts.append(verdict(item, "no effect", "it has no value"))
            elif reason:
                same = djl_config.CHANGES_ANSWERS.get(item.key)
                changes = same is not None and str(item.value).strip() not in same
                self._verdicts.append(verdict(item, "changes answers" if changes else "no effect", reason))
            elif item.key not in Settings.__struct_fields__:
                self._verdicts.append(verdict(item, "no effect", f"{self._installation.title} has no such key"))
            else:
                self._said.append(item)
        self._verdicts += [
            Verdict(file=name, outcome="no effect", text="nothing here looks at it") for name in variables.without_effect
        ]
        self._verdicts += [
            verdict(item, "no effect", f"{self._installation.title} has no such key") for item in variables.unknown
        ]

    def configuration(self, model_store: Path | None) -> Configuration:
        """What has been read.

        Raises:
            InvalidRequestError: There is no model store.
        """
        if model_store is not None:
            if not model_store.is_dir():
                raise InvalidRequestError(f"--model-store {model_store}: no such folder")
            named = "--model-store"
            self._said.append(Given("model_store", str(model_store.absolute()), named, named))
        last = {item.key: item for item in self._said}
        for item in self._said:
            self._judge(item, last[item.key])
        valid = {key: self._placed(item) for key, item in last.items() if not self._refusal(item)}
        store = self._model_store(valid.pop("model_store", None))
        loads = valid.get("load_models", valid.get("load"))
        if loads is None:
            loads = Given("load_models", "ALL", _HERE, "load_models")
            if self._installation.product != "djl":
                self._notes.append("nothing says which models are loaded: the documents have everything in the model store")
        loading = [item for key, item in valid.items() if key in LOADING - {"load_models"}]
        if "workflow_store" in valid:
            valid |= self._workflow_store(valid.pop("workflow_store"))
        for_later = [self._default_handler] if self._default_handler is not None else []
        lines = [*self._of_product(), store, *for_later, *(item for key, item in valid.items() if key not in LOADING)]
        settings = settings_of([*lines, *loading, loads], {})[0]
        lines += self._further(settings)
        return Configuration(
            settings=settings_of([*lines, *loading, loads], {})[0],
            lines=tuple(lines),
            loads=loads if loads.source != _HERE else None,
            models=valid.get("models"),
            default_handler=self._default_handler,
            verdicts=tuple(self._verdicts),
            notes=tuple(self._notes),
        )

    def _judge(self, item: Given, last: Given) -> None:
        refusal = self._refusal(item)
        if item is not last and item.value != last.value:
            self._verdicts.append(verdict(item, "no effect", f"{last.place} counts"))
        elif refusal:
            self._verdicts.append(verdict(item, "changes answers", refusal))
        else:
            where = "documents" if item.key in LOADING else f"setting {item.key}"
            if item.name != KEY or item.key == "load_models":
                self._verdicts.append(verdict(item, "carried", where))

    def _refusal(self, item: Given) -> str:
        """Why a value cannot be taken, empty where it can."""
        try:
            settings = settings_of([item], {})[0]
            AllowedUrls(settings.allowed_urls, settings.allowed_url_regexes)
            model_defaults(settings.models)
        except InvalidRequestError as error:
            return error.message.removeprefix(f"{item.place}: ")
        if item.key in _FILES and not (self._installation.folder / str(item.value)).is_file():
            return f"there is no file {self._installation.folder / str(item.value)}"
        return ""

    def _placed(self, item: Given) -> Given:
        """Relative paths start at the installation's folder."""
        if item.key not in (*_FOLDERS, *_FILES):
            return item
        return msgspec.structs.replace(item, value=str(self._installation.folder / str(item.value)))

    def _model_store(self, said: Given | None) -> Given:
        """The model store, which may have been elsewhere when the configuration was written, as in a container."""
        if said is not None:
            found = self._found(said)
            if found is None:
                raise InvalidRequestError(f"{said.place}: there is no folder {said.value}; --model-store says where it is")
            return found
        folder = self._installation.folder
        usual = next((place for name in STORES[self._installation.product] if (place := folder / name).is_dir()), None)
        if usual is None:
            raise InvalidRequestError(f"{folder}: there is no model store in it; --model-store says where it is")
        return Given("model_store", str(usual), _HERE, "model_store")

    def _workflow_store(self, said: Given) -> dict[str, Given]:
        found = self._found(said)
        if found is None:
            self._notes.append(f"{said.place}: there is no folder {said.value}: no workflows are looked for in it")
        return {} if found is None else {"workflow_store": found}

    def _found(self, said: Given) -> Given | None:
        """A store where it is said to be, else under its name in the installation's folder."""
        place = Path(str(said.value))
        if place.is_dir():
            return said
        near = self._installation.folder / place.name
        if not near.is_dir():
            return None
        self._notes.append(f"{said.place}: there is no folder {said.value}; {near} is taken")
        return msgspec.structs.replace(said, value=str(near))

    def _of_product(self) -> list[Given]:
        """Whose API is served."""
        product = self._installation.product
        return [] if product == "djl" else [Given("dialects", product, _HERE, "dialects")]

    def _further(self, settings: Settings) -> Iterator[Given]:
        """What the new server needs besides: an address of the native API, room, and leave to be as open as the old one."""
        largest_bytes = max(map(_size, Path(str(settings.model_store)).glob("*")), default=0)
        if largest_bytes > settings.max_archive_size_bytes:
            yield Given("max_archive_size_bytes", str(largest_bytes), _HERE, "max_archive_size_bytes")
            yield Given("max_unpacked_size_bytes", str(largest_bytes * UNPACKED), _HERE, "max_unpacked_size_bytes")
        if settings.dialects:
            port = _free_port([door.address for door in doors(settings)])
            yield Given("host", "127.0.0.1", _HERE, "host")
            yield Given("port", str(port), _HERE, "port")
        opened = open_to_others(settings) if not settings.insecure else []
        if opened:
            self._notes.append(
                f"{', '.join(opened)} can be reached from other machines, and nobody there is asked for a token, as before: "
                "insecure=true"
            )
            yield Given("insecure", "true", _HERE, "insecure")


def _size(entry: Path) -> int:
    """Bytes of an archive, or of all files of a folder."""
    files = [entry] if entry.is_file() else entry.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _free_port(taken: Sequence[Address]) -> int:
    ports = {address.port for address in taken}
    return next(port for port in range(NATIVE_PORT, NATIVE_PORT + len(ports) + 1) if port not in ports)


def native_url(settings: Settings) -> str:
    """Where `flowyard apply` finds the new server."""
    address = next(door.address for door in doors(settings) if door.dialect == "native" and "management" in door.parts)
    text = str(address)
    return text if address.scheme == "unix" else text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - no address to listen on
