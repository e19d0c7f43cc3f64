"""Turns the nodes of a definition into draft steps, and notes every reference, callee and argument that is wrong."""

from __future__ import annotations

import json

import msgspec

from flowyard.schemas.payload import Payload
from flowyard.workflows import builtin, paths
from flowyard.workflows.definition import Condition, Definition, NodeDefinition
from flowyard.workflows.draft import Draft
from flowyard.workflows.expressions import Branches, Call, Expression, Literal, Record, Reference, Unreadable
from flowyard.workflows.plan import (
    APPLY,
    BUILT_IN,
    CALL,
    FROM_HEADER,
    FROM_LITERAL,
    FROM_QUERY,
    FROM_REQUEST,
    FROM_STEP,
    HAND_ON,
    MAP,
    SWITCH,
    CachePolicy,
    Callee,
    Operand,
)
from flowyard.workflows.problems import Place, Problems
from flowyard.workflows.references import resolve, split_registered
from flowyard.workflows.torchserve_rows import Collector

NOTHING: Operand = (FROM_LITERAL, Payload.of(None), None)


class Use(msgspec.Struct, frozen=True):
    """One use of a model, function or registered workflow: with how many arguments, and where."""

    callee: Callee
    arguments: int
    line: int
    column: int


#: Built-ins that take only some kinds of values, and what to call those.
_TAKES: dict[str, tuple[tuple[type, ...], str]] = {
    "merge": ((list, dict), "mappings or lists"),
    "batch": ((list, int, float), "numbers and lists of numbers"),
    "unbatch": ((list,), "a list"),
}
#: Nested calls count too: anchors make many of them out of a short text.
LIMIT_CALLS = 10_000


