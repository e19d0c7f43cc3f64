"""What a model is, by what its files say: which engine loads it, and what that is to load."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from flowyard.engines import discovery
from flowyard.engines.djl import folder as djl
from flowyard.engines.djl import pretrained
from flowyard.engines.djl.folder import DjlModel
from flowyard.engines.djl.pretrained import check_pretrained
from flowyard.engines.djl.translators.registry import check_translator
from flowyard.engines.torchserve import folder as torchserve
from flowyard.engines.torchserve.folder import ArchivedModel
from flowyard.platform.archives.locate import Roots, resolve_url
from flowyard.platform.registry.places import Places, is_callable_reference
from flowyard.platform.settings import Settings
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.messages import Handlers
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.ranks import Ranks


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """A model that has been found.

    Attributes:
        engine: Name of its engine adapter.
        root: Folder that its own modules are imported from.
        path: What is to be loaded: a path, or `module:callable`.
        described: What its folder says, where it is one of DJL's, TorchServe's or MMS's kind.
    """

    engine: str
    root: Path
    path: str
    described: DjlModel | ArchivedModel | None = None

    @property
    def handlers(self) -> Handlers:
        """Whose handlers it has; a model of DJL's kind with a translator takes and gives messages as its handlers do."""
        if isinstance(self.described, ArchivedModel):
            return self.described.handlers
        return "djl" if self.described is not None else ""

    @property
    def is_djl_handler(self) -> bool:
        """Whether it is Python code written for DJL."""
        return self.handlers == "djl" and self.engine == "Python"

    @property
    def parameters(self) -> dict[str, str]:
        """What its workers are told of its own files."""
        return self.described.parameters if self.described is not None else {}

    @property
    def startup_timeout_s(self) -> float | None:
        """How long its workers may take to load it, where it says so."""
        return self.described.loading_timeout_s() if self.described is not None else None

    @property
    def ranks(self) -> Ranks | None:
        """How its workers are made of processes; `None` where each is one like any other."""
        return self.described.ranks if self.described is not None else None

    def spec(self, device_type: str = "cpu") -> ModelSpec:
        """What the model itself says about how it is to be served."""
        return self.described.spec(device_type) if self.described is not None else ModelSpec()


class Locator:
    """Finds the models of workflows.

    Args:
        settings: What archives may name.
        available: The devices of this machine.
    """

    def __init__(self, settings: Settings, available: tuple[Device, ...]) -> None:
        self._settings = settings
        self._available = available

    def find(self, key: str, spec: ModelSpec, places: Places) -> Located:
        """Finds a model, and which engine loads it.

        Args:
            key: Its local name.
            spec: What is said about it.
            places: Where the models of its workflow are.

        Returns:
            The engine, and what it is to load.

        Raises:
            UserError: It is not there, no engine can load it, or it could only fail in a worker.
        """
        if is_callable_reference(spec.url) and (spec.engine is None or discovery.canonical(spec.engine) == "Python"):
            return Located(engine="Python", root=places.folder, path=spec.url)
        path = places.find(spec.url)
        if spec.engine is None or discovery.canonical(spec.engine) == "Python":
            gpus = sum(device.type == "gpu" for device in self._available)
            archived = torchserve.recognise(path, spec.options, gpus)
            if archived is not None:
                return Located(engine="Python", root=archived.folder, path="", described=archived)
        found = djl.recognise(path, spec.engine)
        if found is not None:
            self._check(found, spec)
            return Located(engine=found.engine, root=found.folder, path=found.path, described=found)
        if spec.engine is None:
            engine, model = discovery.infer(path)
            return Located(engine=engine, root=places.root(spec.url), path=str(model))
        adapter = discovery.find(spec.engine)
        chosen = adapter.recognise(path)
        if chosen is None:
            raise InvalidModelError(f'model "{key}": {spec.url} is no model that the engine {adapter.name} can load')
        return Located(engine=adapter.name, root=places.root(spec.url), path=str(chosen))

    def _check(self, model: DjlModel, spec: ModelSpec) -> None:
        """Refuses a model of DJL's kind that could only fail in a worker."""
        if model.engine != "Python":
            check_translator(model.folder, model.properties, spec.arguments)
        elif model.path == pretrained.MODULE:
            roots = Roots.of(self._settings)
            check_pretrained(model.folder, model.properties, functools.partial(resolve_url, roots=roots))
