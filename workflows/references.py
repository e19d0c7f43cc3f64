"""What the strings of a workflow file refer to: nodes, the request, paths into one, and functions of modules."""

from __future__ import annotations

import re
from collections.abc import Container

import msgspec

_CALLABLE = re.compile(
    r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|[\w-]+(?:/[\w-]+)*\.py):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)",
)
_REGISTERED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,127})(?::([A-Za-z0-9][A-Za-z0-9_.-]{0,127}))?")
#: Schemes of URLs, which a module of the same name would look like.
SCHEMES = frozenset({"file", "http", "https", "s3", "gs", "az", "hf", "hdfs", "djl", "jar"})


class Target(msgspec.Struct, frozen=True, gc=False):
    """What a reference leads to.

    Attributes:
        base: Name of a node; `in`, `in.headers` or `in.query` for the request.
        rest: JMESPath into it, or the name of the header or query parameter; empty for all of it.
    """

    base: str
    rest: str = ""


def resolve(text: str, nodes: Container[str]) -> Target | None:
    """Finds what a reference means. A node of exactly that name wins.

    Args:
        text: The reference.
        nodes: Names of all nodes.

    Returns:
        Where it leads, `None` when its first part is unknown.
    """
    if text in nodes or text == "in":
        return Target(text)
    for part in ("in.headers", "in.query"):
        if text.startswith(part + ".") and len(text) > len(part) + 1:
            return Target(part, text[len(part) + 1 :])
    at = text.find(".")
    while at > 0:
        base = text[:at]
        if base in nodes or base == "in":
            return Target(base, text[at + 1 :])
        at = text.find(".", at + 1)
    return None


def split_registered(text: str) -> tuple[str, str] | None:
    """Splits `name[:version]`.

    Args:
        text: How a file refers to a model or workflow that is registered on the server.

    Returns:
        Name and version, the version empty when not given; `None` when it is something else.
    """
    match = _REGISTERED.fullmatch(text)
    return None if match is None else (match[1], match[2] or "")


def split_callable(text: str) -> tuple[str, str] | None:
    """Splits `module:callable`, where the module may be a file, `path/to/file.py`, with a name that only files have.

    Args:
        text: A function of the file, or the URL of a Python model.

    Returns:
        Module and callable, `None` when it is something else, e.g. a path or a URL.
    """
    match = _CALLABLE.fullmatch(text)
    return None if match is None or match[1] in SCHEMES else (match[1], match[2])
