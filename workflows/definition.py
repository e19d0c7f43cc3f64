"""The workflow file as it is written: names, settings and parsed expressions with their places."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, TypeGuard

import msgspec

from flowyard.schemas.models import ModelSpec
from flowyard.workflows import fields
from flowyard.workflows.expressions import Expression, Unreadable, parse, read_workflow_callee
from flowyard.workflows.model_section import local_url, read_model, read_options, setting_places
from flowyard.workflows.plan import Adapter, CachePolicy, Spelling
from flowyard.workflows.problems import Problems
from flowyard.workflows.references import split_callable
from flowyard.workflows.source import At, Entry, Mapping, Node, Scalar, to_value

LIMIT_NODES = 1_000
LIMIT_RETRIES = 10
MaxEntries = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Condition(msgspec.Struct, frozen=True):
    """The `when` of a node: JMESPath as written."""

    text: str
    line: int
    column: int


class NodeDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the workflow.

    Attributes:
        name: Its name.
        call: What it computes.
        when: Condition under which it is computed.
        otherwise: The `else`: what it yields when the condition does not hold.
        fallback: What it yields when `call` has finally failed.
        timeout_s: Seconds until one attempt counts as failed.
        retries: How often a failure that a retry can cure is tried again.
        cache: Whether and how its results are kept.
        line: Line of its name.
        column: Column of its name.
    """

    name: str
    call: Expression
    when: Condition | None = None
    otherwise: Expression | None = None
    fallback: Expression | None = None
    timeout_s: float | None = None
    retries: int = 0
    cache: CachePolicy | None = None
    line: int
    column: int


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow file.

    Attributes:
        name: Name of the workflow.
        version: Its version, empty when not given.
        timeout_s: Seconds until a whole run is given up, `None` without a limit.
        models: Models by local name.
        workflows: `name[:version]` of registered workflows by local name; they stand among the models.
        functions: `module:callable` by local name.
        adapters: Adapters by name.
        nodes: Nodes by name, in the order of the file.
        spelling: `native` (DJL's included) or `torchserve`.
        on_error: `fail`, or `pass` to hand a failed model's output on to the next node, as DJL does.
        model_places: Where each model's or registered workflow's value stands in the file.
        setting_places: Where each setting of each model stands, by model and by the setting's name in snake_case.
        function_places: Where each function's value stands in the file.
        adapter_places: Where each adapter's value stands in the file.
        workflow_place: Where `workflow:` stands; line 0 when it could not be read.
    """

    name: str
    version: str = ""
    timeout_s: float | None = None
    models: dict[str, ModelSpec] = {}
    workflows: dict[str, str] = {}
    functions: dict[str, str] = {}
    adapters: dict[str, Adapter] = {}
    nodes: dict[str, NodeDefinition] = {}
    spelling: Spelling = "native"
    on_error: Literal["fail", "pass"] = "fail"
    model_places: dict[str, At] = {}
    function_places: dict[str, At] = {}
    adapter_places: dict[str, At] = {}
    setting_places: dict[str, dict[str, At]] = {}
    workflow_place: At = At(0, 0)

    def model_place(self, name: str, setting: str = "") -> At:
        """Where a setting of a model stands, or the model where the setting is not said."""
        return self.setting_places.get(name, {}).get(setting) or self.model_places.get(name, At(0, 0))


_Reader: TypeAlias = Callable[[Entry, dict[str, Any], Problems], None]


def read_definition(root: Node, name: str, problems: Problems) -> Definition | None:
    """Reads a whole file.

    Args:
        root: The root of its text.
        name: Name of the workflow where the file gives none; without both, that is a problem.
        problems: Receives what is wrong.

    Returns:
        What could be read; `None` when the file is no mapping.
    """
    if not isinstance(root, Mapping):
        problems.error("a workflow file is a mapping with `name` and `workflow`", root)
        return None
    found: dict[str, Any] = {"name": name}
    for key, entry in root.entries.items():
        reader = _READERS.get(key)
        if reader is not None:
            reader(entry, found, problems)
        else:
            _refuse_key(key, entry, problems)
    for key in ("name", "workflow"):
        if key not in root.entries and not (key == "name" and name):
            problems.error(f"no `{key}`", root, name=key)
    return Definition(**found)


def _refuse_key(key: str, entry: Entry, problems: Problems) -> None:
    if key == "baseUri":
        problems.warning("`baseUri` has no effect here: functions are Python modules of the archive", entry.key, name=key)
    else:
        problems.error(f"unknown key `{key}`", entry.key, name=key, nearest=problems.nearest(key, _READERS))


def read_identity(root: Mapping, name: str, problems: Problems) -> dict[str, Any]:
    """Reads `name` and `version`.

    Args:
        root: The whole file.
        name: The name where the file gives none.
        problems: Receives what is wrong.

    Returns:
        The two by key.
    """
    found: dict[str, Any] = {"name": name}
    for key in ("name", "version"):
        if key in root.entries:
            _READERS[key](root.entries[key], found, problems)
    return found


def _read_name(entry: Entry, found: dict[str, Any], problems: Problems) -> None:
    name = fields.text(entry.value, "name", problems)
    if name is None:
        return
    if not _NAME.fullmatch(name):
        message = f'the name "{name}" may have letters, digits, `_`, `.` and `-`, 128 at most, and starts with a letter or digit'
        problems.error(message, entry.value, name=name)
    found["name"] = name


def _read_version(entry: Entry, found: dict[str, Any], problems: Problems) -> None:
    version = fields.text(entry.value, "version", problems)
    if version is None:
        return
    if version and not _NAME.fullmatch(version):
        problems.error(f'the version "{version}" may have letters, digits, `_`, `.` and `-`', entry.value, name=version)
    found["version"] = version


def _read_timeout(entry: Entry, found: dict[str, Any], problems: Problems) -> None:
    found["timeout_s"] = fields.timeout(entry.value, "timeout", problems)


def _read_on_error(entry: Entry, found: dict[str, Any], problems: Problems) -> None:
    if to_value(entry.value) in ("fail", "pass"):
        found["on_error"] = to_value(entry.value)
    else:
        problems.error("`on_error` must be `fail` or `pass`", entry.value, name="on_error")


def _read_models(entry: Entry, found: dict[str, Any], problems: Problems) -> None:
    section = fields.mapping(entry.value, "models", problems)
    entries = section.entries if section is not None else {}
    # A model that cannot be read stays known by name, or every use of it would be a problem of its own.
    workflows = {name: item.value for name, item in entries.items() if _is_workflow(item.value)}
    models = {name: item.value for name, item in entries.items() if name not in workflows}
    found["models"] = {name: read_model(name, node, problems) or ModelSpec() for name, node in models.items()}
    found["workflows"] = {name: read_workflow_callee(node, problems) or name for name, node in workflows.items()}
    found["model_places"] = _places(entries)
    found["setting_places"] = {name: setting_places(node) for name, node in models.items()}
    _check_names("model", entries, entry, problems)


def _check_names(kind: str, entries: dict[str, Entry], section: Entry, problems: Problems) -> None:
    if len(entries) > LIMIT_NODES:
        problems.error(f"{len(entries)} {kind}s, the limit is {LIMIT_NODES}", section.key, name=f"{kind}s")
    for name, entry in entries.items():
        # A slash would make two segments of the path of a URL.
        if not _is_name(name) or "/" in name:
            problems.error(f"a {kind}'s name must be printable, without `/`, and have 1 to 128 characters", entry.key, name=name)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 128 and name.isprintable()


def _is_workflow(node: Node) -> TypeGuard[Mapping]:
    return isinstance(node, Mapping) and "workflow" in node.entries


def _read_functions(entry: Entry, found: dict[str, Any], problems: Problems) -> None:
    section = fields.mapping(entry.value, "functions", problems)
    entries = section.entries if section is not None else {}
    found["functions"] = {name: _read_function(name, item.value, problems) for name, item in entries.items()}
    found["function_places"] = _places(entries)
    _check_names("function", entries, entry, problems)


def _read_function(name: str, node: Node, problems: Problems) -> str:
    target = fields.text(node, f"functions.{name}", problems) or ""
    if target and split_callable(target) is None:
        message = f'function "{name}" must be `module:callable`, not "{target}"'
        problems.error(message, node, name=name, fix="a Python module of the archive and a function in it")
    return target


def _read_configs(entry: Entry, found: dict[str, Any], problems: Problems) -> None:
    """Reads DJL's configuration of functions; of it, only that of `adapter` means something here (DJL §3.1)."""
    section = fields.mapping(entry.value, "configs", problems)
    for key, item in section.entries.items() if section is not None else ():
        if key != "adapters":
            problems.warning(f"`configs.{key}` has no effect here", item.key, name=key)
            continue
        adapters = fields.mapping(item.value, "configs.adapters", problems)
        entries = adapters.entries if adapters is not None else {}
        found["adapters"] = {name: _read_adapter(name, one.value, problems) for name, one in entries.items()}
        found["adapter_places"] = _places(entries)


def _read_adapter(name: str, node: Node, problems: Problems) -> Adapter:
    section = fields.mapping(node, f"configs.adapters.{name}", problems)
    entries = section.entries if section is not None else {}
    for key, item in entries.items():
        if key not in ("model", "src", "options"):
            nearest = problems.nearest(key, ("model", "src", "options"))
            problems.error(f'adapter "{name}": unknown key `{key}`', item.key, name=key, nearest=nearest)
    for key in ("model", "src") if section is not None else ():
        if key not in entries:
            problems.error(f'adapter "{name}" needs `{key}`', node, name=key)
    texts = {key: fields.text(entries[key].value, key, problems) or "" for key in ("model", "src") if key in entries}
    options = read_options(entries["options"].value, "options", problems) if "options" in entries else None
    return Adapter(model=texts.get("model", ""), src=local_url(texts.get("src", "")), options=options or {})


def _places(entries: dict[str, Entry]) -> dict[str, At]:
    return {name: At(entry.value.line, entry.value.column) for name, entry in entries.items()}


def _read_workflow(entry: Entry, found: dict[str, Any], problems: Problems) -> None:
    section = fields.mapping(entry.value, "workflow", problems)
    entries = section.entries if section is not None else {}
    if len(entries) > LIMIT_NODES:
        problems.error(f"{len(entries)} nodes, the limit is {LIMIT_NODES}", entry.key, name="workflow")
    elif section is not None:
        found["workflow_place"] = At(entry.key.line, entry.key.column)
        found["nodes"] = {name: _read_node(name, item, problems) for name, item in entries.items()}


def _read_node(name: str, entry: Entry, problems: Problems) -> NodeDefinition:
    """Reads one node; one that cannot be read stays known by name as a constant."""
    if name == "in":
        problems.error("a node cannot be called `in`: that is the request", entry.key, name=name)
    if not _is_name(name):
        problems.error("a node's name must be printable and have 1 to 128 characters", entry.key, name=name)
    node, key = entry.value, entry.key
    if isinstance(node, Mapping) and set(node.entries) != {"value"}:
        return _read_long_node(name, key, node, problems)
    if name == "out" and isinstance(node, Scalar) and node.value == "in":
        # DJL takes no reference for a node at all; one that computes nothing is a slip.
        problems.error("`out` is the request itself; [id, in] says that this is meant", node, name=name)
    return NodeDefinition(name=name, call=parse(node, problems), line=key.line, column=key.column)


def _read_long_node(name: str, key: Scalar, node: Mapping, problems: Problems) -> NodeDefinition:
    found: dict[str, Any] = {}
    for setting, entry in node.entries.items():
        if setting in _NODE_READERS:
            found.update(_NODE_READERS[setting](entry.value, problems))
        else:
            nearest = problems.nearest(setting, _NODE_READERS)
            problems.error(f'node "{name}": unknown key `{setting}`', entry.key, name=setting, nearest=nearest)
    if "call" not in node.entries:
        problems.error(f'node "{name}" has no `call`', key, name=name)
    if "otherwise" in found and "when" not in node.entries:
        problems.error(f'node "{name}" has `else` but no `when`', node.entries["else"].key, name="else")
    found.setdefault("call", Unreadable(key.line, key.column))
    return NodeDefinition(name=name, line=key.line, column=key.column, **found)


def _read_when(node: Node, problems: Problems) -> dict[str, Any]:
    if isinstance(node, Scalar) and isinstance(node.value, str) and node.value.strip():
        return {"when": Condition(node.value, node.line, node.column)}
    problems.error("`when` must be a JMESPath expression", node, name="when")
    return {}


def _read_retries(node: Node, problems: Problems) -> dict[str, Any]:
    retries = to_value(node)
    if type(retries) is int and 0 <= retries <= LIMIT_RETRIES:
        return {"retries": retries}
    problems.error(f"`retries` must be a whole number from 0 to {LIMIT_RETRIES}", node, name="retries")
    return {}


def _read_cache(node: Node, problems: Problems) -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {"cache": _read_cache_policy(node, problems)}
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return {"cache": CachePolicy() if node.value else None}
    ttl_s = fields.timeout(node, "cache", problems)
    return {"cache": CachePolicy(ttl_s=ttl_s)} if ttl_s is not None else {}


def _read_cache_policy(node: Mapping, problems: Problems) -> CachePolicy:
    found: dict[str, Any] = {}
    for key, entry in node.entries.items():
        if key == "ttl":
            found["ttl_s"] = fields.timeout(entry.value, "ttl", problems)
        elif key == "max_entries":
            found["max_entries"] = fields.typed(to_value(entry.value), MaxEntries, key, entry.value, problems)
        else:
            nearest = problems.nearest(key, ("ttl", "max_entries"))
            problems.error(f"`cache`: unknown key `{key}`", entry.key, name=key, nearest=nearest)
    return CachePolicy(**{key: value for key, value in found.items() if value is not None})


_NODE_READERS: dict[str, Callable[[Node, Problems], dict[str, Any]]] = {
    "call": lambda node, problems: {"call": parse(node, problems)},
    "when": _read_when,
    "else": lambda node, problems: {"otherwise": parse(node, problems)},
    "timeout": lambda node, problems: {"timeout_s": fields.timeout(node, "timeout", problems)},
    "retries": _read_retries,
    "cache": _read_cache,
    "fallback": lambda node, problems: {"fallback": parse(node, problems)},
}
_READERS: dict[str, _Reader] = {
    "name": _read_name,
    "version": _read_version,
    "timeout": _read_timeout,
    "models": _read_models,
    "functions": _read_functions,
    "workflow": _read_workflow,
    "on_error": _read_on_error,
    "configs": _read_configs,
}
