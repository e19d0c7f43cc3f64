"""The plan of a workflow: everything a run needs, as plain frozen arrays. Made once, shared by all runs.

An operand says where a value comes from: `(kind, target, path)`, where `path` is a compiled JMESPath or `None`:

- `(FROM_STEP, index, path)`: the value of another step;
- `(FROM_REQUEST, 0, path)`: the body of the request;
- `(FROM_LITERAL, payload, None)`: a value of the file;
- `(FROM_HEADER, name, None)` and `(FROM_QUERY, name, None)`: a header (name in lower case) or a query parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from flowyard.schemas.models import ModelSpec
from flowyard.schemas.values import Value
from flowyard.workflows.paths import Path

FROM_STEP, FROM_REQUEST, FROM_LITERAL, FROM_HEADER, FROM_QUERY = range(5)
#: What a step does: hand a value on, call a built-in, call a worker, choose, call once per item, call each of several.
HAND_ON, BUILT_IN, CALL, SWITCH, MAP, APPLY = range(6)
KINDS = ("value", "builtin", "call", "switch", "map", "apply")

Spelling: TypeAlias = Literal["native", "torchserve"]
CalleeKind: TypeAlias = Literal["model", "function", "workflow"]
Operand: TypeAlias = tuple[int, Any, Path | None]
BuiltIn: TypeAlias = Callable[[list[Value]], Value]


class Callee(msgspec.Struct, frozen=True, gc=False):
    """What a step calls.

    Attributes:
        kind: `model` and `function` run in a worker, `workflow` is a registered one, `builtin` runs in the server.
        name: Its local name; of a workflow, `name[:version]`.
        function: The built-in itself.
    """

    kind: Literal["model", "function", "workflow", "builtin"]
    name: str
    function: BuiltIn | None = None


class Guard(msgspec.Struct, frozen=True):
    """The `when` of a step.

    Attributes:
        path: The condition.
        names: What it names, and where each comes from.
        deps: Steps that it waits for.
    """

    path: Path
    names: tuple[tuple[str, Operand], ...]
    deps: tuple[int, ...]


class CachePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The `cache` of a step: how long and how many of its results are kept.

    Attributes:
        ttl_s: Seconds until a result is forgotten, `None` for never.
        max_entries: Results that are kept; the one not used for the longest time goes first.
    """

    ttl_s: float | None = None
    max_entries: int = 1_000


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a plan.

    Attributes:
        name: The node's name; a call nested in node `out` as its first argument is `out[1]`.
        kind: `HAND_ON`, `BUILT_IN`, `CALL`, `SWITCH`, `MAP` or `APPLY`.
        callees: What it calls; several only for `APPLY`.
        args: Its arguments.
        deps: Steps that `args` come from.
        guard: Its `when`.
        otherwise: What it yields when its condition does not hold; without, null.
        fallback: What it yields when it has failed.
        branches: The alternatives of a `SWITCH`.
        timeout_s: Seconds until an attempt has failed.
        retries: How often a failure that a retry can cure is tried again.
        cache: Whether and how its results are kept by the content of its arguments.
        parent: The step that this one is nested in, -1 for a node.
        children: Steps nested in this one.
        line: Where its name, or a nested call, stands in the file; 0 when there is none.
        column: Likewise.
    """

    name: str
    kind: int
    callees: tuple[Callee, ...] = ()
    args: tuple[Operand, ...] = ()
    deps: tuple[int, ...] = ()
    guard: Guard | None = None
    otherwise: Operand | None = None
    fallback: Operand | None = None
    branches: dict[str, Operand] = {}
    timeout_s: float | None = None
    retries: int = 0
    cache: CachePolicy | None = None
    parent: int = -1
    children: tuple[int, ...] = ()
    line: int = 0
    column: int = 0


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter of a model, to be loaded into it before the first call (DJL §1.11).

    Attributes:
        model: Local name of the model.
        src: Where the adapter is.
        options: What the model's handler makes of it.
    """

    model: str
    src: str
    options: dict[str, str] = {}


class Registered(msgspec.Struct, frozen=True, gc=False):
    """A model or workflow that has to be registered on the server.

    Attributes:
        kind: `model` (`{model: name}`) or `workflow` (`{workflow: name}`).
        name: `name[:version]`.
        line: Where it is named first.
        column: Likewise.
    """

    kind: Literal["model", "workflow"]
    name: str
    line: int
    column: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow, ready to run.

    Attributes:
        name: Name of the workflow.
        version: Its version, empty when not given.
        steps: The steps that `out` needs, inputs before those who use them.
        out: Index of the step that is the answer.
        models: Every model of the file by local name.
        functions: `module:callable` of every function of the file by local name.
        adapters: Adapters by name (`configs.adapters`).
        timeout_s: Seconds until a run is given up, `None` without a limit.
        pass_errors: Whether a failed model's output goes on to the next node (`on_error: pass`).
        spelling: Of the file. The functions of a `torchserve` plan are written `f(data, context)`: `data` is a list of rows,
            `[{"body": value}]` or, where the value is a mapping of several parents' outputs, `[value]`; at load it is `None`.
        file: Name of the file, for problems.
        references: Registered models and workflows that the file names, each once.
    """

    name: str
    version: str = ""
    steps: tuple[Step, ...]
    out: int
    models: dict[str, ModelSpec] = {}
    functions: dict[str, str] = {}
    adapters: dict[str, Adapter] = {}
    timeout_s: float | None = None
    pass_errors: bool = False
    spelling: Spelling = "native"
    file: str = ""
    references: tuple[Registered, ...] = ()


def single_model_plan(name: str, spec: ModelSpec) -> Plan:
    """The plan of a single model: `out: [model, in]`.

    Args:
        name: Name of the model, also of its only step.
        spec: The model.

    Returns:
        A plan with one step.
    """
    step = Step(name=name, kind=CALL, callees=(Callee("model", name),), args=((FROM_REQUEST, 0, None),))
    return Plan(name=name, steps=(step,), out=0, models={name: spec})
