"""Collects what is wrong with a workflow file, with places and nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Protocol

from flowyard.schemas.errors import Problem


class Place(Protocol):
    """Anything that knows where it stands in its file, both 1-based."""

    @property
    def line(self) -> int:
        """The line."""

    @property
    def column(self) -> int:
        """The column."""


#: Looking for near names is slow; a file this wrong is not helped by more of them.
LIMIT_FIXES = 100
LIMIT_KNOWN = 2_000
LIMIT_PROBLEMS = 1_000
#: Characters of a message and of a name: what a file says is repeated in both.
LIMIT_MESSAGE = 1_000
LIMIT_NAME = 200


class Problems:
    """All problems of one file, in the order found.

    Attributes:
        file: Its name.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: list[Problem] = []
        self._proposed = 0

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """Proposes a known name for a misspelled one.

        Args:
            name: What was written.
            known: What could have been meant.

        Returns:
            The name, or an empty string when nothing is close.
        """
        self._proposed += 1
        if self._proposed > LIMIT_FIXES or len(name) > 256:
            return ""
        by_lower = {candidate.lower(): candidate for candidate in islice(known, LIMIT_KNOWN)}
        found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
        return by_lower[found[0]] if found else ""

    def error(
        self, message: str, at: Place | None = None, *, name: str = "", nearest: str = "", fix: str = "", file: str = ""
    ) -> None:
        """Notes something that refuses the workflow.

        Args:
            message: What is wrong.
            at: Where; the whole file when absent.
            name: The name at fault.
            nearest: The valid name that may have been meant.
            fix: What to do about it, where there is no such name.
            file: The file, when it is not the workflow file itself.
        """
        self._add("error", message, at, name=name, nearest=nearest, fix=fix, file=file)

    def warning(self, message: str, at: Place | None = None, *, name: str = "", fix: str = "") -> None:
        """Notes something odd that does not refuse the workflow; arguments as for `error`."""
        self._add("warning", message, at, name=name, nearest="", fix=fix, file="")

    def _add(self, severity: str, message: str, at: Place | None, *, name: str, nearest: str, fix: str, file: str) -> None:
        if len(self._found) >= LIMIT_PROBLEMS:
            return
        line, column = (at.line, at.column) if at is not None else (0, 0)
        self._found.append(
            Problem(
                message=_bounded(message, LIMIT_MESSAGE),
                file=file or self.file,
                line=line,
                column=column,
                name=_bounded(name, LIMIT_NAME),
                nearest=nearest,
                fix=f'did you mean "{nearest}"?' if nearest else fix,
                severity=severity,
            )
        )

    @property
    def failed(self) -> bool:
        """Whether any of them is an error."""
        return any(problem.severity == "error" for problem in self._found)

    def all(self) -> tuple[Problem, ...]:
        """Every problem once, sorted by place within the workflow file, others after it."""
        return in_order(self._found, self.file)


def _bounded(text: str, limit: int) -> str:
    """A text of one line and bounded length; characters that cannot be printed are escaped."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut if cut.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in cut)


def in_order(problems: Iterable[Problem], file: str) -> tuple[Problem, ...]:
    """Sorts problems.

    Args:
        problems: The problems; of equal ones one is left.
        file: The workflow file, whose problems come first.

    Returns:
        By file and place.
    """
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda problem: (problem.file != file, problem.file, problem.line, problem.column)))
