"""Where in an archive its workflow file is, and where the folder is that the file calls `{model_dir}`."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from flowyard.platform.archives.names import is_archive_url

#: Names of a workflow file, in the order they are looked for (DJL §3.3 has JSON first; a folder has one of them).
WORKFLOW_FILES = ("workflow.yaml", "workflow.yml", "workflow.json")
SUFFIXES = (".yaml", ".yml", ".json")
_MODEL_DIR = rb"(?:file:(?://)?)?\{model_dir\}"
_ANYWHERE = re.compile(_MODEL_DIR)
_UPWARDS = re.compile(_MODEL_DIR + rb"(?=/\.\./)")


def workflow_file(folder: Path) -> Path | None:
    """The workflow file at the root of an archive, `None` when it has none."""
    return next((folder / name for name in WORKFLOW_FILES if (folder / name).is_file()), None)


def locate_model_dir(text: bytes, url: str, *, alone: bool) -> bytes:
    """Puts the URL of the folder that a workflow was registered from in the place of `{model_dir}` (DJL §3.3).

    Only where that is not the archive: what it leads to inside of a folder was registered with it.

    Args:
        text: The workflow file.
        url: Where it was registered from.
        alone: Whether the file was registered without the folder around it. Else only what leads out of the folder is replaced.

    Returns:
        The file. That of an archive, an upload or a relative URL stays as it is.
    """
    path = re.sub(r"^file:(//(?=/))?", "", url)
    if not path.startswith("/") or is_archive_url(path):
        return text
    # A path is taken as it is, a URL is quoted already.
    folder = path if url.startswith("file:") else quote(path)
    if path.endswith(SUFFIXES):
        folder = str(PurePosixPath(folder).parent)
    place = f"file:{folder.rstrip('/')}".encode()
    return (_ANYWHERE if alone else _UPWARDS).sub(lambda _: place, text)
