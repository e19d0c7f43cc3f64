"""The configuration of a TorchServe or MMS installation, as settings of flowyard: its file, environment and snapshots.

Nothing else knows about it (TorchServe reference §5). Their keys have the names they have there, but for addresses, which the
native API has too, and for what flowyard calls otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from flowyard.engines.torchserve.config import MOST_SECONDS
from flowyard.engines.torchserve.folder import ENVELOPES
from flowyard.platform.sources import ENV_PREFIX, Given
from flowyard.platform.telemetry.log_files import can_be_written
from flowyard.platform.torchserve_snapshots import KEY, MAX_BYTES, STATE_DIR, newest_snapshot, read_document, read_snapshot
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.properties import read_properties

if TYPE_CHECKING:
    # Settings are made of what is here.
    from flowyard.platform.settings import Settings

Dialect: TypeAlias = Literal["torchserve", "mms"]

ENV_PREFIXES: dict[Dialect, str] = {"torchserve": "TS_", "mms": "MMS_"}
#: Variables that name the file, by dialect.
CONFIG_VARIABLES: dict[Dialect, str] = {"torchserve": "TS_CONFIG_FILE", "mms": "MMS_CONFIG_FILE"}
#: Switches the open inference protocol on by the word `oip` (TorchServe reference §2.1).
OPEN_INFERENCE = "TS_OPEN_INFERENCE_PROTOCOL"
CONFIG_FILE = "config.properties"
#: The folder of the logs, in the working directory.
LOGS = "logs"
_PLACEHOLDER = re.compile(r"\$\$(\w+)\$\$")
_SECONDS_A_MINUTE = 60

#: What is different from a native server, where nobody says otherwise (TorchServe reference §5.1).
_DEFAULTS: dict[Dialect, dict[str, str]] = {
    "torchserve": {
        "job_queue_size": "100",
        "max_request_size": "6553500",
        "startup_timeout_s": "120",
        "wait_model_loading": "false",
    },
    "mms": {
        "job_queue_size": "100",
        "max_request_size": "6553500",
        "startup_timeout_s": "120",
        "wait_model_loading": "false",
    },
}
#: Keys whose setting has another name.
_RENAMED = {
    "allowed_urls": "allowed_url_regexes",
    "default_response_timeout_seconds": "default_timeout_s",
    "default_startup_timeout": "startup_timeout_s",
    "enable_model_api": "torchserve_model_api",
    "install_py_dep_per_model": "install_requirements",
}
_SAME = frozenset(
    {
        "certificate_file",
        "cors_allowed_headers",
        "cors_allowed_methods",
        "cors_allowed_origin",
        "decode_input_request",
        "default_service_handler",
        "default_workers_per_model",
        "disable_system_metrics",
        "disable_token_authorization",
        "enable_grpc_api",
        "enable_grpc_ssl",
        "enable_metrics_api",
        "grpc_inference_address",
        "grpc_inference_max_connection_age_grace_ms",
        "grpc_inference_max_connection_age_ms",
        "grpc_inference_port",
        "grpc_management_address",
        "grpc_management_max_connection_age_grace_ms",
        "grpc_management_max_connection_age_ms",
        "grpc_management_port",
        "job_queue_size",
        "keystore",
        "keystore_pass",
        "keystore_type",
        "load_models",
        "max_request_size",
        "metric_time_interval",
        "metrics_config",
        "metrics_mode",
        "model_metrics_auto_detect",
        "model_store",
        "models",
        "private_key_file",
        "service_envelope",
        "token_expiration_min",
        "ts_header_key_sequence_end",
        "ts_header_key_sequence_id",
        "ts_header_key_sequence_start",
        "ts_open_inference_protocol",
        "unregister_model_timeout",
        "workflow_store",
    }
)
_NETTY = "it tunes Netty, which is not in use here"
_OWN = "workers are processes of flowyard's own"
_LOOKED_AT = "it has been looked at"
#: Keys that are understood and do nothing.
WITHOUT_EFFECT = {
    "async_logging": "logs are written without holding up requests anyway",
    "blacklist_env_vars": "workers get a short list of variables anyway",
    "cpp_log_config": "handlers in C++ are not supported",
    "cpu_launcher_args": _OWN,
    "cpu_launcher_enable": _OWN,
    "debug": "there is no such mode",
    "enable_envvars_config": _LOOKED_AT,
    "initial_distribution_port": _OWN,
    "initial_worker_port": _OWN,
    "io_ratio": _NETTY,
    "ipex_enable": _OWN,
    "ipex_gpu_enable": _OWN,
    "limit_max_image_pixels": "handlers decode images as they like",
    "max_response_size": "answers have no limit of their own",
    "metrics_format": "the format is Prometheus'",
    "model_server_home": "paths are taken as they are",
    KEY: _LOOKED_AT,
    STATE_DIR: _LOOKED_AT,
    "netty_client_threads": _NETTY,
    "number_of_gpu": "CUDA_VISIBLE_DEVICES says which GPUs there are",
    "number_of_netty_threads": _NETTY,
    "plugins_path": "Java plugins cannot be loaded",
    "prefer_direct_buffer": _NETTY,
    "python": "handlers run with the server's Python",
    "preload_model": "every worker loads the model itself",
    "system_metrics_cmd": "metrics of the machine are read without a command",
    "tsConfigFile": _LOOKED_AT,
    "use_env_allowed_urls": _LOOKED_AT,
    "use_native_io": _NETTY,
    "version": "it says which version has written a snapshot",
    "vmargs": "there is no Java",
}
#: Those of them without which something is answered otherwise, or not at all, and the values with which that is not so.
CHANGES_ANSWERS: dict[str, tuple[str, ...]] = {
    "limit_max_image_pixels": ("true",),
    "plugins_path": (),
    "system_metrics_cmd": (),
}
#: Settings that are seconds.
_TIMES = ("default_timeout_s", "startup_timeout_s")
_ADDRESSES = ("inference_address", "management_address", "metrics_address")
#: Every key of a `config.properties`.
KEYS = frozenset({*_ADDRESSES, *_RENAMED, *_SAME, *WITHOUT_EFFECT, "default_response_timeout"})


class PassedOver(msgspec.Struct, frozen=True):
    """A key that becomes no setting.

    Attributes:
        item: The key.
        reason: Why; empty where the original has no such key.
        changes_answers: Whether something is answered otherwise without it.
    """

    item: Given
    reason: str = ""
    changes_answers: bool = False


class Config(msgspec.Struct, frozen=True):
    """What an installation says.

    Attributes:
        dialect: Which server it is of.
        given: Settings of its file.
        from_env: Settings of its environment, which win over flags.
        passed_over: What does nothing, or is not known.
        empty: Keys without a value, which say nothing.
        notes: What is taken otherwise than it is meant.
    """

    dialect: Dialect
    given: tuple[Given, ...] = ()
    from_env: tuple[Given, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    empty: tuple[Given, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> dict[str, str]:
        """Keys that do nothing here, but in the original: a snapshot has them, too."""
        return {key.item.name: str(key.item.value) for key in self.passed_over if key.item.key not in (KEY, STATE_DIR)}

    @property
    def loaded_by_snapshot(self) -> tuple[str, ...]:
        """What a snapshot says that is to be loaded."""
        return next((tuple(item.value or ()) for item in self.given if item.key == "load_models" and item.name == KEY), ())

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each key that does nothing, is not known, or is taken otherwise than it is meant."""
        unused = (key for key in self.passed_over if key.reason != _LOOKED_AT)
        passed_over = (
            f"{key.item.place} has no effect: {key.reason}"
            if key.reason
            else f"{key.item.place} is not a setting of {self.dialect}"
            for key in unused
        )
        return (*passed_over, *self.notes)


