"""Java property files: `serving.properties` of a model, `config.properties` of a server, as `java.util.Properties` does it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from flowyard.schemas.errors import InvalidRequestError

#: A file of settings is no longer than this.
MAX_BYTES = 1 << 20

_KEY = re.compile(r"(?P<key>(?:\\.|[^\\=:\s])*)[ \t\f]*(?:[=:][ \t\f]*)?", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|u|.)", re.DOTALL)
_LETTERS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_WRITTEN = {meant: letter for letter, meant in _LETTERS.items()}
_HALF = re.compile("[\ud800-\udfff]")
_TO_ESCAPE = re.compile(r"[\\=:#!\t\n\r\f]|[^ -~]")


class Property(msgspec.Struct, frozen=True):
    """One entry; `line` is 1-based and that of its key."""

    key: str
    value: str
    line: int


def read_properties(file: Path, limit_bytes: int = MAX_BYTES) -> tuple[Property, ...]:
    """Reads a file.

    Args:
        file: UTF-8; what is not is taken for ISO 8859-1, which Java writes.
        limit_bytes: How long it may be.

    Returns:
        The entries in order, a repeated key each time: the last one counts.

    Raises:
        InvalidRequestError: It cannot be read, is too long, or has a broken Unicode escape; the message names file and line.
    """
    try:
        if file.stat().st_size > limit_bytes:
            raise InvalidRequestError(f"{file.name}: larger than {limit_bytes} bytes, which no file of properties is")
        content = file.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{file.name}: cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return parse_properties(text, file.name)


def parse_properties(text: str, name: str = "properties") -> tuple[Property, ...]:
    """Reads the text of a property file.

    Args:
        text: The text.
        name: What the file is called, for messages.

    Returns:
        As `read_properties`.

    Raises:
        InvalidRequestError: A broken Unicode escape.
    """
    return tuple(_entry(line, number, name) for number, line in _logical_lines(text))


def as_mapping(properties: tuple[Property, ...]) -> dict[str, Property]:
    """The entries by key; of a repeated one the last."""
    return {entry.key: entry for entry in properties}


def format_properties(properties: Mapping[str, str], *comments: str) -> str:
    """The text of a property file.

    Args:
        properties: Values by key.
        comments: Lines of comment before them, of ASCII.

    Returns:
        The text; all of it is ASCII, which every reader takes for the same.
    """
    lines = [f"#{comment}" for comment in comments]
    lines += [f"{_escaped(key, every_blank=True)}={_escaped(value)}" for key, value in properties.items()]
    return "".join(f"{line}\n" for line in lines)


def _escaped(text: str, *, every_blank: bool = False) -> str:
    escaped = _TO_ESCAPE.sub(_escape, text)
    return escaped.replace(" ", "\\ ", -1 if every_blank else text.startswith(" "))


def _escape(found: re.Match[str]) -> str:
    letter = found[0]
    if letter in _WRITTEN:
        return f"\\{_WRITTEN[letter]}"
    if letter in "\\=:#!":
        return f"\\{letter}"
    # Java knows characters beyond the first plane as two halves.
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations, without comments and blank ones."""
    joined, first = "", 0
    for number, natural in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = natural.lstrip(" \t\f")
        if not first and (not line or line[0] in "#!"):
            continue
        first = first or number
        joined += line
        if _continues(line):
            joined = joined[:-1]
            continue
        yield first, joined
        joined, first = "", 0
    if first and joined:
        yield first, joined


def _continues(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _entry(line: str, number: int, name: str) -> Property:
    found = _KEY.match(line)
    assert found is not None
    place = f"{name}:{number}"
    return Property(_unescape(found["key"], place), _unescape(line[found.end() :], place), number)


def _unescape(text: str, place: str) -> str:
    def one(found: re.Match[str]) -> str:
        escape = found[1]
        if escape == "u":
            raise InvalidRequestError(f"{place}: \\u needs four hexadecimal digits behind it")
        return chr(int(escape[1:], 16)) if len(escape) > 1 else _LETTERS.get(escape, escape)

    if "\\" not in text:
        return text
    found = _ESCAPE.sub(one, text)
    # Two escapes may be halves of one character.
    return found.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _HALF.search(found) else found
