"""The way in: the text of a workflow file to its problems, its definition and its plan."""

from __future__ import annotations

import msgspec

from flowyard.schemas.errors import InvalidWorkflowError, Problem
from flowyard.workflows import source, torchserve
from flowyard.workflows.archive import ArchiveView, check_files, check_functions
from flowyard.workflows.definition import Definition, read_definition
from flowyard.workflows.plan import Plan
from flowyard.workflows.problems import Problems
from flowyard.workflows.signatures import note_misfits
from flowyard.workflows.source import Node


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    Attributes:
        problems: Every problem, errors and warnings, by place.
        definition: What could be read of the file; `None` when it is no mapping.
        plan: The plan; `None` when there are errors.
    """

    problems: tuple[Problem, ...] = ()
    definition: Definition | None = None
    plan: Plan | None = None


def check(text: bytes, filename: str, archive: ArchiveView | None, handler: str | None = None) -> Checked:
    """Checks a workflow file as a registration does. Never raises and never runs what is in the archive.

    Args:
        text: The file, YAML or JSON.
        filename: Its name, for the problems; `.json` must be JSON.
        archive: The files next to it; without, files and functions are not looked for.
        handler: For a spec of TorchServe: the handler file that the manifest of its `.war` names, relative to `archive`.

    Returns:
        Problems, definition and plan.
    """
    # The graph library takes longer to import than most servers need to start; runs never use it.
    from flowyard.workflows.graph import Graph  # noqa: PLC0415

    problems = Problems(filename)
    root = source.read(text, filename, problems)
    definition = _read(root, handler, problems) if root is not None else None
    if definition is None:
        return Checked(problems=problems.all())
    graph = Graph(definition, problems)
    graph.check()
    if archive is not None:
        check_files(definition, archive, problems)
        check_functions(definition, graph.uses, archive, problems)
    if problems.failed:
        return Checked(problems=problems.all(), definition=definition)
    plan = graph.plan()
    note_misfits(plan, {}, problems)
    return Checked(problems=problems.all(), definition=definition, plan=None if problems.failed else plan)


def _read(root: Node, handler: str | None, problems: Problems) -> Definition | None:
    if torchserve.is_spec(root, handler):
        return torchserve.read_spec(root, handler, problems)
    return read_definition(root, problems)


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
