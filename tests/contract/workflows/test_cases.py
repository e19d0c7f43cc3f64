"""Workflow files of all three spellings, good and bad: `flowyard check` and a registration find the same in them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from contract.workflows.casefile import Case, read_cases, write_files
from support.archives import zipped
from support.server import running

from flowyard.platform.cli.offline import check_path

CASES = read_cases()
EACH = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def test_there_are_cases_of_every_kind() -> None:
    assert len(CASES) > 60
    for spelling in ("war", "djl", "json", "yaml"):
        assert sum(spelling in case.name for case in CASES) >= 3
    assert all(case.is_bad == case.name.startswith("bad") for case in CASES)
    assert all(not case.problems for case in CASES if case.name.startswith("good") and "djl-yaml" not in case.name)


@EACH
def test_a_check_finds_exactly_this(case: Case, tmp_path: Path) -> None:
    folder, store = write_files(case, tmp_path)
    checked = check_path(folder, store)
    assert [str(problem).replace(f"{folder}/", "") for problem in checked.problems] == case.problems
    assert (checked.plan is None) == case.is_bad


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    with running(folder) as one:
        yield one


@EACH
def test_a_registration_finds_the_same(case: Case, server) -> None:
    members = {name: text for name, text in case.files.items() if not name.startswith("store/")}
    for name in case.files.keys() - members.keys():
        (server.model_store / name.removeprefix("store/")).touch()
    answer = server.client.post("/workflows", content=zipped(members))
    if not case.is_bad:
        assert answer.status_code == 200 or answer.json()["type"] != "InvalidWorkflowException" or expected_at_server(answer)
        return
    assert (answer.status_code, answer.json()["type"]) == (400, "InvalidWorkflowException")
    assert [line(problem) for problem in answer.json()["problems"] if not is_missing(problem)] == case.problems


def line(problem: dict[str, str]) -> str:
    place = ":".join(str(problem[key]) for key in ("file", "line", "column") if problem[key])
    return f"{place}: {problem['severity']}: {problem['message']}" + (f" ({problem['fix']})" if problem["fix"] else "")


def is_missing(problem: dict[str, str]) -> bool:
    """What only the server knows: registered models and workflows that are not there."""
    return "not found" in problem["message"] or "is not supported by this version" in problem["message"]


def expected_at_server(answer) -> bool:
    """A good file whose only fault is that it names what this server does not have."""
    return all(is_missing(problem) or ".mar" in problem["message"] for problem in answer.json()["problems"])


def test_the_command_prints_lines_and_json(tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case.name == "bad-unknown-names")
    folder, _ = write_files(case, tmp_path)
    command = [sys.executable, "-m", "flowyard.platform.cli.main", "check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.replace(f"{folder}/", "").splitlines() == case.problems
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert {key: report[key] for key in ("path", "valid", "name", "version")} == {
        "path": str(folder),
        "valid": False,
        "name": "w",
        "version": "",
    }
    assert report["problems"][0] == {
        "message": 'unknown model or function "ff"',
        "file": f"{folder}/workflow.yaml",
        "line": 5,
        "column": 11,
        "name": "ff",
        "nearest": "f",
        "fix": 'did you mean "f"?',
        "severity": "error",
    }


def test_warnings_alone_are_no_failure_for_the_command(tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case.name == "warn-war-mar")
    folder, _ = write_files(case, tmp_path)
    command = [sys.executable, "-m", "flowyard.platform.cli.main", "check", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["valid"], report["name"]) == (0, True, "smtest")
    assert [problem["severity"] for problem in report["problems"]] == ["warning", "warning"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "nodes.mar").touch()
    done = subprocess.run([*command, "--model-store", str(tmp_path / "models")], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["problems"] == []


# Files too large for a text file of their own.
LARGE = {
    "10,000 nodes": (
        "name: w\nworkflow:\n" + "".join(f"  n{at}: [idd, in]\n" for at in range(10_000)),
        ["2:1: error: 10000 nodes, the limit is 1000"],
    ),
    "a long whole number": (
        f"name: w\nworkflow: {{out: [id, {{value: 1{'0' * 5000}}}, in]}}\n",
        ["2:18: error: `id` takes 1 argument, not 2", "2:30: error: a whole number that does not fit 64 bits"],
    ),
    "a long name": (
        f"name: w\nworkflow: {{out: [{'x' * 100_000}, in]}}\n",
        [f'2:18: error: unknown model or function "{"x" * 972}…'],
    ),
    "a line break in a name": (
        'name: w\nworkflow: {out: ["a\\nb", in]}\n',
        ['2:18: error: unknown model or function "a\\nb"'],
    ),
    "too many bytes": ("#" * (1 << 20) + "\n", [" error: the file is larger than 1048576 bytes"]),
    "5,000 problems": ("name: w\nworkflow: {out: [merge, in, " + ", ".join(["x"] * 5_000) + "]}\n", None),
}


@pytest.mark.parametrize("text", LARGE)
def test_large_files_give_bounded_answers(text: str, tmp_path: Path) -> None:
    content, expected = LARGE[text]
    (tmp_path / "workflow.yaml").write_text(content)
    problems = [str(problem).partition("workflow.yaml:")[2] for problem in check_path(tmp_path).problems]
    if expected is None:
        assert len(problems) == 1_000
    else:
        assert problems == expected
