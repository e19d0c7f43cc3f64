"""An installation as a folder for `flowyard apply`, and the settings of the server that it is applied to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from flowyard.platform.desired.documents import SUFFIXES, NameDocument, file_name, to_yaml
from flowyard.platform.migration.configuration import native_url, read
from flowyard.platform.migration.installation import Installation
from flowyard.platform.migration.models import served
from flowyard.platform.migration.verdicts import Verdict
from flowyard.platform.settings import settings_of
from flowyard.platform.sources import Given
from flowyard.schemas.errors import InvalidRequestError

#: Not YAML: `flowyard apply` reads all YAML files of a folder.
SETTINGS_FILE = "settings.properties"
_SEPARATORS = {"allowed_paths": ":", "allowed_urls": " "}


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """What moves in.

    Attributes:
        installation: Where it comes from.
        documents: What it serves, one document for each name.
        lines: The settings of the new server, each once.
        url: Where `flowyard apply` finds that server.
        verdicts: What became of each key, by place.
        notes: What there is to say besides.
    """

    installation: Installation
    documents: tuple[NameDocument, ...]
    lines: tuple[Given, ...]
    url: str
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()

    @property
    def changes_answers(self) -> bool:
        """Whether something is answered otherwise."""
        return any(verdict.outcome == "changes answers" for verdict in self.verdicts)

    def files(self) -> dict[str, str]:
        """The files of the folder, by name."""
        documents = {file_name(document.name): to_yaml(document) for document in self.documents}
        return documents | {SETTINGS_FILE: self._settings_text()}

    def _settings_text(self) -> str:
        head = f"# What was {self.installation.title} in {self.installation.folder}; for `flowyard serve --config`.\n"
        lines = [f"# {line.source}\n{line.key}={escaped(str(line.value))}\n" for line in self.lines]
        return head + "".join(lines)


def migrate(installation: Installation, env: Mapping[str, str], model_store: Path | None = None) -> Migration:
    """Reads an installation.

    Args:
        installation: The installation.
        env: Its environment.
        model_store: Its model store, where the configuration does not say it.

    Returns:
        What moves in; nothing has been written.

    Raises:
        InvalidRequestError: The configuration is broken, or there is no model store.
    """
    try:
        configuration = read(installation, env, model_store)
        found = served(installation, configuration)
    except OSError as error:
        where = error.filename or installation.folder
        raise InvalidRequestError(f"{where}: it cannot be read: {error.strerror}") from None
    lines = [*configuration.lines, Given("load_models", "NONE", "the documents have it", "load_models")]
    for key, values in (("allowed_paths", map(str, found.folders)), ("allowed_urls", found.urls)):
        lines = _with(lines, key, list(values))
    settings = settings_of(lines, {})[0]
    return Migration(
        installation=installation,
        documents=found.documents,
        lines=tuple(lines),
        url=native_url(settings),
        verdicts=tuple(sorted((*configuration.verdicts, *found.verdicts), key=_place)),
        notes=(*configuration.notes, *found.notes),
    )


def _place(verdict: Verdict) -> tuple[str, int]:
    return verdict.file, verdict.line


def _with(lines: list[Given], key: str, values: list[str]) -> list[Given]:
    """The same with further values of a list."""
    said = next((line for line in lines if line.key == key), None)
    if not values:
        return lines
    joined = _SEPARATORS[key].join([*([str(said.value)] if said is not None else []), *values])
    line = Given(key, joined, said.source if said is not None else "where archives come from", key)
    return [*(other for other in lines if other is not said), line]


def escaped(value: str) -> str:
    """A value as a file of properties has it."""
    text = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"\\{text}" if text[:1] in (" ", "\t", "\f") else text


def write(migration: Migration, folder: Path, *, force: bool) -> list[Path]:
    """Writes the folder.

    Args:
        migration: What moves in.
        folder: Where to; made where it is not there.
        force: Whether files in it may be overwritten.

    Returns:
        The files.

    Raises:
        InvalidRequestError: Something is there that may not be overwritten or does not belong there, or it cannot be written.
    """
    files = migration.files()
    try:
        _check(folder, files, force=force)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write(folder / name, text)
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or folder}: it cannot be written: {error.strerror}") from None
    return [folder / name for name in files]


def _check(folder: Path, files: Mapping[str, str], *, force: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidRequestError(f"{folder} is no folder")
    there = sorted(folder.iterdir())
    if there and not force:
        raise InvalidRequestError(f"{folder} is not empty; --force overwrites what is in it")
    strange = [
        file for file in sorted(folder.rglob("*")) if file.suffix in SUFFIXES and str(file.relative_to(folder)) not in files
    ]
    if strange:
        raise InvalidRequestError(f"{strange[0]} is in the way: `flowyard apply {folder}` would read it, too; move it elsewhere")


def _write(file: Path, text: str) -> None:
    """The settings have passwords in them: nobody else reads the files."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")
