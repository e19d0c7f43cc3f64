"""Which model or workflow a request for a prediction means (DJL §2.1, §2.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias
from urllib.parse import unquote

from flowyard.platform.http.native.errors import NO_ROUTE
from flowyard.platform.http.request import body_contents
from flowyard.platform.memo import remembered
from flowyard.schemas.errors import InvalidRequestError, NotFoundError

#: Name and version; no name where the path does not say.
Target: TypeAlias = tuple[str | None, str | None]

_NAMELESS = ("/invocations", "/v1/chat/completions")
_INVOKE = re.compile(r"/models/[^/]+/invoke/*")


def is_prediction(path: str) -> bool:
    """Whether a path, decoded, is one that runs something."""
    if path.startswith("/predictions"):
        return path[12:13] in ("", "/")
    if path.startswith("/models/"):
        return _INVOKE.fullmatch(path) is not None
    return path.rstrip("/") in _NAMELESS or path.startswith(_NAMELESS[0] + "/")


@remembered(1024)
def target_of_path(raw_path: bytes) -> Target:
    """What the path of a request says: `/predictions/{name}[/{version}]`, `/models/{name}/invoke`, or nothing.

    Raises:
        NotFoundError: It names nothing where it should, or too much.
    """
    path = raw_path.decode("latin-1").split("?")[0].rstrip("/")
    first, *segments = [unquote(segment) for segment in path.split("/")[1:]]
    if first == "models":
        return segments[0], None
    if first != "predictions":
        return None, None
    if not 1 <= len(segments) <= 2:
        raise NotFoundError(NO_ROUTE)
    return segments[0], segments[1] if len(segments) == 2 else None


def target_of_request(
    query: Sequence[tuple[str, str]], headers: Mapping[str, str], body: bytes, default: str | None
) -> tuple[str, str | None]:
    """What a request says whose path names nothing: `model_name` and `model_version` in the query, a header or the form.

    Args:
        query: Query parameters.
        headers: Request headers, names in lower case.
        body: The body.
        default: The one name that was loaded at the start, if it is one.

    Raises:
        InvalidRequestError: It says nothing, and there is no default.
    """
    parameters = dict(reversed(query))
    version = parameters.get("model_version") or headers.get("model_version") or None
    name = parameters.get("model_name") or headers.get("model_name") or _in_form(headers, body) or default
    if not name:
        raise InvalidRequestError("Parameter model_name is required.")
    return name, version


def _in_form(headers: Mapping[str, str], body: bytes) -> str:
    found = [content for name, content in body_contents(headers, body) if name == "model_name"]
    return found[0].decode("utf-8", "replace") if found else ""
