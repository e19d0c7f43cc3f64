"""Names and versions of models and workflows, given or inferred."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import msgspec

from flowyard.schemas.errors import InvalidRequestError

NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
VERSION_PATTERN = "[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_ARCHIVE_SUFFIX = re.compile(r"\.(tar\.gz|tar\.z|tgz|zip|tar|mar|gz|z)$", re.IGNORECASE)
_LOAD_ITEM = "[NAME[:VERSION[:ENGINE[:DEVICES]]]=]URL"
_NOT_A_WORD = re.compile(r"\W|^_", re.ASCII)


class LoadItem(msgspec.Struct, frozen=True):
    """One thing to load at the start.

    Attributes:
        url: Where it is.
        name: The name to serve it under, `None` to infer it.
        version: Its version, `None` for none.
        engine: Engine to load it with, `None` to infer it.
        devices: Devices joined by `;`, `None` for those of the settings.
    """

    url: str
    name: str | None = None
    version: str | None = None
    engine: str | None = None
    devices: str | None = None

    def __str__(self) -> str:
        """As the operator would write it."""
        said = [self.name, self.version, self.engine, self.devices]
        while said and said[-1] is None:
            said.pop()
        return f"{':'.join(part or '' for part in said)}={self.url}" if said else self.url


def infer_model_name(url: str) -> str:
    """Makes a name from a URL (DJL §1.3).

    The last segment of the path without an archive's extension, where every character that is not a letter, digit or underscore
    becomes an underscore: `my-model.v1.zip` is `my_model_v1`. A URL that ends in `/` keeps its extension.

    Args:
        url: URL or path of a model.

    Returns:
        The name. It may still break the rule of `check_name`, by its first character or its length.

    Raises:
        InvalidRequestError: The URL has no last segment.
    """
    path = unquote(_path_of(url)) if _SCHEME.match(url) else url
    segment = path.rstrip("/").rpartition("/")[2]
    if not path.endswith("/"):
        segment = _ARCHIVE_SUFFIX.sub("", segment)
    if not segment:
        raise InvalidRequestError(f"No model name can be inferred from url {url!r}; give model_name.")
    return _NOT_A_WORD.sub("_", segment)


def is_archive_url(url: str) -> bool:
    """Whether a URL ends like an archive; DJL Serving looks for workflows elsewhere only (DJL §3.3)."""
    return is_archive_name(_path_of(url) if _SCHEME.match(url) else url)


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError as error:
        raise InvalidRequestError(f"Invalid url: {url!r}") from error


def is_archive_name(name: str) -> bool:
    """Whether a file is called like an archive."""
    return _ARCHIVE_SUFFIX.search(name) is not None


def check_name(name: str) -> str:
    """Holds a name of a model or workflow against the rule.

    Args:
        name: The name.

    Returns:
        The name.

    Raises:
        InvalidRequestError: It breaks the rule, which the message tells.
    """
    if not _NAME.fullmatch(name):
        rule = "up to 128 letters, digits, `_`, `.` and `-`, the first a letter or digit"
        raise InvalidRequestError(f"Invalid name: {name[:200]!r}; allowed are {rule}.")
    return name


def check_version(version: str) -> str:
    """Holds a version against the rule.

    Args:
        version: The version.

    Returns:
        The version.

    Raises:
        InvalidRequestError: It breaks the rule, which the message tells.
    """
    if not _VERSION.fullmatch(version):
        rule = "up to 64 letters, digits, `_`, `.`, `+` and `-`, the first a letter or digit"
        raise InvalidRequestError(f"Invalid version: {version[:200]!r}; allowed are {rule}.")
    return version


def parse_load_item(text: str) -> LoadItem:
    """Reads `[NAME[:VERSION[:ENGINE[:DEVICES]]]=]URL` (DJL §4.2).

    What is before the first `=` is a name unless it has a slash or a question mark: `/models/a=b.onnx` is a URL. DJL's brackets
    around it are accepted. Parts may be empty: `mlp::PyTorch=URL` has no version, `[:v1]=URL` infers the name.

    Args:
        text: The item.

    Returns:
        Its parts.

    Raises:
        InvalidRequestError: A bad name or version, too many parts, or no URL.
    """
    before, equals, after = text.strip().partition("=")
    if not equals or "/" in before or "?" in before:
        before, equals, after = "", "", text.strip()
    if not after:
        raise InvalidRequestError(f"No url in {text!r}; expected is {_LOAD_ITEM}.")
    if not equals:
        return LoadItem(after)
    parts = before.removeprefix("[").removesuffix("]").split(":")
    if len(parts) > 4 or parts == [""]:
        raise InvalidRequestError(f"{before!r} in {text!r} is not NAME[:VERSION[:ENGINE[:DEVICES]]]; expected is {_LOAD_ITEM}.")
    name, version, engine, devices = (part.strip() or None for part in [*parts, "", "", ""][:4])
    return LoadItem(after, check_name(name) if name else None, check_version(version) if version else None, engine, devices)