def defaults(given: Iterable[Given]) -> list[Given]:
    """What is different from a native server where dialects are served: what the first of them has for a default."""
    named = next((item.value for item in reversed(list(given)) if item.key == "dialects"), None)
    first = (named if isinstance(named, str) else " ".join(named or ())).replace(",", " ").split()[:1]
    return [
        Given(key, value, f"default of {dialect}", key)
        for dialect, values in _DEFAULTS.items()
        if first == [dialect]
        for key, value in values.items()
    ]


def log_defaults(dialect: Dialect, env: Mapping[str, str]) -> list[Given]:
    """Where the commands of the originals write their log files: `logs` in the working directory, or where variables say.

    Args:
        dialect: Whose command it is.
        env: The environment.

    Returns:
        The settings; none for a folder that nobody has named and where no files can be written.
    """
    variables = {"log_location": "LOG_LOCATION", "metrics_location": "METRICS_LOCATION"}
    has_default = any(not env.get(name) for name in variables.values()) and can_be_written(Path(LOGS))
    defaults = {key: Given(key, LOGS, f"default of {dialect}", key) for key in variables} if has_default else {}
    named = {key: Given(key, env[name], name, name) for key, name in variables.items() if env.get(name)}
    return list((defaults | named).values())


def find_config(
    dialect: Dialect,
    named: Path | None,
    env: Mapping[str, str],
    folder: Path,
    *,
    snapshots: bool,
    state_dir: Path | None = None,
) -> Path | None:
    """The file that the original would read (TorchServe reference §5.1).

    Args:
        dialect: Which server it is of.
        named: The file of `--ts-config` or `--mms-config`.
        env: The environment.
        folder: The working directory.
        snapshots: Whether the newest snapshot of a TorchServe installation counts.
        state_dir: The state directory; snapshots of servers with another one do not count.

    Returns:
        The file, `None` where there is none.

    Raises:
        InvalidRequestError: The named file is not there.
    """
    said = env.get(CONFIG_VARIABLES[dialect])
    file = Path(said) if said else named
    if file is not None:
        if not file.is_file():
            raise InvalidRequestError(f"--{'ts' if dialect == 'torchserve' else 'mms'}-config file not found: {file}")
        return file
    newest = newest_snapshot(logs_of(env, folder), state_dir) if snapshots and dialect == "torchserve" else None
    usual = folder / CONFIG_FILE
    return newest or (usual if usual.is_file() else None)


