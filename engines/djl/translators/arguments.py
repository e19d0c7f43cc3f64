"""The arguments of a translator: keys of serving.properties, and of the URL's query, which win (DJL §4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.properties import Property
from flowyard.schemas.values import NOT_JSON

FILE = "serving.properties"
#: What a file of class names or a model's config.json may have at most.
_TEXT_LIMIT_BYTES = 16 << 20
_FLAGS = {"true": True, "false": False}


class Arguments:
    """Reads arguments by type; a bad one is refused by its place."""

    def __init__(self, folder: Path, properties: Mapping[str, Property], query: Mapping[str, str]) -> None:
        """Starts from what the user wrote.

        Args:
            folder: The model's folder.
            properties: Entries of serving.properties by key.
            query: Arguments of the model's URL.
        """
        self.folder = folder
        #: The key that says which translator it is; what is missing is said to be its fault.
        self.chosen_by = ""
        self._properties = properties
        self._query = query

    def text(self, key: str, default: str = "") -> str:
        """The value of a key, without spaces around it; the default where it is absent or empty."""
        if key in self._query:
            return self._query[key].strip() or default
        found = self._properties.get(key)
        return (found.value.strip() if found else "") or default

    def has(self, key: str) -> bool:
        """Whether a key has a value."""
        return bool(self.text(key))

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A value that is true or false.

        Raises:
            InvalidModelError: It is neither.
        """
        value = self.text(key)
        return default if not value else _FLAGS[self.choice(key, "", tuple(_FLAGS)).lower()]

    def choice(self, key: str, default: str, allowed: Sequence[str]) -> str:
        """One of several values, in any case; given as `allowed` spells it.

        Raises:
            InvalidModelError: It is none of them.
        """
        value = self.text(key, default)
        found = next((one for one in allowed if one.lower() == value.lower()), None)
        if found is None:
            raise self.refusal(key, f"expected one of {', '.join(allowed)}, got {value!r}")
        return found

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number; as in DJL it may be written `5.0`.

        Raises:
            InvalidModelError: It is none, or out of range.
        """
        value = self.number(key, default, low, high)
        if value != int(value):
            raise self.refusal(key, f"expected a whole number, got {self.text(key)!r}")
        return int(value)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number.

        Raises:
            InvalidModelError: It is none, or out of range.
        """
        value = self.text(key)
        return self.parsed(key, value, low, high) if value else default

    def parsed(self, key: str, value: str, low: float, high: float) -> float:
        """A number that is part of a key's value.

        Raises:
            InvalidModelError: It is none, or out of range.
        """
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise self.refusal(key, f"expected a number from {low:g} to {high:g}, got {value!r}")
        return number

    def file(self, key: str, default: str = "") -> Path:
        """A file or folder of the model.

        Raises:
            InvalidModelError: It is not there, or outside of the model's folder.
        """
        name = self.text(key, default)
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise self.refusal(key, f"expected a path inside of the model's folder, got {name!r}")
        if not path.exists():
            raise (
                self.missing(name, f"or another file with the key {key}")
                if name == default
                else self.refusal(key, f"{name!r} is not in the model's folder")
            )
        return path

    def lines(self, key: str, default: str) -> tuple[str, ...]:
        """The lines of a text file of the model.

        Raises:
            InvalidModelError: It is not there, too long, or no UTF-8 text.
        """
        text = self._read(self.file(key, default), key)
        return tuple(text.removesuffix("\n").replace("\r\n", "\n").split("\n"))

    def config(self, *, required: bool = True) -> dict[str, object]:
        """The model's config.json, as Hugging Face's models have one; empty where there is none and none is required.

        Raises:
            InvalidModelError: It is missing or no JSON object.
        """
        path = self.folder / "config.json"
        if not path.is_file():
            if required:
                raise self.missing("config.json", "it names the classes as id2label")
            return {}
        try:
            return msgspec.json.decode(self._read(path, self.chosen_by), type=dict[str, object])
        except NOT_JSON as error:
            raise InvalidModelError(f"config.json: {error}") from None

    def labels(self) -> tuple[str, ...]:
        """The classes of the model by number, `id2label` of config.json.

        Raises:
            InvalidModelError: There is no config.json with one.
        """
        found = self.config().get("id2label")
        if not isinstance(found, dict) or not found:
            raise InvalidModelError('config.json: expected "id2label", a mapping of numbers to the names of classes')
        try:
            return tuple(str(found[str(number)]) for number in range(len(found)))
        except KeyError as error:
            raise InvalidModelError(f'config.json: "id2label" has {len(found)} classes, but none of number {error}') from None

    def refusal(self, key: str, problem: str) -> InvalidModelError:
        """The error for a key, with the place where it is written."""
        return InvalidModelError(f"{self._place(key)}: {problem}")

    def missing(self, name: str, hint: str) -> InvalidModelError:
        """The error for a file that the translator needs."""
        chosen = f"{self._place(self.chosen_by)}: {self.text(self.chosen_by)}" if self.chosen_by else "the model"
        return InvalidModelError(f"{chosen} needs the file {name}, which is not in the model's folder ({hint})")

    def _place(self, key: str) -> str:
        if key in self._query:
            return f"argument {key}"
        found = self._properties.get(key)
        return f"{FILE}:{found.line}: key {key}" if found else f"key {key}"

    def _read(self, path: Path, key: str) -> str:
        try:
            if path.stat().st_size > _TEXT_LIMIT_BYTES:
                raise self.refusal(key, f"{path.name} is larger than {_TEXT_LIMIT_BYTES} bytes")
            return path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise self.refusal(key, f"{path.name} is no UTF-8 text") from None
        except OSError as error:
            raise self.refusal(key, f"{path.name} cannot be read: {error.strerror}") from None
