"""One frozen struct with every setting of the server, and how it comes about: defaults < file < environment < flags."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import msgspec
import msgspec.inspect as types
import yaml
from msgspec import Meta

from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.models import BatchSize, DelayMs, IdleS, QueueSize, TimeoutS

Name = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Bytes = Annotated[int, Meta(ge=1, le=2**50)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]

ENV_PREFIX = "FLOWYARD_"
_SEPARATORS = {"allowed_paths": re.compile(":")}
_SEPARATOR = re.compile(r"[,\s]+")
_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

#: What a source says before it is converted: text, or several texts.
Value = str | tuple[str, ...]


def default_state_dir(env: Mapping[str, str] = os.environ) -> str:
    """Where the server keeps its state when nothing else is said.

    Args:
        env: Environment to look up `XDG_STATE_HOME` and `HOME` in.

    Returns:
        `$XDG_STATE_HOME/flowyard`, or `~/.local/state/flowyard` when the variable is absent or relative (as XDG has it).
    """
    base = env.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return str(Path(base) / "flowyard")
    home = env.get("HOME") or str(Path("~").expanduser())
    return str(Path(home) / ".local" / "state" / "flowyard")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decides.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes any free one.
        model_store: Folder that relative model URLs start from, `None` for no store.
        load: What is loaded at the start, as `[NAME[:VERSION]=]URL`; as text the items are separated by commas or blanks.
        state_dir: Folder of the registry's database and the unpacked archives.
        allowed_paths: Folders besides the model store that model URLs may lead into; as text separated by `:`.
        allowed_urls: Prefixes of remote URLs that may be fetched; none may when empty. As text separated by commas or blanks.
        allow_trusted: Whether a model may ask for `trusted`, that is for formats that can run code when they are read.
        max_request_size: Largest request body in bytes.
        max_archive_size_bytes: Largest archive, packed.
        max_unpacked_size_bytes: Largest archive, unpacked.
        max_archive_files: Most files and folders in one archive.
        job_queue_size: Most requests that wait for one model.
        batch_size: Most requests that are computed together.
        max_batch_delay: Longest wait for company, in milliseconds.
        max_idle_time: Seconds after which a surplus idle worker is stopped.
        default_timeout_s: Compute time after which a worker is taken for hung.
        startup_timeout_s: Time a worker may take to load its model.
        silent_limit_s: Time without a sign of life after which a worker is killed, whatever it computes.
        drain_timeout_s: Time that running requests get when the server stops.
        load_on_devices: Devices of a model that names none (DJL §1.9).
        log_level: Least severe level that is logged.
        log_format: `console` for people, `json` for collectors, `auto` chooses by whether a terminal listens.
    """

    host: Name = "127.0.0.1"
    port: Port = 8080
    model_store: str | None = None
    load: tuple[str, ...] = ()
    state_dir: Name = msgspec.field(default_factory=default_state_dir)
    allowed_paths: tuple[str, ...] = ()
    allowed_urls: tuple[str, ...] = ()
    allow_trusted: bool = False
    max_request_size: Bytes = 67_108_864
    max_archive_size_bytes: Bytes = 2 * 2**30
    max_unpacked_size_bytes: Bytes = 8 * 2**30
    max_archive_files: Count = 100_000
    job_queue_size: QueueSize = 1000
    batch_size: BatchSize = 1
    max_batch_delay: DelayMs = 100
    max_idle_time: IdleS = 60
    default_timeout_s: TimeoutS = 120.0
    startup_timeout_s: TimeoutS = 240.0
    silent_limit_s: TimeoutS = 10.0
    drain_timeout_s: TimeoutS = 30.0
    load_on_devices: str = "*"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"


class _Given(msgspec.Struct, frozen=True):
    """One value as a source gives it.

    Attributes:
        key: Name of the setting.
        value: What is said.
        source: Where: `flowyard.yaml:3`, `FLOWYARD_PORT`, `--port`.
        name: The key as the source spells it.
    """

    key: str
    value: Value
    source: str
    name: str


def load_settings(file: Path | None, env: Mapping[str, str], flags: Mapping[str, object]) -> tuple[Settings, tuple[str, ...]]:
    """Puts the settings together: defaults < file < `FLOWYARD_<KEY>` in the environment < flags.

    Args:
        file: YAML file with a mapping of settings, `None` for none. A null value leaves the setting as it was.
        env: The environment; empty text is a value (an empty list, no model store), not an absent one.
        flags: Values by setting name (`max_request_size`), text or typed; `None` is an absent flag.

    Returns:
        The settings, and one warning for each key or variable that is no setting.

    Raises:
        InvalidRequestError: A file that cannot be read, or a bad value; the message names source, key, value and what is allowed.
    """
    given = [*(_from_file(file) if file else []), *_from_env(env), *_from_flags(flags)]
    known = [item for item in given if item.key in _KINDS]
    values: dict[str, object] = {"state_dir": default_state_dir(env)}
    for item in known:
        values[item.key] = _convert(item)
    return msgspec.convert(values, Settings), tuple(_warning(item) for item in given if item.key not in _KINDS)


