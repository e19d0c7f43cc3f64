"""The templates of `POST /workflows`: the built-in ones, and those of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from flowyard.schemas.errors import InvalidRequestError
from flowyard.workflows.templates import TEMPLATES, fill, places

SUFFIXES = (".json", ".yaml", ".yml")
#: Largest template.
MAX_BYTES = 1 << 20


class Template(msgspec.Struct, frozen=True):
    """A workflow file with places for values.

    Attributes:
        filename: What the file is called; the extension says which language it is.
        text: What is in it.
        places: The parameters that it takes.
    """

    filename: str
    text: bytes
    places: frozenset[str]

    def fill(self, values: Mapping[str, str]) -> bytes:
        """The workflow file.

        Args:
            values: One for each place.

        Raises:
            InvalidRequestError: One is missing, there is no place for it, or it has characters that lead out of its place.
        """
        missing = sorted(self.places - set(values))
        if missing:
            raise InvalidRequestError(
                f"Parameter {missing[0]} is required; {self.filename} takes {', '.join(sorted(self.places))}."
            )
        return fill(self.text, values)


class Templates:
    """Finds templates by name.

    Args:
        folder: Where further ones are, looked at whenever one is asked for; `None` for none. They go before the built-in ones.
    """

    def __init__(self, folder: Path | None) -> None:
        """Looks whether the folder is there.

        Raises:
            InvalidRequestError: It is not.
        """
        if folder is not None and not folder.is_dir():
            raise InvalidRequestError(f"workflow_templates: there is no folder {folder}")
        self._folder = folder

    def find(self, name: str) -> Template:
        """A template by name.

        Raises:
            InvalidRequestError: There is none of that name, or it cannot be used.
        """
        files = self._files()
        if name in files:
            text = self._read(name, files[name])
            return Template(files[name].name, text, places(text))
        if name in TEMPLATES:
            return Template(f"{name}.json", TEMPLATES[name], places(TEMPLATES[name]))
        known = ", ".join(sorted({*files, *TEMPLATES}))
        raise InvalidRequestError(f"Parameter template: there is no template {name[:100]!r}; known are {known}.")

    def _files(self) -> dict[str, Path]:
        entries = sorted(self._folder.iterdir()) if self._folder is not None else []
        return {entry.stem: entry for entry in entries if entry.suffix in SUFFIXES and entry.is_file()}

    def _read(self, name: str, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InvalidRequestError(f"Parameter template: {name} cannot be read: {error.strerror}") from None
        if len(text) > MAX_BYTES:
            raise InvalidRequestError(f"Parameter template: {name} is larger than {MAX_BYTES} bytes.")
        return text
