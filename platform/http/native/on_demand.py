"""Models that a prediction brings along: one that is not registered is, from the URL that the request names (DJL §2.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from flowyard.platform.http.request import body_contents
from flowyard.platform.registry.deployment import Deployment
from flowyard.platform.registry.history import CALLER
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.request import Request as Registration
from flowyard.schemas.errors import ConflictError, ModelNotFoundError, NotReadyError
from flowyard.schemas.models import ModelSpec

MODEL_URL = "model_url"


class OnDemand:
    """Finds what a request means, or registers it from a URL that matches `model_url_pattern` and is allowed besides.

    Where registration is switched off (`enable_model_api`) nothing is.

    Args:
        registry: Where models are registered.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        pattern = registry.settings.model_url_pattern
        self._pattern = re.compile(pattern) if pattern and registry.settings.enable_model_api else None

    def find(self, name: str, version: str | None, headers: Mapping[str, str], *, may_load: bool = True) -> Deployment | None:
        """What is registered under a name; `None` where the request may bring along what is missing.

        Args:
            name: The name.
            version: Its version, `None` for any.
            headers: Of the request, names in lower case.
            may_load: Whether the request is one that runs something.

        Raises:
            ModelNotFoundError: There is no such name or version, nor may there be.
            NotReadyError: It is there, but does not run.
        """
        try:
            return self._registry.endpoints.route(name, version, headers)
        except ModelNotFoundError:
            if self._pattern is None or not may_load:
                raise
            return None

    async def load(
        self, target: tuple[str, str | None], headers: Mapping[str, str], query: Sequence[tuple[str, str]], body: bytes
    ) -> Deployment:
        """Finds what a request means, or else registers it and waits until it serves.

        Args:
            target: Name and version.
            headers: Request headers, names in lower case; `engine_name` and `device` count.
            query: Query parameters.
            body: The body.

        Raises:
            ModelNotFoundError: The request names no URL, or one that does not match.
            NotReadyError: Another request is loading it.
            FlowyardError: It cannot be registered.
        """
        name, version = target
        found = self.find(name, version, headers)
        if found is not None:
            return found
        url = headers.get(MODEL_URL) or _in_contents(headers, query, body)
        if not url:
            raise ModelNotFoundError(f"Parameter {MODEL_URL} is required.")
        if self._pattern is None or not self._pattern.fullmatch(url):
            raise ModelNotFoundError(f"Permission denied: {url[:500]}")
        spec = ModelSpec(engine=headers.get("engine_name") or None, device=headers.get("device") or None)
        try:
            CALLER.set("prediction")
            await self._registry.register(Registration(url=url, name=name, version=version or "", spec=spec))
        except ConflictError:
            raise NotReadyError(f"Model is not ready: {name}") from None
        return self._registry.endpoints.route(name, version, headers)


def _in_contents(headers: Mapping[str, str], query: Sequence[tuple[str, str]], body: bytes) -> str:
    """The first content of that name: of the query, or of a form."""
    given = dict(reversed(query)).get(MODEL_URL)
    if given:
        return given
    found = [content for name, content in body_contents(headers, body) if name == MODEL_URL]
    return found[0].decode("utf-8", "replace") if found else ""
