"""Which methods a path takes: for the `Allow` header of a 405 and of OPTIONS (RFC 9110 §10.2.1)."""

from __future__ import annotations

import re
from typing import Any

from litestar import Litestar
from litestar.routes import HTTPRoute

_PARAMETER = re.compile(r"\\\{(\w+)\\\}")


class Methods:
    """The methods of all routes of an application.

    Litestar has a route for each handler and knows only that one's methods, though several handlers may share a path.

    Args:
        app: The application.
    """

    def __init__(self, app: Litestar) -> None:
        routes = [route for route in app.routes if isinstance(route, HTTPRoute)]
        methods: dict[str, set[str]] = {}
        for route in routes:
            methods.setdefault(route.path_format, set()).update(route.methods)
        # The router prefers what is written out to what a parameter stands for.
        routes.sort(key=lambda route: len(route.path_parameters))
        self._routes = {route.path_format: (_pattern(route), methods[route.path_format]) for route in routes}

    def of(self, path: str) -> str:
        """The methods that a path takes, as the header has them; empty where it leads nowhere."""
        path = path.rstrip("/") or "/"
        found: set[str] = next((methods for pattern, methods in self._routes.values() if pattern.fullmatch(path)), set())
        return ", ".join(sorted(found))


def _pattern(route: HTTPRoute) -> re.Pattern[str]:
    rest = {parameter.name for parameter in route.path_parameters.values() if _is_rest(parameter)}
    text = _PARAMETER.sub(lambda found: ".+" if found[1] in rest else "[^/]+", re.escape(route.path_format))
    return re.compile(text)


def _is_rest(parameter: Any) -> bool:
    """Whether a parameter stands for the rest of the path."""
    return str(parameter.full).endswith(":path")
