"""What commands print: tables for people, aligned text for pipes, bodies as they came."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_STYLES = {"READY": "green", "Healthy": "green", "PENDING": "yellow", "FAILED": "red", "Unhealthy": "red"}


def printable(text: str) -> str:
    """Text from elsewhere, unable to steer a terminal: control characters other than tabs and line ends become visible."""
    return "".join(character if character.isprintable() or character in "\n\t" else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def write_body(body: bytes) -> None:
    """Writes a body to the standard output as it came, with a line end after text that has none."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body)
    if body and not body.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Shows a table: with lines and colours on a terminal, as aligned columns elsewhere; nothing but its head when it is empty.

    Args:
        columns: Its head.
        rows: Its cells; their text may be anything.
    """
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in aligned([[column.upper() for column in columns], *cells]):
            print(line)
        return
    # A fifth of the time of a small command, for terminals only.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, header_style="bold")
    for row in cells:
        table.add_row(*(Text(cell, _STYLES.get(cell, ""), overflow="fold") for cell in row))
    Console().print(table)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
