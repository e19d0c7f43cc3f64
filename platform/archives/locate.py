"""Where a model's URL leads, and whether the settings let it."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from flowyard.platform.archives.remote import MAX_URL_CHARS, SCHEMES
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import ForbiddenError, InvalidRequestError, ModelNotFoundError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Roots(msgspec.Struct, frozen=True):
    """The folders that URLs of callers may lead into.

    Attributes:
        model_store: Where relative URLs start, `None` for no store.
        allowed_paths: Further folders.
    """

    model_store: Path | None = None
    allowed_paths: tuple[Path, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Roots:
        """Takes the folders from the settings.

        Args:
            settings: The settings of the server.

        Returns:
            The folders.
        """
        store = Path(settings.model_store) if settings.model_store else None
        further = (*settings.allowed_paths, *([settings.workflow_store] if settings.workflow_store else []))
        return cls(store, tuple(Path(path) for path in further))


def resolve_url(url: str, roots: Roots, trusted: bool = False) -> Path:
    """Finds the file or folder that a model's URL means.

    Args:
        url: A path, taken as it is, or a `file:` URL, whose query says nothing of the path. A relative path starts at the model
            store.
        roots: Where it may lead.
        trusted: Whether the operator gave it: it may lead anywhere, and a relative path starts at the working directory.

    Returns:
        The path, absolute and with links resolved. It exists.

    Raises:
        InvalidRequestError: It is no URL, or of a kind that is not supported.
        ForbiddenError: It leads elsewhere, whether or not something is there.
        ModelNotFoundError: It may lead there, but nothing is there, or it is relative and there is no model store.
    """
    path = _absolute(path_of(url), roots, trusted, url)
    real = Path(os.path.realpath(path))
    if not (trusted or _inside(real, roots)):
        raise ForbiddenError(f"url {url!r} leads outside of the model store and of the folders in the setting allowed_paths")
    if not os.access(real, os.F_OK):
        raise ModelNotFoundError(f"Invalid model url: {url}")
    return real


def path_of(url: str) -> str:
    """The path that a path or `file:` URL says, which may be relative.

    Raises:
        InvalidRequestError: It is no URL, or of a kind that is not supported.
    """
    if len(url) > MAX_URL_CHARS:
        raise InvalidRequestError(f"Invalid url: it has {len(url)} characters, {MAX_URL_CHARS} are allowed")
    scheme = _SCHEME.match(url)
    path = _from_scheme(scheme[1].lower(), url) if scheme else url
    if not path or any(unicodedata.category(char) in ("Cc", "Cs") for char in path):
        raise InvalidRequestError(f"Invalid url: {url!r}; it is empty or has characters that no path has")
    return path


def _from_scheme(scheme: str, url: str) -> str:
    if scheme != "file":
        known = ", ".join(f"{name}:" for name in ("file", *SCHEMES))
        raise InvalidRequestError(f"Invalid url: {scheme}: is not supported; a path is, and {known}")
    return _from_file_url(url)


def _from_file_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        path = unquote_to_bytes(parts.path).decode("utf-8")
    except ValueError as error:
        raise InvalidRequestError(f"Invalid url: {url!r}; it is not a url of UTF-8 text") from error
    if "@" in parts.netloc:
        raise InvalidRequestError("Invalid url: it has a user name or password; expected is file:///path of a file on the server")
    if _BAD_ESCAPE.search(parts.path) or parts.fragment:
        raise InvalidRequestError(f"Invalid url: {url!r}; `%`, `?` and `#` in a path are written %25, %3F and %23")
    if parts.netloc.lower() not in ("", "localhost") or not path.startswith("/"):
        raise InvalidRequestError(f"Invalid url: {url!r}; expected is file:///path of a file on the server")
    return "/" + path.lstrip("/")


def _absolute(path: str, roots: Roots, trusted: bool, url: str) -> Path:
    if trusted or path.startswith("/"):
        return Path(path)
    if roots.model_store is None:
        raise ModelNotFoundError(f"Invalid model url: {url}")
    return roots.model_store / path


def _inside(real: Path, roots: Roots) -> bool:
    folders = [*([roots.model_store] if roots.model_store else []), *roots.allowed_paths]
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
