"""docs/workflow-problems.md: it is what the cases say, and no message of a check is missing from the documentation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from contract.workflows.casefile import read_cases
from contract.workflows.page import PAGE, page_text

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [*sorted((ROOT / "workflows").glob("*.py")), ROOT / "platform" / "registry" / "checking.py"]
RAISED = {"SourceError", "BadOption", "PathError"}
#: Messages whose examples would be too large for a page; docs/workflows.md tells the limits.
TOO_LARGE = re.compile(r"the limit is|larger than|longer than|nested too deeply|cannot be read|more than .* calls|not UTF-8")


def test_the_page_is_what_the_cases_say() -> None:
    assert PAGE.read_text() == page_text(read_cases()), "make problems"


def test_every_message_is_shown() -> None:
    pages = PAGE.read_text() + (ROOT / "docs" / "workflows.md").read_text()
    found = {message for path in SOURCES for message in messages(path)}
    assert len(found) > 80
    missing = [message for message in sorted(found) if not TOO_LARGE.search(message) and not shown(message, pages)]
    assert missing == []


def shown(message: str, pages: str) -> bool:
    return bool(re.search(".*".join(re.escape(part) for part in message.split("\0")), pages))


def messages(path: Path) -> Iterator[str]:
    """The texts of problems that a module notes, NUL for what is put into them."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            named = assigned(function)
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and call.args and notes(call.func):
                    for value in named.get(getattr(call.args[0], "id", ""), [call.args[0]]):
                        yield from text_of(value)


def assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def notes(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr in ("error", "warning")
    return isinstance(function, ast.Name) and function.id in RAISED


def text_of(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in value.values)
