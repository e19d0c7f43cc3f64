"""Takes the places where the server keeps things out of what it says to others."""

from __future__ import annotations

import re
import sys

#: A longer message is cut: a worker may say whatever it likes.
MAX_MESSAGE_CHARS = 16_000
_FOLDERS = (
    r"archives/(?:sha256/[0-9a-f]{64}|tmp/[0-9a-f]{32})",
    r"requirements/(?:[0-9a-f]{64}[\w-]*|tmp/[0-9a-f]{32})",
    r"workplaces/[0-9a-f]{32}",
)
_STORED = re.compile(f"/(?:{'|'.join(_FOLDERS)})(/?)")
#: What a path does not hold in a message.
_WORDS = re.compile(r"[^\s'\"<>]+")
_PYTHON = tuple(dict.fromkeys(f"{prefix}/" for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)))


def without_host_paths(message: str) -> str:
    """A message without the folders of the server: files of an archive are named as they are in the archive.

    Args:
        message: What an engine, a library or user code says about a failure.
    """
    message = _WORDS.sub(_without_folder, message[:MAX_MESSAGE_CHARS])
    for prefix in _PYTHON:
        message = message.replace(prefix, "")
    return message


def _without_folder(found: re.Match[str]) -> str:
    word = found[0]
    stored = None
    for one in _STORED.finditer(word):
        stored = one
    if stored is None:
        return word
    # What stands before the path, such as a bracket, stays.
    return word[: word.index("/")] + ("" if stored[1] else ".") + word[stored.end() :]
