"""What is served where the inference and the management API have an address each (DJL §0)."""

from __future__ import annotations

from typing import Any, Literal

from flowyard.platform.http.native.targets import is_prediction

#: Where what is not served goes: nothing is there.
_NOWHERE = "/not-served-at-this-address"


class Gate:
    """Lets through what belongs to one of the two APIs; everything else is a 404 like any other path that leads nowhere.

    The inference API is predictions and `/ping`. `OPTIONS /` is answered by both, and so are the traces of predictions.

    Args:
        app: The whole application; its direct way, where it has one, is one of predictions.
        serves: The API that is served here.
    """

    def __init__(self, app: Any, serves: Literal["inference", "management"]) -> None:
        self.app = app
        self.direct = getattr(app, "direct", None) if serves == "inference" else None
        self._serves = serves

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request."""
        if scope["type"] == "http" and not self._is_served(scope["path"], scope["method"]):
            scope = {**scope, "path": _NOWHERE, "raw_path": _NOWHERE.encode()}
        await self.app(scope, receive, send)

    def _is_served(self, path: str, method: str) -> bool:
        if (path == "/" and method == "OPTIONS") or path.startswith("/traces/"):
            return True
        is_inference = is_prediction(path) or path == "/ping" or path.startswith("/ping/")
        return is_inference == (self._serves == "inference")
