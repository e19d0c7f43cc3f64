"""The examples of docs/workflows.md: they compile, they answer what the page says, and the wrong ones give the problems shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flowyard.schemas.errors import FlowyardError, NodeError
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import to_jsonable
from flowyard.workflows.check import check, compile_workflow
from flowyard.workflows.instructions import Answer, Instruction, StartCall
from flowyard.workflows.plan import Plan
from flowyard.workflows.run import Run

PAGE = Path(__file__).resolve().parents[3] / "docs" / "workflows.md"
HEAD = (
    "name: examples\nmodels: {small: small.onnx, big: big.onnx}\n"
    "functions: {double: steps:double, broken: steps:broken}\nworkflow:\n"
)
ANSWERS = {"small": {"label": "cat", "score": 0.5}, "big": {"label": "dog", "score": 0.9}}


class Block(NamedTuple):
    """One fenced block of the page; `under` is the block of plain text that follows a wrong example."""

    language: str
    line: int
    text: str
    under: str


def blocks() -> list[Block]:
    page = PAGE.read_text()
    found = list(re.finditer(r"^```(\w+)[^\n]*\n(.*?)^```$", page, re.M | re.S))
    following = [*found[1:], None]
    return [
        Block(match[1], page.count("\n", 0, match.start()) + 2, match[2], after[2] if after and after[1] == "text" else "")
        for match, after in zip(found, following, strict=True)
    ]


BLOCKS = blocks()
GOOD = [
    pytest.param(block, id=f"line {block.line}") for block in BLOCKS if block.language in ("yaml", "json") and not block.under
]
WRONG = [pytest.param(block, id=f"line {block.line}") for block in BLOCKS if block.under]


def whole(text: str) -> bytes:
    """A file as it stands, or nodes put into the page's standing example."""
    if re.search(r"^(name|models):|^\s*\"name\"", text, re.M):
        return text.encode()
    return (HEAD + "".join(f"  {line}\n" for line in text.splitlines())).encode()


def cases(text: str) -> Iterator[tuple[Any, Any]]:
    for line in re.findall(r"^# (.* -> .*)$", text, re.M):
        request, answer = line.split(" -> ")
        yield json.loads(request), json.loads(answer)


def called(call: StartCall) -> Payload:
    if call.callee == "broken":
        raise NodeError("ValueError: broken")
    if call.callee == "double":
        return Payload.of(2 * call.args[0].value())
    return Payload.of(ANSWERS[call.callee])


def answer(plan: Plan, body: Any) -> Any:
    run = Run(plan, Payload.from_json(json.dumps(body).encode()), {}, {}, None)
    todo: list[Instruction] = run.start(0.0)
    for instruction in todo:
        if isinstance(instruction, StartCall):
            try:
                todo += run.done(instruction.call_id, called(instruction), 0.0)
            except FlowyardError as error:
                todo += run.failed(instruction.call_id, error, 0.0)
        elif isinstance(instruction, Answer):
            return to_jsonable(instruction.payload.value())
    raise AssertionError(todo)


@pytest.mark.parametrize("block", GOOD)
def test_an_example_compiles_and_answers_as_shown(block: Block) -> None:
    plan = compile_workflow(whole(block.text), f"workflow.{block.language}", None, "handler.py" if "dag:" in block.text else None)
    for request, expected in cases(block.text):
        assert answer(plan, request) == expected


@pytest.mark.parametrize("block", WRONG)
def test_a_wrong_example_gives_the_problems_shown(block: Block) -> None:
    problems = check(block.text.encode(), f"workflow.{block.language}", None).problems
    assert [str(problem) for problem in problems] == block.under.splitlines()


COMMANDS = re.findall(r"^\$ flowyard (.*)\n((?:(?!\$ |```).*\n)*)", PAGE.read_text(), re.M)


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_command_prints_what_is_shown(command: str, shown: str) -> None:
    argv = [sys.executable, "-m", "flowyard.platform.cli.main", *command.split()]
    done = subprocess.run(argv, cwd=PAGE.parents[1], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (shown, "")


def test_the_page_has_examples_of_both_kinds() -> None:
    assert len(GOOD) > 15
    assert len(WRONG) > 2
    assert len(COMMANDS) == 4
    assert sum(len(list(cases(block.text))) for block in BLOCKS) > 20
