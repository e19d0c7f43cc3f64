"""What is named on a command line: models with their versions, and where archives come from."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from flowyard.platform.cli.failures import usage_error
from flowyard.platform.client import ModelNotFoundError, RefusedError

_LOCAL_ONLY = ("./", "../", "~")
_QUOTED = re.compile(r'"([^"]+)"')


def name_and_version(text: str) -> tuple[str, str | None]:
    """Splits `NAME[:VERSION]`.

    Raises:
        CommandError: Either is empty.
    """
    name, colon, version = text.partition(":")
    if not name or (colon and not version):
        raise usage_error(f"{text!r}: NAME or NAME:VERSION is expected")
    return name, version or None


def source_of(text: str, *, remote: bool) -> str | Path:
    """Where a registration comes from.

    Args:
        text: A URL, or a path.
        remote: Whether a path is the server's even when there is one here.

    Returns:
        A `Path` that is uploaded where there is a file or folder here, else text that the server reads.

    Raises:
        CommandError: A path that can only be meant here, and nothing is there.
    """
    if remote or "://" in text or text.startswith("file:"):
        return text
    try:
        path = Path(text).expanduser()
        there = path.exists()
    except (OSError, ValueError, RuntimeError):
        return text
    if there:
        return path
    if text.startswith(_LOCAL_ONLY):
        raise usage_error(f"{text}: no such file or folder")
    return text


def explained(error: RefusedError, source: str | Path) -> RefusedError:
    """Says what only this side knows of a refusal: where the files at fault are, or that what was not found is not here either.

    Args:
        error: The refusal of a registration.
        source: What was to be registered.

    Returns:
        The error with a better message or better places.
    """
    if isinstance(source, Path):
        places = [f"{source}/{problem.file}" if problem.file else str(source) for problem in error.problems]
        pairs = zip(error.problems, places, strict=True)
        error.problems = tuple(msgspec.structs.replace(problem, file=place) for problem, place in pairs)
    elif isinstance(error, ModelNotFoundError) and "://" not in source:
        error.message += f" (there is no file or folder {source} here either)"
    return error


def registered_name(status: str) -> str | None:
    """The name in what the server says, such as `Model "mlp" registration scheduled.`; `None` when there is none."""
    found = _QUOTED.search(status)
    return found[1] if found else None


def weights_of(words: tuple[str, ...]) -> dict[str, int]:
    """Reads `v1:90 v2:10`, also with commas or equals signs.

    Raises:
        CommandError: It is none of that.
    """
    weights: dict[str, int] = {}
    for word in ",".join(words).split(","):
        version, separator, number = word.strip().replace("=", ":").rpartition(":")
        if not separator or not version or not number.isdecimal() or version in weights:
            raise usage_error(f"weights {word!r}: VERSION:SHARE for each version is expected, such as v1:90 v2:10")
        weights[version] = int(number)
    return weights


def parameters_of(words: list[str] | None) -> dict[str, str]:
    """Reads `--parameter KEY=VALUE`s.

    Raises:
        CommandError: One is not of this form.
    """
    found: dict[str, str] = {}
    for word in words or []:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise usage_error(f"--parameter {word}: KEY=VALUE is expected")
        found[key] = value
    return found