def newer_than(snapshot: Path, folder: Path) -> list[str]:
    """A warning where a snapshot counts although the usual file has been changed since.

    Args:
        snapshot: What counts.
        folder: The working directory.
    """
    usual = folder / CONFIG_FILE
    if not usual.is_file() or usual.stat().st_mtime <= snapshot.stat().st_mtime:
        return []
    return [f"{snapshot} counts, the last snapshot, and not {CONFIG_FILE}, which is newer: name it with --ts-config"]


def logs_of(env: Mapping[str, str], folder: Path) -> Path:
    """The folder of the logs of an installation; the setting of that name says it, too."""
    return Path(env.get(f"{ENV_PREFIX}LOG_LOCATION") or env.get("LOG_LOCATION") or folder / LOGS)


def read_config(dialect: Dialect, file: Path | None, env: Mapping[str, str], remembered: Path | None = None) -> Config:
    """Reads an installation's configuration.

    Args:
        dialect: Which server it is of.
        file: Its file, `None` for none.
        env: Its environment.
        remembered: A state directory that remembers models: a snapshot written beside it says nothing of them.

    Returns:
        What it says.

    Raises:
        InvalidRequestError: The file cannot be read, or names a variable that is not there.
    """
    entries = {entry.key: entry for entry in read_properties(file, MAX_BYTES)} if file is not None else {}
    if remembered is not None and STATE_DIR in entries and Path(entries[STATE_DIR].value) == remembered:
        entries.pop(KEY, None)
    keys = _Keys(dialect)
    for key, entry in entries.items():
        place = f"{file}:{entry.line}"
        keys.add(Given(key, _filled(entry.value, env, place), place, key))
    overrides = entries["enable_envvars_config"].value if "enable_envvars_config" in entries else "false"
    if dialect == "torchserve" and env.get(OPEN_INFERENCE):
        # Read whatever the file says, and the one variable that has a value of its own.
        is_on = "true" if env[OPEN_INFERENCE] == "oip" else "false"
        keys.add(Given("ts_open_inference_protocol", is_on, OPEN_INFERENCE, OPEN_INFERENCE))
    allows_urls = entries["use_env_allowed_urls"].value if "use_env_allowed_urls" in entries else "false"
    given = keys.taken()
    if overrides.strip().lower() == "true" or dialect == "mms":
        for item in _of_env(dialect, env):
            if item.name != "TS_ALLOWED_URLS" or allows_urls.strip().lower() == "true":
                keys.add(item)
    return Config(dialect, given, keys.taken(), tuple(keys.passed_over), tuple(keys.empty), tuple(keys.notes))


def _of_env(dialect: Dialect, env: Mapping[str, str]) -> list[Given]:
    prefix = ENV_PREFIXES[dialect]
    known = (CONFIG_VARIABLES[dialect], OPEN_INFERENCE)
    names = sorted(name for name in env if name.startswith(prefix) and name not in known)
    return [Given(name.removeprefix(prefix).lower(), env[name], name, name) for name in names]


