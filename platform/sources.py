"""What says how the server is to be set up: a YAML file, the environment, flags. Texts only; `settings` makes values of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from flowyard.schemas.errors import InvalidRequestError

ENV_PREFIX = "FLOWYARD_"

#: What a source says before it is converted: text, or several texts.
Value = str | tuple[str, ...]


class Given(msgspec.Struct, frozen=True):
    """One value as a source gives it.

    Attributes:
        key: Name of the setting.
        value: What is said; `None` for what no setting is, a mapping.
        source: Where: `flowyard.yaml:3`, `FLOWYARD_PORT`, `--port`.
        name: The key as the source spells it.
    """

    key: str
    value: Value | None
    source: str
    name: str

    @property
    def place(self) -> str:
        """Where it is said, and as what."""
        return self.source if self.source == self.name else f"{self.source}: {self.name}"


def from_env(env: Mapping[str, str]) -> list[Given]:
    """The variables `FLOWYARD_<KEY>`, less the one that Kubernetes sets in the pods beside a service called flowyard."""
    names = sorted(name for name in env if name.startswith(ENV_PREFIX) and not _is_of_kubernetes(name, env[name]))
    return [Given(name.removeprefix(ENV_PREFIX).lower(), env[name], name, name) for name in names]


def _is_of_kubernetes(name: str, value: str) -> bool:
    return name == f"{ENV_PREFIX}PORT" and value.startswith(("tcp://", "udp://", "sctp://"))


def from_flags(flags: Mapping[str, object]) -> list[Given]:
    """Flags by the name of their setting; `None` is an absent one."""
    spelled = {key: "--" + key.replace("_", "-") for key in flags}
    return [Given(key, _as_text(value), spelled[key], spelled[key]) for key, value in flags.items() if value is not None]


def _as_text(value: object) -> Value:
    if isinstance(value, (list, tuple)):
        return tuple(str(item) for item in value)
    return str(value)


def from_yaml(file: Path) -> list[Given]:
    """The entries of a YAML file with a mapping of settings; null leaves a setting as it is.

    Raises:
        InvalidRequestError: It cannot be read, is no such file, or has a key twice; the message names file and line.
    """
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{file}: the settings file cannot be read: {_reason(error)}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidRequestError(f"{file}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
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


def _entries(file: Path, root: yaml.MappingNode) -> list[Given]:
    found: list[Given] = []
    lines: dict[str, int] = {}
    for key_node, value_node in root.value:
        source, key = f"{file}:{_line(key_node)}", _scalar(key_node)
        if key is None:
            raise InvalidRequestError(f"{source}: a key of a settings file is the name of a setting")
        if key in lines:
            raise InvalidRequestError(f"{source}: {key} is given twice, first in line {lines[key]}")
        lines[key] = _line(key_node)
        if value_node.tag != "tag:yaml.org,2002:null":
            found.append(Given(key.lower() if key.isupper() else key, _node_value(value_node), source, key))
    return found


def _scalar(node: yaml.Node) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _node_value(node: yaml.Node) -> Value | None:
    """Takes scalars as they are written, so that one conversion serves all sources; `None` for anything nested."""
    if not isinstance(node, yaml.SequenceNode):
        return _scalar(node)
    items = [_scalar(item) for item in node.value]
    return None if None in items else tuple(item for item in items if item is not None)
