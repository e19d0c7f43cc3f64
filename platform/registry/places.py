"""Where the models of a workflow are: in its archive, or somewhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from flowyard.platform.archives.remote import is_remote
from flowyard.schemas.errors import ForbiddenError
from flowyard.workflows.plan import Plan


class Places(msgspec.Struct, frozen=True):
    """Where the models of a workflow are.

    Attributes:
        folder: Where the workflow file is.
        parts: Those that are not there, by URL.
    """

    folder: Path
    parts: Mapping[str, Path]

    def find(self, url: str) -> Path:
        """The file or folder of a model.

        Raises:
            ForbiddenError: A relative URL leads out of the archive.
        """
        if url in self.parts:
            return self.parts[url]
        folder = self.folder.resolve()
        inside = (folder / url).resolve()
        if not inside.is_relative_to(folder):
            raise ForbiddenError(f"{url} leads out of the archive")
        return inside

    def root(self, url: str) -> Path:
        """The folder that a model's own modules are imported from."""
        place = self.parts.get(url, self.folder)
        return place if place.is_dir() else place.parent


def outside_urls(plan: Plan, folder: Path) -> dict[str, str]:
    """The models of a workflow that are not in its archive.

    Those with a full URL or an absolute path, and those that are in the model store instead.

    Args:
        plan: The compiled workflow.
        folder: Where the workflow file is.

    Returns:
        Local names of the models, by URL.
    """
    return {spec.url: key for key, spec in plan.models.items() if not spec.model and _is_elsewhere(spec.url, plan, folder)}


def inside_urls(plan: Plan, folder: Path) -> dict[str, str]:
    """The models of a workflow that are files or folders in its archive.

    Args:
        plan: The compiled workflow.
        folder: Where the workflow file is.

    Returns:
        Local names of the models, by URL.
    """
    return {
        spec.url: key
        for key, spec in plan.models.items()
        if not (spec.model or _is_elsewhere(spec.url, plan, folder) or is_callable_reference(spec.url))
    }


def _is_elsewhere(url: str, plan: Plan, folder: Path) -> bool:
    """Whether a model is not in the archive; relative URLs of TorchServe's specs, and of `.mar` files, lead to the store then."""
    if _is_outside(url):
        return True
    may_be_stored = plan.spelling == "torchserve" or url.endswith(".mar")
    return may_be_stored and ".." not in url.split("/") and not is_callable_reference(url) and not (folder / url).exists()


def _is_outside(url: str) -> bool:
    if is_remote(url):
        return True
    return not is_callable_reference(url) and ("://" in url or url.startswith(("file:", "/")))


def is_callable_reference(url: str) -> bool:
    """Whether a URL is `module:callable` or `file.py:callable` rather than a path or a real URL."""
    module, colon, attribute = url.partition(":")
    return bool(colon) and attribute.isidentifier() and "/" not in attribute and bool(module)
