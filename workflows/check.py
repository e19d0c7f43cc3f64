"""The way in: the text of a workflow file to its problems, its definition and its plan."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from flowyard.schemas.errors import InvalidWorkflowError, Problem
from flowyard.workflows import source, torchserve
from flowyard.workflows.archive import ArchiveView, Files, check_archive
from flowyard.workflows.definition import Definition, read_definition
from flowyard.workflows.plan import Plan, Registered
from flowyard.workflows.problems import Problems, in_order
from flowyard.workflows.signatures import note_misfits
from flowyard.workflows.source import Node


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    Attributes:
        problems: Every problem, errors and warnings, by place.
        definition: What could be read of the file; `None` when it is no mapping.
        plan: The plan; `None` when there are errors.
        references: Registered models and workflows that the file names, each once, also when there are errors.
    """

    problems: tuple[Problem, ...] = ()
    definition: Definition | None = None
    plan: Plan | None = None
    references: tuple[Registered, ...] = ()

    def with_problems(self, more: Iterable[Problem]) -> Checked:
        """The same with further problems; an error among them takes the plan away."""
        added = tuple(more)
        failed = any(problem.severity == "error" for problem in added)
        problems = in_order((*self.problems, *added), self.problems[0].file if self.problems else "")
        return msgspec.structs.replace(self, problems=problems, plan=None if failed else self.plan)


def check(
    text: bytes,
    filename: str,
    archive: ArchiveView | None,
    handler: str | None = None,
    *,
    name: str = "",
    store: ArchiveView | None = None,
    is_store_known: bool = False,
) -> Checked:
    """Checks a workflow file as a registration does. Never raises and never runs what is in the archive.

    Args:
        text: The file, YAML or JSON.
        filename: Its name, for the problems; `.json` must be JSON.
        archive: The files next to it; without, files and functions are not looked for.
        handler: For a spec of TorchServe: the handler file that the manifest of its `.war` names, relative to `archive`.
        name: What the workflow is called where the file does not say it.
        store: The files of the server's model store.
        is_store_known: Whether `store` is what the workflow will be served from.

    Returns:
        Problems, definition and plan.
    """
    # The graph library takes longer to import than most servers need to start; runs never use it.
    from flowyard.workflows.graph import Graph  # noqa: PLC0415

    problems = Problems(filename)
    root = source.read(text, filename, problems)
    definition = _read(root, handler, name, problems) if root is not None else None
    if definition is None:
        return Checked(problems=problems.all())
    graph = Graph(definition, problems)
    graph.check()
    if archive is not None:
        check_archive(definition, graph.uses, Files(archive, store, is_store_known), problems)
    plan = None
    if not problems.failed:
        plan = graph.plan()
        note_misfits(plan, {}, problems)
    return Checked(
        problems=problems.all(),
        definition=definition,
        plan=None if problems.failed else plan,
        references=graph.references(),
    )


def _read(root: Node, handler: str | None, name: str, problems: Problems) -> Definition | None:
    if torchserve.is_spec(root, handler):
        return torchserve.read_spec(root, handler, name, problems)
    return read_definition(root, name, problems)


def compile_workflow(text: bytes, filename: str, archive: ArchiveView | None, handler: str | None = None) -> Plan:
    """Makes the plan of a workflow file.

    Args:
        text: The file, YAML or JSON.
        filename: Its name, for the problems.
        archive: The files next to it, if at hand.
        handler: As for `check`.

    Returns:
        The plan.

    Raises:
        InvalidWorkflowError: The file has errors; all of them are listed.
    """
    checked = check(text, filename, archive, handler)
    if checked.plan is None:
        raise InvalidWorkflowError(checked.problems)
    return checked.plan
