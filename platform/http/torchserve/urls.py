"""Where URLs may lead in TorchServe and MMS: to archives at the top of the store, or to what the settings allow."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from flowyard.platform.archives.remote import is_remote
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.settings import Settings
from flowyard.schemas.errors import ModelNotFoundError

_WEB_OR_FILE = re.compile(r"(https?|file)://", re.IGNORECASE)


def base_name(url: str) -> str:
    """The file that a remote archive would be in the store: the last part of the path."""
    try:
        return urlsplit(url).path.rstrip("/").rpartition("/")[2]
    except ValueError:
        return ""


def is_web_or_file(url: str) -> bool:
    """Whether a URL is one that the originals download."""
    return _WEB_OR_FILE.match(url) is not None


def is_file_url(url: str) -> bool:
    """Whether a URL is `file://…`: it reaches anything on the machine, and is refused."""
    return url[:7].lower() == "file://"


def check_relative(url: str) -> None:
    """Refuses `..` anywhere, as TorchServe does before anything else.

    Raises:
        ModelNotFoundError: It is there.
    """
    if ".." in url:
        raise ModelNotFoundError(f"Relative path is not allowed in url: {url}")


def in_store(url: str, settings: Settings) -> str | None:
    """The file or folder at the top of the store that a path means, `None` for any other place."""
    assert settings.model_store is not None
    store = settings.model_store.rstrip("/")
    rest = url[len(store) + 1 :] if url.startswith(f"{store}/") else url
    return rest if rest and "/" not in rest.rstrip("/") and rest.strip() else None


def taken_name(url: str, store: str | None, endpoints: Endpoints) -> str | None:
    """What a remote archive would overwrite in the store of the original: a file there, or one that was fetched before.

    Args:
        url: The remote URL.
        store: Folder of the archives.
        endpoints: What is registered.

    Returns:
        The name that is taken, `None` where it is free.
    """
    name = base_name(url)
    if not name:
        return None
    fetched = {base_name(entry.record.url) for entry in endpoints if is_remote(entry.record.url)}
    is_there = bool(store) and (Path(store or "") / name).exists()
    return name if name in fetched or is_there else None
