"""TorchServe as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from flowyard.platform.http.torchserve import openapi
from flowyard.platform.http.torchserve.answers import Answer
from flowyard.platform.http.torchserve.door import Door
from flowyard.platform.http.torchserve.entries import Model, Models
from flowyard.platform.http.torchserve.errors import error_answer
from flowyard.platform.http.torchserve.inference import Inference
from flowyard.platform.http.torchserve.management import Management
from flowyard.platform.http.torchserve.measures import CONTENT_TYPE, Measures
from flowyard.platform.http.torchserve.openapi import Json, Part
from flowyard.platform.http.torchserve.requests import HttpRequest
from flowyard.platform.http.torchserve.routes import Call
from flowyard.platform.http.torchserve.snapshots import snapshots
from flowyard.platform.http.torchserve.tokens import KEY_FILE, Tokens
from flowyard.platform.registry.registry import Registry
from flowyard.platform.telemetry.dialect_logs import DialectLogs
from flowyard.platform.telemetry.gpus import Gpus
from flowyard.platform.telemetry.traces import Traces
from flowyard.platform.telemetry.traffic import Traffic
from flowyard.schemas.errors import FlowyardError

#: The version whose API this is.
VERSION = "0.12.0"
EMPTY: Mapping[str, str] = MappingProxyType({})


class TorchServe:
    """The APIs of TorchServe.

    Args:
        registry: Where models are.
        traces: Keeps the timelines of runs that are too long for a header.
        log_files: The log files, `None` where it has none.
        kept: Keys of its configuration that do nothing here; snapshots have them.

    Raises:
        InvalidRequestError: The file of the tokens cannot be written, or that of the metrics cannot be read.

    Attributes:
        settings: The settings.
        held: Counts what requests hold.
        log_files: The log files.
        inference: The inference API.
        management: The management API.
        tokens: The tokens, `None` where the settings want none.
    """

    def __init__(
        self,
        registry: Registry,
        traces: Traces,
        log_files: DialectLogs | None = None,
        kept: Mapping[str, str] = EMPTY,
    ) -> None:
        self.settings = registry.settings
        self.held = registry.held
        self.log_files = log_files
        models = Models(registry.endpoints)
        self._gpus = Gpus(len(registry.gpus))
        self._measures = Measures(models, self.settings, log_files, self._gpus)
        registry.watchers.all.append(self._measures)
        self._measures.watch_host()
        self.inference = Inference(registry, self._predicted, traces)
        self.management = Management(registry, self._gpus)
        self._snapshots = snapshots(registry, models, kept)
        lifetime = timedelta(minutes=self.settings.token_expiration_min)
        self.tokens = None if self.settings.disable_token_authorization else Tokens(Path(KEY_FILE).absolute(), lifetime)

    def document(self, part: Part) -> Json:
        """The OpenAPI document of a part."""
        return openapi.torchserve_document(part, VERSION)

    def metrics(self, request: HttpRequest) -> Answer | None:
        """Answers `/metrics`, whatever the method and what follows; in `log` mode there is nothing to tell."""
        if request.segments[:1] != ("metrics",):
            return None
        names = [value for name, value in request.query if name == "name[]"]
        return Answer(200, self._measures.text(names), CONTENT_TYPE)

    def tell(self, error: FlowyardError) -> Answer:
        """Tells an error."""
        return error_answer(error)

    def answered(self, status: int) -> None:
        """A request has been answered."""
        self._measures.answered(status)

    def _predicted(self, model: Model, call: Call, elapsed_s: float, queued_s: float) -> None:
        self._measures.predicted(model, call.version, elapsed_s, queued_s)

    def door(self, parts: frozenset[Part], traffic: Traffic) -> Door:
        """What is served at one address.

        Args:
            parts: Which of the APIs.
            traffic: Is told of every request.
        """
        return Door(self, parts, traffic)

    def close(self) -> None:
        """The server stops."""
        self._measures.close()
        self._gpus.close()
        if self._snapshots is not None:
            self._snapshots.close()
        if self.tokens is not None:
            self.tokens.remove_file()
