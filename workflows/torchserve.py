"""Reads a workflow spec of TorchServe, the `models:` and `dag:` of a `.war` archive, into the same definition as any other file.

A node is computed from the outputs of its parents: of one parent the output itself, of several a mapping by their names. The
answer is the output of the only leaf, or a mapping by leaf name. Nodes that are no models are functions of the handler file.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from flowyard.schemas.models import BatchSize, DelayMs, ModelSpec, Workers
from flowyard.workflows import fields
from flowyard.workflows.definition import LIMIT_NODES, LIMIT_RETRIES, Definition, NodeDefinition, read_identity
from flowyard.workflows.expressions import Call, Expression, Record, Reference
from flowyard.workflows.model_section import local_url, setting_places
from flowyard.workflows.problems import Problems
from flowyard.workflows.references import split_callable
from flowyard.workflows.source import At, Entry, Mapping, Node, Scalar, Sequence, kind_of, to_value

#: What TorchServe says of a bad graph; the messages here begin with it and go on with what is wrong where.
SEVERAL_STARTS = "DAG should have only one start node"
SELF_LOOP = "Self loop exception"
CYCLE = "Not a valid DAG"

SETTINGS: dict[str, Any] = {
    "min-workers": Workers,
    "max-workers": Workers,
    "batch-size": BatchSize,
    "max-batch-delay": DelayMs,
    "retry-attempts": Annotated[int, msgspec.Meta(ge=0, le=LIMIT_RETRIES)],
    "timeout-ms": Annotated[int, msgspec.Meta(ge=1, le=86_400_000)],
}
_DEFAULTS: dict[str, int] = {"batch-size": 1, "max-batch-delay": 50, "retry-attempts": 1, "timeout-ms": 10_000}
_KEYS = ("models", "dag", "name", "version")


def is_spec(root: Node, handler: str | None) -> bool:
    """Whether a file is written in this spelling.

    Args:
        root: The root of its text.
        handler: The handler file that its archive names, if any; a native workflow has none.

    Returns:
        Whether `read_spec` is to read it.
    """
    keys = root.entries if isinstance(root, Mapping) else {}
    return "workflow" not in keys and ("dag" in keys or handler is not None)


def read_spec(root: Node, handler: str | None, name: str, problems: Problems) -> Definition | None:
    """Reads a whole file.

    Args:
        root: The root of its text.
        handler: Path of the handler file in the archive; functions are looked for there.
        name: Name of the workflow, from the manifest of its archive.
        problems: Receives what is wrong.

    Returns:
        What could be read; `None` when the file is no mapping.
    """
    if not isinstance(root, Mapping):
        problems.error("a workflow spec is a mapping with `models` and `dag`", root)
        return None
    for key, entry in root.entries.items():
        if key not in _KEYS:
            problems.error(f"unknown key `{key}`", entry.key, name=key, nearest=problems.nearest(key, _KEYS))
    for key in ("models", "dag"):
        if key not in root.entries:
            problems.error(f"no `{key}`", root, name=key)
    models = _Models(root.entries.get("models"), problems)
    dag = _Dag(root.entries.get("dag"), problems)
    functions = {
        name: _function(name, place, handler, problems) for name, place in dag.places.items() if name not in models.specs
    }
    return Definition(
        **read_identity(root, name, problems),
        models=models.specs,
        functions=functions,
        nodes=_nodes(dag, models),
        spelling="torchserve",
        model_places=models.places,
        setting_places=models.setting_places,
        function_places={name: dag.places[name] for name in functions},
    )


class _Models:
    """The section `models`: settings for all nodes, and models with settings of their own, in any order."""

    def __init__(self, entry: Entry | None, problems: Problems) -> None:
        self._problems = problems
        section = fields.mapping(entry.value, "models", problems) if entry is not None else None
        entries = section.entries if section is not None else {}
        models = {key: item for key, item in entries.items() if isinstance(item.value, Mapping)}
        self.settings: dict[str, int] = dict(_DEFAULTS)
        for key, item in entries.items():
            if key not in models:
                self._read_setting(key, item, self.settings, "models", tuple(SETTINGS))
        self.of_model: dict[str, dict[str, int]] = {}
        self.specs = {name: self._read_model(name, item.value) for name, item in models.items()}
        self.places = {name: At(item.value.line, item.value.column) for name, item in models.items()}
        self.setting_places = {name: setting_places(item.value) for name, item in models.items()}

    def _read_model(self, name: str, node: Node) -> ModelSpec:
        assert isinstance(node, Mapping)
        own: dict[str, int] = {}
        for key, item in node.entries.items():
            if key != "url":
                self._read_setting(key, item, own, f'model "{name}"', ("url", *SETTINGS))
        settings = self.of_model[name] = {**self.settings, **own}
        low, high = settings.get("min-workers"), settings.get("max-workers")
        if low is not None and high is not None and low > high:
            self._problems.error(f'model "{name}": min-workers {low} is more than max-workers {high}', node, name=name)
        return ModelSpec(
            url=self._read_url(name, node),
            min_worker=low,
            max_worker=high,
            batch_size=settings["batch-size"],
            max_batch_delay=settings["max-batch-delay"],
        )

    def _read_url(self, name: str, node: Mapping) -> str:
        if "url" not in node.entries:
            self._problems.error(f'model "{name}" needs `url`', node, name=name)
            return ""
        return local_url(fields.text(node.entries["url"].value, "url", self._problems) or "")

    def _read_setting(self, key: str, entry: Entry, found: dict[str, int], where: str, known: tuple[str, ...]) -> None:
        if key not in SETTINGS:
            fix = f"a model is a mapping with `url`; a setting is one of {', '.join(known)}"
            nearest = self._problems.nearest(key, known)
            self._problems.error(f"{where}: unknown key `{key}`", entry.key, name=key, nearest=nearest, fix=fix)
            return
        value = fields.typed(to_value(entry.value), SETTINGS[key], key, entry.value, self._problems)
        if value is not None:
            found[key] = value


class _Dag:
    """The section `dag`: every node with its parents, in the order of the file."""

    def __init__(self, entry: Entry | None, problems: Problems) -> None:
        self._problems = problems
        self.parents: dict[str, list[str]] = {}
        self.places: dict[str, At] = {}
        section = fields.mapping(entry.value, "dag", problems) if entry is not None else None
        for item in section.entries.values() if section is not None else ():
            self._node(item.key)
            self._children(item)
        if section is not None:
            self._check(section)

    @property
    def leaves(self) -> list[str]:
        """Nodes without children; where everything is in cycles, the last one stands for them."""
        inner = {parent for parents in self.parents.values() for parent in parents}
        return [name for name in self.parents if name not in inner] or list(self.parents)[-1:]

    def _node(self, key: Scalar) -> None:
        if key.text not in self.parents:
            self.parents[key.text] = []
            self.places[key.text] = At(key.line, key.column)

    def _children(self, entry: Entry) -> None:
        children = entry.value
        if isinstance(children, Scalar) and children.value is None:
            return
        if not isinstance(children, Sequence):
            message = f"`dag.{entry.key.text}` must be a list of node names, not {kind_of(children)}"
            self._problems.error(message, children, name=entry.key.text)
            return
        for child in children.items:
            if not isinstance(child, Scalar) or not isinstance(child.value, str):
                self._problems.error(f"a node's name must be a string, not {kind_of(child)}", child, name=entry.key.text)
                continue
            self._node(child)
            if entry.key.text not in self.parents[child.text]:
                self.parents[child.text].append(entry.key.text)

    def _check(self, section: Mapping) -> None:
        if not self.parents:
            self._problems.error("`dag` has no nodes", section, name="dag")
        if len(self.parents) > LIMIT_NODES:
            self._problems.error(f"{len(self.parents)} nodes, the limit is {LIMIT_NODES}", section, name="dag")
        starts = [name for name, parents in self.parents.items() if not parents]
        if len(starts) > 1:
            listed = ", ".join(f'"{name}"' for name in starts[:10])
            self._problems.error(f"{SEVERAL_STARTS}: nothing leads to {listed}", self.places[starts[1]], name=starts[1])
        for name in ("in", "out"):
            if name in self.parents and (name == "in" or self.leaves != ["out"]):
                what = "the request" if name == "in" else "the answer"
                self._problems.error(f"a node cannot be called `{name}`: that is {what}", self.places[name], name=name)


def _function(name: str, place: At, handler: str | None, problems: Problems) -> str:
    if handler is None:
        fix = "functions are in the handler file, which the manifest of the archive names"
        problems.error(f'node "{name}" is no model, and there is no handler file', place, name=name, fix=fix)
        return ""
    target = f"{handler.removesuffix('.py').strip('/').replace('/', '.')}:{name}"
    if split_callable(target) is None:
        # A file need not have the name of a module: TorchServe imports `pred-err.py`, too.
        target = f"{handler.removesuffix('.py').strip('/')}.py:{name}"
    if split_callable(target) is None:
        problems.error(f'node "{name}" is no model and cannot be a function of {handler}', place, name=name)
    return target


def _nodes(dag: _Dag, models: _Models) -> dict[str, NodeDefinition]:
    if len(dag.parents) > LIMIT_NODES or not dag.parents:
        return {}
    nodes = {name: _node(name, dag, models.of_model.get(name, models.settings)) for name in dag.parents}
    if "out" not in nodes:
        place = dag.places[dag.leaves[0]]
        nodes["out"] = NodeDefinition(name="out", call=_outputs(dag.leaves, place), line=place.line, column=place.column)
    return nodes


def _node(name: str, dag: _Dag, settings: dict[str, int]) -> NodeDefinition:
    place = dag.places[name]
    argument = _outputs(dag.parents[name] or ["in"], place)
    return NodeDefinition(
        name=name,
        call=Call(name, (argument,), place.line, place.column),
        timeout_s=settings["timeout-ms"] / 1000,
        retries=settings["retry-attempts"],
        line=place.line,
        column=place.column,
    )


def _outputs(names: list[str], place: At) -> Expression:
    """One node's output, or several by name."""
    references: dict[str, Expression] = {name: Reference(name, place.line, place.column) for name in names}
    return references[names[0]] if len(names) == 1 else Record(references, place.line, place.column)


def describe_cycle(cycle: list[str]) -> str:
    """What TorchServe calls a cycle, and the cycle itself.

    Args:
        cycle: Names of its nodes, the first one again at the end.

    Returns:
        The message.
    """
    return f"{SELF_LOOP if len(cycle) == 2 else CYCLE}: {' -> '.join(cycle)}"
