"""What became of each key of an installation's configuration."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import msgspec

from flowyard.platform.sources import Given

Outcome: TypeAlias = Literal["carried", "no effect", "changes answers"]
_PLACE = re.compile(r"(?P<file>.+):(?P<line>[0-9]+)", re.DOTALL)
_SIGNS: dict[Outcome, str] = {"carried": "=", "no effect": "-", "changes answers": "!"}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one key, or of one archive.

    Attributes:
        file: Where it is said: a file, an archive, or a variable of the environment.
        line: 1-based, 0 for no line.
        key: The key; a path with dots in JSON, empty for an archive as a whole.
        outcome: Whether it is carried over, does nothing here, or something is answered otherwise.
        text: Where it has gone, or why not.
    """

    file: str
    line: int = 0
    key: str = ""
    outcome: Outcome
    text: str

    def __str__(self) -> str:
        """A line of the report."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f": {self.key}" if self.key and self.key != self.file else ""
        told = f" -> {self.text}" if self.outcome == "carried" else f": {self.outcome}: {self.text}"
        return f"{_SIGNS[self.outcome]} {place}{key}{told}"


def verdict(item: Given, outcome: Outcome, text: str, key: str = "") -> Verdict:
    """What became of a key.

    Args:
        item: The key.
        outcome: What became of it.
        text: Where it has gone, or why not.
        key: What is meant of its value, as a path with dots; else all of it.
    """
    found = _PLACE.fullmatch(item.source)
    file, line = (found["file"], int(found["line"])) if found else (item.source, 0)
    return Verdict(file=file, line=line, key=key or item.name, outcome=outcome, text=text)
