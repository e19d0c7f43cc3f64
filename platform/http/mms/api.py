"""MMS as a whole."""

from __future__ import annotations

from flowyard.platform.http.mms.errors import error_answer
from flowyard.platform.http.mms.inference import MmsInference
from flowyard.platform.http.mms.management import MmsManagement
from flowyard.platform.http.mms.measures import MmsMeasures
from flowyard.platform.http.torchserve import openapi
from flowyard.platform.http.torchserve.answers import Answer
from flowyard.platform.http.torchserve.door import Door
from flowyard.platform.http.torchserve.entries import Model
from flowyard.platform.http.torchserve.openapi import Json, Part
from flowyard.platform.http.torchserve.requests import HttpRequest
from flowyard.platform.http.torchserve.routes import Call
from flowyard.platform.registry.registry import Registry
from flowyard.platform.telemetry.dialect_logs import DialectLogs
from flowyard.platform.telemetry.traces import Traces
from flowyard.platform.telemetry.traffic import Traffic
from flowyard.schemas.errors import FlowyardError

#: The version whose API this is.
VERSION = "1.1.11"


class Mms:
    """The APIs of MMS, which know no tokens, and metrics only in log files.

    Args:
        registry: Where models are.
        traces: Keeps the timelines of runs that are too long for a header.
        log_files: The log files, `None` where it has none.

    Attributes:
        settings: The settings.
        held: Counts what requests hold.
        log_files: The log files.
        inference: The inference API.
        management: The management API.
        tokens: None.
    """

    tokens = None

    def __init__(self, registry: Registry, traces: Traces, log_files: DialectLogs | None = None) -> None:
        self.settings = registry.settings
        self.held = registry.held
        self.log_files = log_files
        self._measures: MmsMeasures | None = None
        if log_files is not None:
            self._measures = MmsMeasures(self.settings, log_files)
            registry.watchers.all.append(self._measures)
            self._measures.watch_host()
        self.inference = MmsInference(registry, _unmeasured, traces)
        self.management = MmsManagement(registry)

    def document(self, part: Part) -> Json:
        """The OpenAPI document of a part."""
        return openapi.mms_document(part, VERSION)

    def metrics(self, request: HttpRequest) -> Answer | None:
        """There are none."""
        del request
        return None

    def tell(self, error: FlowyardError) -> Answer:
        """Tells an error."""
        return error_answer(error)

    def answered(self, status: int) -> None:
        """A request has been answered."""
        if self._measures is not None:
            self._measures.answered(status)

    def door(self, parts: frozenset[Part], traffic: Traffic) -> Door:
        """What is served at one address.

        Args:
            parts: Which of the APIs.
            traffic: Is told of every request.
        """
        return Door(self, parts, traffic)

    def close(self) -> None:
        """The server stops."""
        if self._measures is not None:
            self._measures.close()


def _unmeasured(model: Model, call: Call, elapsed_s: float, queued_s: float) -> None:
    """Nobody counts."""