class Lowering:
    """Makes one draft per node.

    Attributes:
        uses: Every call of a model, function or registered workflow that was found.
    """

    def __init__(self, definition: Definition, problems: Problems) -> None:
        self._definition = definition
        self._problems = problems
        self.uses: list[Use] = []
        self._calls = 0

    def node(self, node: NodeDefinition) -> Draft:
        """Makes the draft of a node.

        Args:
            node: The node.

        Returns:
            Its draft; operands that could not be understood are null, with a problem noted.
        """
        draft = self._expression_draft(node.call, node.name, None)
        draft.line, draft.column = node.line, node.column
        draft.timeout_s, draft.retries = node.timeout_s, node.retries
        draft.cache = self._cache(node, draft)
        if node.when is not None:
            self._condition(draft, node.when)
        if node.otherwise is not None:
            draft.otherwise = self._operand(node.otherwise, f"{node.name}[else]", draft)
        if node.fallback is not None:
            draft.fallback = self._operand(node.fallback, f"{node.name}[fallback]", draft)
        return draft

    def _cache(self, node: NodeDefinition, draft: Draft) -> CachePolicy | None:
        if node.cache is None or draft.kind in (CALL, MAP, APPLY):
            return node.cache
        what = f"`{draft.callees[0].name}`" if draft.callees else "a reference"
        self._problems.warning(f'node "{node.name}": `cache` has no effect on {what}', node, name="cache")
        return None

    def _expression_draft(self, expression: Expression, name: str, parent: Draft | None) -> Draft:
        if isinstance(expression, Call):
            return self._call(expression, name, parent)
        if isinstance(expression, Record):
            return self._record(expression, name, parent)
        draft = Draft(name, HAND_ON, parent, expression)
        draft.args = [self._operand(expression, name, draft)]
        return draft

    def _operand(self, expression: Expression, name: str, parent: Draft) -> Operand:
        if isinstance(expression, Call):
            return FROM_STEP, self._call(expression, name, parent), None
        if isinstance(expression, Record):
            return FROM_STEP, self._record(expression, name, parent), None
        if isinstance(expression, Reference):
            return self._reference(expression.text, expression, "for a string, write {value: ...}")
        if isinstance(expression, Branches):
            self._problems.error("a mapping is no argument here; write {value: ...} for a literal one", expression)
        if isinstance(expression, (Branches, Unreadable)):
            return NOTHING
        return FROM_LITERAL, Payload.of(expression.value), None

    def _reference(self, text: str, at: Place, otherwise: str) -> Operand:
        target = resolve(text, self._definition.nodes)
        if target is None:
            self._unknown_reference(text, at, otherwise)
            return NOTHING
        if target.base == "in.headers":
            return FROM_HEADER, target.rest.lower(), None
        if target.base == "in.query":
            return FROM_QUERY, target.rest, None
        path = self._path(target.rest, at) if target.rest else None
        return (FROM_REQUEST, 0, path) if target.base == "in" else (FROM_STEP, target.base, path)

    def _unknown_reference(self, text: str, at: Place, otherwise: str) -> None:
        base = text.split(".", 1)[0]
        known = ["in", *self._definition.nodes]
        callee = base in self._names()
        nearest = "" if callee else self._problems.nearest(base, known)
        fix = f"to call it, write [{base}, in]" if callee else otherwise
        self._problems.error(f'unknown reference "{text}"', at, name=base, nearest=nearest, fix=fix)

    def _path(self, text: str, at: Place) -> paths.Path | None:
        try:
            return paths.compile_path(text)
        except paths.PathError as error:
            self._problems.error(f'JMESPath "{text}": {error}', at, name=text)
            return None

    def _condition(self, draft: Draft, when: Condition) -> None:
        try:
            draft.condition, names = paths.compile_condition(when.text)
        except paths.PathError as error:
            fix = "" if "`" in when.text else "write numbers as `1`, strings as 'x'"
            self._problems.error(f'`when` of node "{draft.name}": JMESPath "{when.text}": {error}', when, name=when.text, fix=fix)
            return
        draft.condition_names = [(name, self._reference(name, when, "strings stand in single quotes")) for name in names]

    def _call(self, call: Call, name: str, parent: Draft | None) -> Draft:
        self._calls += 1
        if self._calls == LIMIT_CALLS + 1:
            self._problems.error(f"more than {LIMIT_CALLS} calls", call, name=call.callee)
        callee = self._workflow(call.callee, call) if call.is_workflow else self.callee(call.callee, call)
        if callee is None or callee.kind != "builtin":
            draft = Draft(name, CALL, parent, call)
            draft.args = self._arguments(call.args, draft)
            self._use(draft, callee, len(call.args), call)
            return draft
        draft = Draft(name, BUILT_IN, parent, call)
        if self._arity_fits(call):
            special = {"switch": self._switch, "map": self._map, "functionsApply": self._apply, "adapter": self._adapter}
            special.get(call.callee, self._built_in)(draft, call)
        return draft

    def _record(self, record: Record, name: str, parent: Draft | None) -> Draft:
        draft = Draft(name, BUILT_IN, parent, record)
        draft.callees = (self._collector(tuple(record.fields), is_answer=name == "out"),)
        draft.args = [self._operand(field, f"{name}[{key}]", draft) for key, field in record.fields.items()]
        return draft

    def _collector(self, names: tuple[str, ...], *, is_answer: bool) -> Callee:
        """What makes one value of several by name; the parents and the leaves of TorchServe's nodes have rules of their own."""
        if self._definition.spelling == "native":
            return Callee("builtin", "mapping", builtin.mapping_of(names))
        return Callee("builtin", "mapping", Collector(names, is_answer=is_answer))

    def _arguments(self, args: tuple[Expression, ...], draft: Draft, first: int = 1) -> list[Operand]:
        return [self._operand(arg, f"{draft.name}[{first + at}]", draft) for at, arg in enumerate(args)]

    def _names(self) -> list[str]:
        """Every name that the file gives to something that can be called."""
        definition = self._definition
        return [*definition.models, *definition.workflows, *definition.functions]

    def _workflow(self, reference: str, at: Place) -> Callee:
        split = split_registered(reference)
        definition = self._definition
        if split is not None and split[0] == definition.name and split[1] in ("", definition.version):
            self._problems.error(f'a cycle: the workflow "{definition.name}" calls itself', at, name=definition.name)
        return Callee("workflow", reference)

    def callee(self, name: str, at: Place) -> Callee | None:
        """Finds a callee: models shadow functions, both shadow built-ins (DJL §3.2)."""
        if name in self._definition.models:
            return Callee("model", name)
        if name in self._definition.workflows:
            return self._workflow(self._definition.workflows[name], at)
        if name in self._definition.functions:
            return Callee("function", name)
        if name in builtin.ARITY:
            return Callee("builtin", name, builtin.FUNCTIONS.get(name))
        known = [*self._names(), *builtin.ARITY]
        is_node = name == "in" or name in self._definition.nodes
        fix = "that is a node, whose value is written without brackets" if is_node else ""
        nearest = "" if is_node else self._problems.nearest(name, known)
        self._problems.error(f'unknown model or function "{name}"', at, name=name, nearest=nearest, fix=fix)
        return None

    def _use(self, draft: Draft, callee: Callee | None, arguments: int, at: Place) -> None:
        if callee is None:
            return
        draft.callees = (*draft.callees, callee)
        if callee.kind != "builtin":
            self.uses.append(Use(callee, arguments, at.line, at.column))
        if callee.kind == "model":
            self._check_model_arity(callee.name, arguments, at)
        elif callee.kind == "workflow" and arguments != 1:
            self._problems.error(f'workflow "{callee.name}" takes 1 argument, not {arguments}', at, name=callee.name)

    def _check_model_arity(self, name: str, arguments: int, at: Place) -> None:
        """A model takes one mapping of its inputs, or as many arguments as it has inputs."""
        inputs = len(self._definition.models[name].inputs)
        if arguments == 1 or (arguments == inputs if inputs else arguments > 1):
            return
        takes = f"1 argument or {inputs}" if inputs > 1 else "1 argument" if inputs else "at least 1 argument"
        self._problems.error(f'model "{name}" takes {takes}, not {arguments}', at, name=name)

    def _arity_fits(self, call: Call) -> bool:
        least, most = builtin.ARITY[call.callee]
        count = len(call.args)
        if least <= count <= most:
            return True
        message = f"`{call.callee}` takes {describe_arity(least, most)}, not {count}"
        self._problems.error(message, call, name=call.callee)
        return False

    def _built_in(self, draft: Draft, call: Call) -> None:
        try:
            function, args = builtin.bind(call.callee, call.args)
        except builtin.BadOption as error:
            nearest = self._problems.nearest(error.name, error.known) if error.known else ""
            self._problems.error(f"`{call.callee}`: {error}", error.at or call, name=error.name or call.callee, nearest=nearest)
            return
        if call.callee in _TAKES:
            self._check_literals(call.callee, args, *_TAKES[call.callee])
        draft.callees = (Callee("builtin", call.callee, function),)
        draft.kind = HAND_ON if call.callee == "id" else BUILT_IN
        draft.args = self._arguments(args, draft)

    def _switch(self, draft: Draft, call: Call) -> None:
        key, branches = call.args
        draft.kind = SWITCH
        draft.callees = (Callee("builtin", "switch"),)
        draft.args = self._arguments((key,), draft)
        if not isinstance(branches, Branches) or not branches.branches:
            self._problems.error("`switch` takes a key and a mapping of branches", branches, name="switch")
            return
        draft.branches = {
            name: self._operand(branch, f"{draft.name}[{name}]", draft) for name, branch in branches.branches.items()
        }

    def _map(self, draft: Draft, call: Call) -> None:
        draft.kind = MAP
        self._several(draft, (call.args[0],))
        self._check_literals(call.callee, call.args[1:], (list,), "a list")
        draft.args = self._arguments(call.args[1:], draft, first=2)

    def _apply(self, draft: Draft, call: Call) -> None:
        draft.kind = APPLY
        names = call.args[0]
        if isinstance(names, Call):
            # A list is read as a call; here it is a list of names.
            first = Reference(names.callee, names.line, names.column)
            callee = Branches({"workflow": first}, names.line, names.column) if names.is_workflow else first
            self._several(draft, (callee, *names.args))
        else:
            self._problems.error("`functionsApply` takes a list of names first", names, name="functionsApply")
        draft.args = self._arguments(call.args[1:], draft, first=2)

    def _adapter(self, draft: Draft, call: Call) -> None:
        """A call of the adapter's model, with the adapter's name put into the argument."""
        given, argument = call.args
        name = given.text if isinstance(given, Reference) else given.value if isinstance(given, Literal) else None
        if not isinstance(name, str):
            self._problems.error("`adapter` takes the name of an adapter first", given, name="adapter")
            return
        adapter = self._definition.adapters.get(name)
        if adapter is None:
            nearest = self._problems.nearest(name, self._definition.adapters)
            self._problems.error(f'no adapter "{name}" in `configs.adapters`', given, name=name, nearest=nearest)
            return
        draft.kind = CALL
        draft.callees = (Callee("model", adapter.model),)
        marked = Draft(f"{draft.name}[2]", BUILT_IN, draft, call)
        marked.callees = (Callee("builtin", "adapter", builtin.Adapted(name)),)
        marked.args = self._arguments((argument,), marked)
        draft.args = [(FROM_STEP, marked, None)]

    def _check_literals(self, name: str, args: tuple[Expression, ...], kinds: tuple[type, ...], what: str) -> None:
        """A literal that a built-in can never take; other arguments are known only when the workflow runs."""
        for arg in args:
            if isinstance(arg, Literal) and (not isinstance(arg.value, kinds) or isinstance(arg.value, bool)):
                self._problems.error(f"`{name}` takes {what}, not {json.dumps(arg.value)[:60]}", arg, name=name)

    def _several(self, draft: Draft, names: tuple[Expression, ...]) -> None:
        """Notes the callees of `map` and `functionsApply`; each gets one argument."""
        for name in names:
            self._use(draft, self._one_of_several(name), 1, name)

    def _one_of_several(self, name: Expression) -> Callee | None:
        workflow = name.branches.get("workflow") if isinstance(name, Branches) and len(name.branches) == 1 else None
        if isinstance(workflow, Reference) and split_registered(workflow.text) is not None:
            return self._workflow(workflow.text, name)
        if not isinstance(name, Reference):
            self._problems.error("expected the name of a model or function", name)
            return None
        callee = self.callee(name.text, name)
        if callee is not None and callee.kind == "builtin" and callee.function is None:
            self._problems.error(f"`{name.text}` cannot be applied to one value", name, name=name.text)
        return callee


def describe_arity(least: int, most: int) -> str:
    """Says how many arguments are taken: `1 argument`, `at least 2 arguments`, `1 to 3 arguments`."""
    if least == most:
        return f"{least} argument{'' if least == 1 else 's'}"
    if most >= builtin.ANY:
        return f"at least {least} argument{'' if least == 1 else 's'}"
    return f"{least} to {most} arguments"
