"""The page of everything that a check can find wrong: `make problems` writes it anew from the cases."""

from __future__ import annotations

from pathlib import Path

from contract.workflows.casefile import Case, read_cases

PAGE = Path(__file__).resolve().parents[3] / "docs" / "workflow-problems.md"
STEPS = "def f(x):\n    return x\n\n\ndef two(a, b):\n    return [a, b]\n"
HEAD = """# What a check can find wrong

Every example below is an archive, and under it is what `flowyard check` prints for it; a registration refuses it with the same
problems. `m.pt`, where it is named, is a file of the archive, and `steps.py` has the functions `f(x)` and `two(a, b)`.
[workflows.md](workflows.md) explains the language. Written by `make problems` from `tests/contract/workflows/cases`, and checked
there.
"""


def page_text(cases: list[Case]) -> str:
    """The whole page, ready to be written."""
    return "\n".join([HEAD, *(_section(case) for case in cases if case.problems)])


def _section(case: Case) -> str:
    lines = [f"## {case.about}", ""]
    for name, text in case.files.items():
        if not text or text == STEPS:
            continue
        lines += [f"`{name}`:", "", f"```{_language(name)}", _printable(text).rstrip("\n"), "```", ""]
    return "\n".join([*lines, "```text", *case.problems, "```", ""])


def _language(name: str) -> str:
    return {"yml": "yaml", "py": "python"}.get(Path(name).suffix[1:], Path(name).suffix[1:]) or "text"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


if __name__ == "__main__":
    PAGE.write_text(page_text(read_cases()))
