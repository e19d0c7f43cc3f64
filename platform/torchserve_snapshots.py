"""Snapshots of TorchServe: files of its configuration, one key of which says what is served (TorchServe reference §1.2).

Whoever reads and whoever writes them has the format from here; so has who reads the key `models`, whose JSON is the same by
version.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.lenient_json import read_lenient
from flowyard.schemas.properties import as_mapping, read_properties
from flowyard.schemas.values import NOT_JSON

#: Which of them it is: of the start, of a change, of the stop.
Kind: TypeAlias = Literal["startup", "snapshot", "shutdown"]

#: The key that says what is served.
KEY = "model_snapshot"
#: The key that says which state directory remembers what is served; TorchServe passes it over.
STATE_DIR = "flowyard_state_dir"
#: Where snapshots are, below the folder of the logs.
FOLDER = "config"
ENDING = ".cfg"
#: A file with several thousand models is not longer than this.
MAX_BYTES = 16 << 20
_STAMP = re.compile(r"(\d{17})-")
_STAMP_FORMAT = "%Y%m%d%H%M%S"


class ModelDefaults(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How a version of a model is served, as the key `models` and snapshots say it, in the original's order.

    Attributes:
        default_version: Whether it answers where no version is named; only in snapshots.
        mar_name: Its archive in the model store; only in snapshots.
        min_workers: Least workers, over all devices.
        max_workers: Most workers, over all devices.
        batch_size: Most requests of a batch.
        max_batch_delay: Milliseconds that a batch waits for company.
        response_timeout: Seconds that a batch may take.
        startup_timeout: Seconds that a worker may take to start.
        runtime_type: The runtime.
        parallel_level: Processes of a worker.
        handler: The handler, where it is not the archive's; TorchServe has no such key.
    """

    default_version: bool | None = None
    mar_name: str | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    runtime_type: str | None = None
    parallel_level: int | None = None
    handler: str | None = None


ByVersion: TypeAlias = dict[str, dict[str, ModelDefaults]]


class Snapshot(msgspec.Struct, frozen=True, rename="camel"):
    """What is served.

    Attributes:
        models: By name and version.
        name: The file that it is in.
        model_count: How many versions there are.
        created: Milliseconds since 1970.
    """

    models: ByVersion
    name: str = ""
    model_count: int = 0
    created: int = 0

    def loads(self) -> tuple[str, ...]:
        """What there is to load, of each name the default version first."""
        return tuple(
            f"{name}:{version}={said.mar_name}"
            for name, versions in self.models.items()
            for version, said in sorted(versions.items(), key=lambda one: not one[1].default_version)
        )


def read_snapshot(text: str, place: str) -> Snapshot:
    """Reads the key `model_snapshot`.

    Args:
        text: Its value, which Gson would take for JSON.
        place: Where it is, for messages.

    Raises:
        InvalidRequestError: It is no snapshot.
    """
    try:
        snapshot = msgspec.convert(read_document(text), Snapshot, strict=False)
        if any(said.mar_name is None for versions in snapshot.models.values() for said in versions.values()):
            raise ValueError("a version has no marName")
    except (*NOT_JSON, ValueError) as error:
        raise InvalidRequestError(f"{place}: this is no snapshot of TorchServe: {error}") from None
    return snapshot


def model_defaults(text: str | None) -> dict[tuple[str, str], ModelDefaults]:
    """Reads the setting `models`.

    Args:
        text: What Gson would take for JSON by name and version, `None` for none.

    Returns:
        By name and version.

    Raises:
        InvalidRequestError: It is no such JSON.
    """
    if not text:
        return {}
    try:
        document = msgspec.convert(read_document(text), ByVersion, strict=False)
    except (*NOT_JSON, ValueError) as error:
        raise InvalidRequestError(f"models: this is no JSON of models by name and version: {error}") from None
    return {(name, version): said for name, versions in document.items() for version, said in versions.items()}


def read_document(text: str) -> Any:
    """Reads what Gson would take for JSON.

    Raises:
        ValueError: It is none.
    """
    try:
        return msgspec.json.decode(text)
    except NOT_JSON as error:
        try:
            return read_lenient(text)
        except ValueError:
            raise ValueError(str(error)) from None


def value_of(snapshot: Snapshot) -> str:
    """The value of the key `model_snapshot`, as the original writes it."""
    given = {"name": snapshot.name, "modelCount": snapshot.model_count, "created": snapshot.created, "models": snapshot.models}
    return msgspec.json.format(msgspec.json.encode(given), indent=2).decode()


# ---- files ----


def stamp_of(name: str) -> datetime | None:
    """When a snapshot was made, as its name says; `None` where it says nothing."""
    found = _STAMP.match(name)
    try:
        return datetime.strptime(f"{found[1]}000", f"{_STAMP_FORMAT}%f") if found else None  # noqa: DTZ007 - local, as Java's
    except ValueError:
        return None


def name_of(kind: Kind, now: datetime, last: datetime | None) -> tuple[str, datetime]:
    """The name of a new snapshot, and the time in it.

    Args:
        kind: Which it is.
        now: The local time.
        last: The time of the one before: names stay in order whatever the clock does.
    """
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    stamp = now if last is None or last < now else last + timedelta(milliseconds=1)
    return f"{stamp.strftime(_STAMP_FORMAT)}{stamp.microsecond // 1000:03d}-{kind}{ENDING}", stamp


def snapshots_in(logs: Path) -> list[Path]:
    """The snapshots below a folder of logs, the oldest first: their names begin with the time."""
    return sorted(logs.glob(f"{FOLDER}/*{ENDING}"))


def state_dir_of(file: Path) -> Path | None:
    """The state directory of whoever has written a snapshot; `None` where that was TorchServe, or it cannot be read."""
    try:
        entry = as_mapping(read_properties(file, MAX_BYTES)).get(STATE_DIR)
    except InvalidRequestError:
        return None
    return Path(entry.value) if entry is not None else None


def newest_snapshot(logs: Path, state_dir: Path | None = None) -> Path | None:
    """The last snapshot that a TorchServe has written, or a server with the same state directory.

    Those of other servers of flowyard that share the folder of logs are passed over as long as their state directory is there.

    Args:
        logs: The folder of the logs.
        state_dir: The state directory, `None` where all of them count.
    """
    for file in reversed(snapshots_in(logs)):
        writer = state_dir_of(file) if state_dir is not None else None
        if writer is None or writer == state_dir or not writer.is_dir():
            return file
    return None
