"""The graph of a workflow, checked at load: references, cycles, what `out` needs."""

from __future__ import annotations

import networkx as nx

from flowyard.workflows.builtin import ARITY
from flowyard.workflows.definition import Definition
from flowyard.workflows.draft import Draft, finish
from flowyard.workflows.lowering import Lowering, Use
from flowyard.workflows.plan import FROM_HEADER, FROM_QUERY, FROM_REQUEST, Plan, Registered
from flowyard.workflows.problems import Place, Problems
from flowyard.workflows.torchserve import describe_cycle


class Graph:
    """The nodes of a workflow and what each takes its values from.

    Attributes:
        uses: Every call of a model, function or registered workflow.
    """

    def __init__(self, definition: Definition, problems: Problems) -> None:
        self._definition = definition
        self._problems = problems
        lowering = Lowering(definition, problems)
        self._drafts = {name: lowering.node(node) for name, node in definition.nodes.items()}
        self.uses: list[Use] = lowering.uses
        self._graph = self._edges()

    def _edges(self) -> nx.DiGraph[str]:
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(self._drafts)
        for name, draft in self._drafts.items():
            graph.add_edges_from((source, name) for source in sorted(draft.node_names()))
            if _reads_request(draft):
                graph.add_edge("in", name)
        return graph

    def check(self) -> None:
        """Notes shadowed names, cycles, an `out` that is missing or constant, and nodes nobody uses."""
        if self._definition.spelling == "native":
            self._check_shadows()
        self._check_adapters()
        self._check_cycles()
        if "out" in self._drafts:
            self._check_use()
        elif self._definition.workflow_place.line:
            nearest = self._problems.nearest("out", self._drafts)
            self._problems.error("no node `out`", self._definition.workflow_place, name="out", nearest=nearest)

    def _check_shadows(self) -> None:
        functions = self._definition.functions
        models = self._definition.models.keys() | self._definition.workflows.keys()
        for name in functions.keys() & models:
            place = self._definition.function_places.get(name)
            self._problems.warning(f'the model "{name}" hides the function of the same name', place, name=name)
        places = {**self._definition.function_places, **self._definition.model_places}
        for name in (functions.keys() | models) & ARITY.keys():
            self._problems.warning(f'"{name}" hides the built-in of the same name', places.get(name), name=name)

    def _check_adapters(self) -> None:
        models = self._definition.models
        for name, adapter in self._definition.adapters.items():
            if adapter.model and adapter.model not in models:
                place, nearest = self._definition.adapter_places[name], self._problems.nearest(adapter.model, models)
                message = f'adapter "{name}": unknown model "{adapter.model}"'
                self._problems.error(message, place, name=adapter.model, nearest=nearest)

    def _check_cycles(self) -> None:
        # A node called `in` has been refused already, and what seems to be its cycle is the request.
        loops = [name for name in nx.nodes_with_selfloops(self._graph) if name != "in"]
        for name in loops:
            self._note_cycle([name, name])
        longer = self._graph.copy()
        longer.remove_edges_from([(name, name) for name in loops])
        for component in nx.strongly_connected_components(longer):
            first = min(component, key=self._position)
            if "in" not in component and len(component) > 1:
                found = nx.find_cycle(longer.subgraph(component), first)
                self._note_cycle([first, *(target for _, target in found)])

    def _note_cycle(self, cycle: list[str]) -> None:
        theirs = self._definition.spelling == "torchserve"
        message = describe_cycle(cycle) if theirs else f"a cycle: {' -> '.join(cycle)}"
        self._problems.error(message, self._definition.nodes[cycle[0]], name=cycle[0])

    def _position(self, name: str) -> tuple[int, int]:
        node = self._definition.nodes.get(name)
        return (node.line, node.column) if node is not None else (0, 0)

    def _check_use(self) -> None:
        needed = nx.ancestors(self._graph, "out") | {"out"}
        if "in" not in needed and not self._problems.failed:
            out = self._definition.nodes["out"]
            self._problems.error("`out` does not depend on `in`: every answer would be the same", out, name="out")
        for name, node in self._definition.nodes.items():
            if name not in needed:
                self._problems.warning(f'nobody uses node "{name}"', node, name=name)

    def plan(self) -> Plan:
        """Makes the plan; only for a graph without errors.

        Returns:
            The plan, with the steps that `out` needs.
        """
        definition = self._definition
        needed = nx.ancestors(self._graph, "out") | {"out"}
        order = [
            name for name in nx.lexicographical_topological_sort(self._graph.subgraph(needed), self._position) if name != "in"
        ]
        steps = finish([self._drafts[name] for name in order])
        return Plan(
            name=definition.name,
            version=definition.version,
            steps=steps,
            out=next(at for at, step in enumerate(steps) if step.name == "out" and step.parent < 0),
            models=definition.models,
            functions=definition.functions,
            adapters=definition.adapters,
            timeout_s=definition.timeout_s,
            spelling=definition.spelling,
            pass_errors=definition.on_error == "pass",
            file=self._problems.file,
            references=self.references(),
        )

    def references(self) -> tuple[Registered, ...]:
        """What the file wants from the server.

        Returns:
            Each once: first what the section `models` names, then what calls name.
        """
        definition, places = self._definition, self._definition.model_places
        models = {name: spec.model for name, spec in definition.models.items() if spec.model}
        found = [Registered("model", target, *_place(places[name])) for name, target in models.items()]
        found += [Registered("workflow", target, *_place(places[name])) for name, target in definition.workflows.items()]
        called = [use for use in self.uses if use.callee.kind == "workflow"]
        found += [Registered("workflow", use.callee.name, *_place(use)) for use in called]
        first: dict[tuple[str, str], Registered] = {}
        for one in found:
            first.setdefault((one.kind, one.name), one)
        return tuple(first.values())


def _place(at: Place) -> tuple[int, int]:
    return at.line, at.column


def _reads_request(draft: Draft) -> bool:
    kinds = (FROM_REQUEST, FROM_HEADER, FROM_QUERY)
    return any(operand[0] in kinds for inner in draft.with_nested() for operand in inner.operands())
