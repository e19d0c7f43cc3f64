"""Workflows as data: one text file per case with all files of an archive and the problems that a check must find."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

CASES = Path(__file__).parent / "cases"
_SECTION = re.compile(r"^-- (.+) --$", re.M)


class Case(NamedTuple):
    """One case.

    Attributes:
        name: Name of its file.
        about: What it is about, in a sentence.
        files: The files of the archive; those under `store/` are in the model store.
        problems: What a check prints, by place; empty for a workflow that is right.
    """

    name: str
    about: str
    files: dict[str, str]
    problems: list[str]

    @property
    def is_bad(self) -> bool:
        return any(": error: " in problem for problem in self.problems)


def read_case(path: Path) -> Case:
    """The text begins with what the case is about; then come sections, the last one `-- problems --`."""
    about, *parts = _SECTION.split(path.read_text())
    files = dict(zip(parts[::2], (part.removeprefix("\n") for part in parts[1::2]), strict=True))
    problems = files.pop("problems").splitlines()
    return Case(path.stem, about.strip().removesuffix("."), files, problems)


def read_cases() -> list[Case]:
    return [read_case(path) for path in sorted(CASES.glob("*.txt"))]


def write_files(case: Case, folder: Path) -> tuple[Path, Path | None]:
    """Writes a case's archive and model store under a folder."""
    for name, text in case.files.items():
        file = folder / (name if name.startswith("store/") else f"flow/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    store = folder / "store"
    return folder / "flow", store if store.is_dir() else None