class _Keys:
    """Takes keys one by one: settings, what does nothing, and what says nothing."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._given: list[Given] = []
        self._of_snapshot: list[Given] = []
        self.passed_over: list[PassedOver] = []
        self.empty: list[Given] = []
        self.notes: list[str] = []

    def add(self, item: Given) -> None:
        """Takes a key."""
        if item.key == KEY:
            self._of_snapshot += _of_snapshot(item)
        setting = _setting(item, self._dialect)
        if setting is None:
            self._pass_over(item)
        elif item.value:
            self._given.append(self._bearable(setting))
        else:
            self.empty.append(item)

    def taken(self) -> tuple[Given, ...]:
        """The settings since the last time; a snapshot counts more than what is loaded without one, wherever it stands."""
        taken = (*self._given, *self._of_snapshot)
        self._given, self._of_snapshot = [], []
        return taken

    def _bearable(self, setting: Given) -> Given:
        """What the original bears, and says nothing of: times of more than a day, which some give in milliseconds, and more."""
        text = str(setting.value).strip()
        if setting.key == "service_envelope" and text not in ENVELOPES:
            known = ", ".join(ENVELOPES)
            self.notes.append(f"{setting.place}: there is no envelope {text}: no handler will start; known are {known}")
        if setting.key not in _TIMES or not text.isdecimal() or int(text) <= MOST_SECONDS:
            return setting
        self.notes.append(f"{setting.place}: {setting.name}: {text} s is taken for the most that is allowed, {MOST_SECONDS} s")
        return msgspec.structs.replace(setting, value=str(MOST_SECONDS))

    def _pass_over(self, item: Given) -> None:
        reason = WITHOUT_EFFECT.get(item.key, "")
        harmless = ("", *CHANGES_ANSWERS[item.key]) if item.key in CHANGES_ANSWERS else None
        changes = harmless is not None and str(item.value).strip().lower() not in harmless
        self.passed_over.append(PassedOver(item, reason, changes))


def _setting(item: Given, dialect: Dialect) -> Given | None:
    """The setting that a key means, `None` where it does nothing or is not known."""
    key = item.key
    if key in _ADDRESSES:
        return _renamed(item, f"{dialect}_{key}")
    if key == "default_response_timeout":
        return _response_timeout(item, dialect)
    if key in _RENAMED:
        return _renamed(item, _RENAMED[key])
    if key == "models":
        return _as_json(item)
    return item if key in _SAME else None


def _renamed(item: Given, key: str) -> Given:
    return msgspec.structs.replace(item, key=key)


def _response_timeout(item: Given, dialect: Dialect) -> Given:
    """Seconds in TorchServe, minutes in MMS."""
    text = str(item.value).strip()
    if dialect == "mms" and text.isdecimal():
        text = str(int(text) * _SECONDS_A_MINUTE)
    return msgspec.structs.replace(item, key="default_timeout_s", value=text)


def _filled(value: str, env: Mapping[str, str], place: str) -> str:
    """Puts variables of the environment in the place of `$$NAME$$`."""

    def fill(found: re.Match[str]) -> str:
        if found[1] not in env:
            raise InvalidRequestError(f"{place}: Invalid Environment Variable {found[1]}")
        return env[found[1]]

    return _PLACEHOLDER.sub(fill, value)


def _of_snapshot(item: Given) -> list[Given]:
    """The models of a snapshot: what to load, and how each version is served."""
    text = str(item.value)
    snapshot = read_snapshot(text, item.place)
    return [
        msgspec.structs.replace(item, key="load_models", value=snapshot.loads()),
        msgspec.structs.replace(item, key="models", value=json.dumps(read_document(text)["models"])),
    ]


def _as_json(item: Given) -> Given:
    """The same in JSON, where it is what Gson takes for that."""
    try:
        return msgspec.structs.replace(item, value=json.dumps(read_document(str(item.value))))
    except ValueError:
        return item


def properties_of(settings: Settings, defaults: Settings) -> dict[str, str]:
    """The keys that say what settings say, as far as the original has such keys.

    What is loaded and how is not among them: a snapshot says that besides.

    Args:
        settings: The settings.
        defaults: Those that go without saying.
    """
    renamed = {key: name for key, name in _RENAMED.items() if key != "default_response_timeout_seconds"}
    addresses = {key: f"torchserve_{key}" for key in _ADDRESSES}
    names = {key: key for key in _SAME - {"load_models", "models"}} | renamed | addresses
    names["default_response_timeout"] = "default_timeout_s"
    said = {key: getattr(settings, name) for key, name in sorted(names.items())}
    return {key: _as_text(value) for key, value in said.items() if value is not None and value != getattr(defaults, names[key])}


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
