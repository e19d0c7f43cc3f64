"""What is registered, as TorchServe and MMS see it: models by name, one version of each the default one, nodes of workflows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from flowyard.platform.http.torchserve.errors import VersionNotFoundError, WorkflowNotFoundError
from flowyard.platform.registry.deployment import FUNCTIONS, Deployment
from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.workers.pool import ModelPool
from flowyard.schemas.errors import ModelNotFoundError, NotReadyError

#: The version of a model that names none.
NO_VERSION = "1.0"
#: Between the names of a workflow and of one of its nodes (TorchServe reference §4.3).
NODE = "__"


class Model(msgspec.Struct, frozen=True):
    """A model: one that is registered, or a node of a workflow.

    Attributes:
        entry: The registration.
        name: What it is called here.
        key: The name of its pool in the deployment, empty for a model that is registered itself.
        function: The function, where it is a node that is one.
    """

    entry: Entry
    name: str
    key: str = ""
    function: str = ""

    @property
    def version(self) -> str:
        """Its version, as it is told."""
        return version_of(self.entry) if not self.function else NO_VERSION

    @property
    def attempt(self) -> Deployment | None:
        """What is being brought up, or runs."""
        return self.entry.attempt

    @property
    def pool(self) -> ModelPool | None:
        """Its workers, as far as there are some."""
        attempt = self.entry.attempt
        if attempt is None:
            return None
        return attempt.pools.get(self.key) if self.key else next(iter(attempt.pools.values()), None)

    @property
    def url(self) -> str | None:
        """Where it comes from; a function comes from nowhere."""
        if self.function:
            return None
        attempt = self.entry.attempt
        if self.key and attempt is not None:
            return attempt.plan.models[self.key].url
        return self.entry.record.url

    def running(self) -> Deployment:
        """What answers requests.

        Raises:
            NotReadyError: Nothing does yet, or it could not be brought up.
        """
        if self.entry.deployment is None:
            raise NotReadyError(f"Model is not ready: {self.name}")
        return self.entry.deployment


def version_of(entry: Entry) -> str:
    """The version of a registration, as it is told."""
    return entry.record.version or NO_VERSION


class Models:
    """Finds models.

    Args:
        endpoints: The names of the registry.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def default_models(self) -> list[Model]:
        """The default version of every model, and the model nodes of workflows, by name."""
        found = [Model(entry, name) for name in self._endpoints.names() if (entry := self._default(name, "model")) is not None]
        nodes = [node for entry in self.workflows() for node in _nodes(entry) if not node.function]
        return sorted([*found, *nodes], key=lambda model: model.name)

    def default(self, name: str) -> Model:
        """The version that answers where none is named: the chosen one, else the one that was registered first.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        entry = self._default(name, "model")
        return Model(entry, name) if entry is not None else self._node(name)

    def find(self, name: str, version: str | None) -> Model:
        """A version of a model, `None` for the default one.

        Raises:
            ModelNotFoundError: There is no such model or version.
        """
        default = self.default(name)
        if version is None:
            return default
        for model in self.versions(name):
            if model.version == version:
                return model
        raise VersionNotFoundError(f"Model version: {version} does not exist for model: {name}")

    def versions(self, name: str) -> list[Model]:
        """All versions of a model.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        entries = self._entries(name, "model")
        return [Model(entry, name) for entry in entries] if entries else [self._node(name)]

    def is_default(self, model: Model) -> bool:
        """Whether it answers where no version is named."""
        return self._default(model.name, "model") is model.entry

    def only_at_startup(self) -> str | None:
        """The one name that was loaded at the start, `None` where it is none or several."""
        names = {entry.record.name for entry in self._endpoints if entry.at_startup and entry.record.kind == "model"}
        return names.pop() if len(names) == 1 else None

    def route(self, model: Model, headers: Mapping[str, str], *, versioned: bool) -> Deployment:
        """What answers a request: where the operator has given weights, these decide unless a version is named.

        Args:
            model: The model.
            headers: Of the request, names in lower case: one of a sequence goes to the version where that began.
            versioned: Whether the request names the version.

        Raises:
            NotReadyError: Nothing does yet.
        """
        if versioned or model.key:
            return model.running()
        if self._endpoints.traffic(model.name).weights:
            return self._endpoints.route(model.name, None, headers)
        of_sequences = self._endpoints.of_sequences.get(model.name)
        keeper = of_sequences.keeper(headers) if of_sequences is not None else None
        return keeper or model.running()

    # ---- workflows ----

    def workflows(self) -> list[Entry]:
        """The default version of every workflow, by name."""
        found = [self._default(name, "workflow") for name in self._endpoints.names()]
        return [entry for entry in found if entry is not None]

    def workflow(self, name: str) -> Entry:
        """A workflow.

        Raises:
            WorkflowNotFoundError: There is none of that name.
        """
        entry = self._default(name, "workflow")
        if entry is None:
            raise WorkflowNotFoundError(f"Workflow not found: {name}")
        return entry

    # ---- looking up ----

    def _entries(self, name: str, kind: str) -> list[Entry]:
        try:
            entries = self._endpoints.versions(name)
        except ModelNotFoundError:
            return []
        # What could not be loaded at the start is not there: TorchServe passes it over, too.
        return [entry for entry in entries if entry.record.kind == kind and not (entry.at_startup and entry.status == "FAILED")]

    def _default(self, name: str, kind: str) -> Entry | None:
        entries = self._entries(name, kind)
        chosen = self._endpoints.traffic(name).default
        return next((entry for entry in entries if entry.record.version == chosen), entries[0] if entries else None)

    def _node(self, name: str) -> Model:
        workflow = name.partition(NODE)[0]
        for entry in self._entries(workflow, "workflow") if NODE in name else ():
            for node in _nodes(entry):
                if node.name == name:
                    return node
        raise ModelNotFoundError(f"Model not found: {name}")


def _nodes(entry: Entry) -> Iterator[Model]:
    """The models and functions of a workflow as models of their own."""
    attempt = entry.attempt
    if attempt is None:
        return
    for key, pool in attempt.pools.items():
        functions = pool.spec.functions if key == FUNCTIONS else {}
        for function in functions:
            yield Model(entry, f"{entry.record.name}{NODE}{function}", key, function)
        if not functions:
            yield Model(entry, f"{entry.record.name}{NODE}{key}", key)
