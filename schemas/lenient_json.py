"""JSON as Gson reads it in its lenient mode, which is how TorchServe and MMS read what their users write.

Names and texts may be without quotes or in single ones, `=` may stand for a colon and `;` for a comma, an element that is left
out of an array is null, and comments are skipped. What is JSON means the same in both.
"""

from __future__ import annotations

import re
from typing import Any

#: What is no JSON is only read up to this length: that takes longer.
MAX_CHARS = 1 << 16
#: How deep arrays and objects may be in each other.
MAX_DEPTH = 200
_BLANK = re.compile(r"(?:[ \t\r\n]|//[^\r\n]*|#[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_LITERAL = re.compile(r"[^/\\;#={}\[\]:, \t\f\r\n]+")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(_INTEGER.pattern + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_QUOTED = {quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*){quote}", re.DOTALL) for quote in "\"'"}
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_ESCAPES = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", "\n": "\n", "'": "'", '"': '"', "\\": "\\", "/": "/"}
_WORDS = {"true": True, "false": False, "null": None}
#: What may come before a document, so that no browser takes it for a script.
_PREFIX = ")]}'\n"


def read_lenient(text: str) -> Any:
    """Reads a document.

    Args:
        text: The document.

    Returns:
        What it says; of a repeated name the last value counts.

    Raises:
        ValueError: It is none, is longer than `MAX_CHARS` or nested deeper than `MAX_DEPTH`.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"it is no JSON, and longer than {MAX_CHARS} characters")
    reader = _Reader(text)
    value = reader.value(0)
    if reader.peek():
        raise reader.error("something follows the document")
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = len(_PREFIX) if text.startswith(_PREFIX) else 0

    def error(self, reason: str) -> ValueError:
        return ValueError(f"at character {self._at + 1}: {reason}")

    def peek(self) -> str:
        """The next character that counts, empty at the end."""
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._text[self._at : self._at + 1]

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.error(f"it is nested deeper than {MAX_DEPTH}")
        match self.peek():
            case "{":
                return self._object(depth)
            case "[":
                return self._array(depth)
            case '"' | "'":
                return self._quoted()
            case _:
                return _meant(self._literal())

    def _object(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self._at += 1
        if self._skip("}"):
            return members
        while True:
            name = self._quoted() if self.peek() in ("'", '"') else self._literal()
            if self._skip("="):
                # `=>` without a blank in it.
                self._at += self._text.startswith(">", self._at)
            elif not self._skip(":"):
                raise self.error("a colon is missing")
            members[name] = self.value(depth + 1)
            if self._skip("}"):
                return members
            if not self._skip(",", ";"):
                raise self.error("a comma or } is missing")

    def _array(self, depth: int) -> list[Any]:
        elements: list[Any] = []
        self._at += 1
        if self._skip("]"):
            return elements
        while True:
            elements.append(None if self.peek() in (",", ";", "]") else self.value(depth + 1))
            if self._skip("]"):
                return elements
            if not self._skip(",", ";"):
                raise self.error("a comma or ] is missing")

    def _skip(self, *marks: str) -> bool:
        there = self.peek() in marks
        self._at += there
        return there

    def _literal(self) -> str:
        found = _LITERAL.match(self._text, self._at)
        if found is None:
            raise self.error("a name or value is missing")
        self._at = found.end()
        return found[0]

    def _quoted(self) -> str:
        found = _QUOTED[self._text[self._at]].match(self._text, self._at)
        if found is None:
            raise self.error("a text does not end")
        text = _ESCAPE.sub(self._escaped, found[1]) if "\\" in found[1] else found[1]
        self._at = found.end()
        # Two escapes may be halves of one character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16") if "\\u" in found[1] else text

    def _escaped(self, found: re.Match[str]) -> str:
        escape = found[1]
        if len(escape) > 1:
            return chr(int(escape[1:], 16))
        if escape not in _ESCAPES:
            raise self.error(f"there is no escape \\{escape}")
        return _ESCAPES[escape]


def _meant(literal: str) -> Any:
    """The value of what stands there without quotes."""
    if literal.lower() in _WORDS:
        return _WORDS[literal.lower()]
    if _INTEGER.fullmatch(literal):
        return int(literal)
    return float(literal) if _NUMBER.fullmatch(literal) else literal