def _from_env(env: Mapping[str, str]) -> list[_Given]:
    names = sorted(name for name in env if name.startswith(ENV_PREFIX))
    return [_Given(name.removeprefix(ENV_PREFIX).lower(), env[name], name, name) for name in names]


def _from_flags(flags: Mapping[str, object]) -> list[_Given]:
    spelled = {key: "--" + key.replace("_", "-") for key in flags}
    return [_Given(key, _as_text(value), spelled[key], spelled[key]) for key, value in flags.items() if value is not None]


def _as_text(value: object) -> Value:
    if isinstance(value, (list, tuple)):
        return tuple(str(item) for item in value)
    return str(value)


def _from_file(file: Path) -> list[_Given]:
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{file}: the settings file cannot be read: {_reason(error)}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidRequestError(f"{file}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InvalidRequestError(f"{file}: not valid YAML: {error}") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise InvalidRequestError(f"{file}:{_line(root)}: a settings file is a mapping of settings, as `port: 8080`")
    return _entries(file, root)


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8 text"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _entries(file: Path, root: yaml.MappingNode) -> list[_Given]:
    found: list[_Given] = []
    lines: dict[str, int] = {}
    for key_node, value_node in root.value:
        source, key = f"{file}:{_line(key_node)}", _scalar(key_node)
        if key is None:
            raise InvalidRequestError(f"{source}: a key of a settings file is the name of a setting")
        if key in lines:
            raise InvalidRequestError(f"{source}: {key} is given twice, first in line {lines[key]}")
        lines[key] = _line(key_node)
        value = _node_value(value_node)
        if value is None:
            raise InvalidRequestError(f"{source}: {key} is a mapping, allowed is {_allowed_for(key)}")
        if value_node.tag != "tag:yaml.org,2002:null":
            found.append(_Given(key, value, source, key))
    return found


def _scalar(node: yaml.Node) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _node_value(node: yaml.Node) -> Value | None:
    """Takes scalars as they are written, so that one conversion serves all sources; `None` for anything nested."""
    if not isinstance(node, yaml.SequenceNode):
        return _scalar(node)
    items = [_scalar(item) for item in node.value]
    return None if None in items else tuple(item for item in items if item is not None)


def _convert(item: _Given) -> object:
    kind = _KINDS[item.key]
    try:
        if isinstance(kind, types.VarTupleType):
            return _split(item.key, item.value)
        if isinstance(kind, types.BoolType):
            return _BOOLS[str(item.value).lower()]
        if isinstance(kind, types.UnionType) and not item.value:
            return None
        number = isinstance(kind, (types.IntType, types.FloatType))
        value = item.value.lower() if isinstance(kind, types.LiteralType) and isinstance(item.value, str) else item.value
        return msgspec.convert(value, _HINTS[item.key], strict=not number)
    except (msgspec.ValidationError, KeyError) as error:
        shown = ", ".join(item.value) if isinstance(item.value, tuple) else item.value
        place = item.source if item.source == item.name else f"{item.source}: {item.name}"
        raise InvalidRequestError(f"{place}: {shown!r} is not allowed, allowed is {_allowed(kind)}") from error


def _split(key: str, value: Value) -> tuple[str, ...]:
    items: Iterable[str] = value if isinstance(value, tuple) else _SEPARATORS.get(key, _SEPARATOR).split(value)
    return tuple(item for item in items if item)


def _allowed_for(key: str) -> str:
    return _allowed(_KINDS[key]) if key in _KINDS else "text or a list of texts"


def _allowed(kind: types.Type) -> str:
    match kind:
        case types.BoolType():
            return "true or false"
        case types.IntType():
            return f"a whole number from {kind.ge} to {kind.le}"
        case types.FloatType():
            return f"a number above {kind.gt} and up to {kind.le}"
        case types.LiteralType():
            return "one of " + ", ".join(str(value) for value in kind.values)
        case types.VarTupleType():
            return "a list of texts"
        case _:
            return "text that is not empty"


def _warning(item: _Given) -> str:
    near = difflib.get_close_matches(item.key, _KINDS, n=1)
    hint = f", did you mean {_respell(item, near[0])}?" if near else ""
    place = "" if item.source == item.name else f"{item.source}: "
    return f"{place}{item.name} is not a setting{hint}"


def _respell(item: _Given, key: str) -> str:
    if item.name.startswith("--"):
        return "--" + key.replace("_", "-")
    return ENV_PREFIX + key.upper() if item.name.startswith(ENV_PREFIX) else key


def _kinds() -> dict[str, types.Type]:
    info = types.type_info(Settings)
    assert isinstance(info, types.StructType)
    fields = {field.name: field.type for field in info.fields}
    return {name: kind.type if isinstance(kind, types.Metadata) else kind for name, kind in fields.items()}


_KINDS = _kinds()
_HINTS = get_type_hints(Settings, include_extras=True)
