"""Metrics as text: Prometheus' format, or OpenMetrics to those who accept it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from flowyard.platform.telemetry.djl import djl_families
from flowyard.platform.telemetry.families import families
from flowyard.platform.telemetry.snapshot import Snapshot

#: The media types there are, and the content type for each; Litestar adds the character set to one of text. The library's own
#: choice fails for a bad version.
TEXT = "text/plain"
OPENMETRICS = "application/openmetrics-text"
CONTENT_TYPES = {TEXT: "text/plain; version=0.0.4", OPENMETRICS: openmetrics.CONTENT_TYPE_LATEST}


class _Chosen(Collector):
    """Some metrics, or of these the named ones."""

    def __init__(self, metrics: Callable[[], Iterable[Metric]], names: Collection[str]) -> None:
        self._metrics = metrics
        self._names = names

    def collect(self) -> Iterator[Metric]:
        """The metrics that are asked for: by the name of the metric or of one of its samples."""
        for metric in self._metrics():
            if not self._names or metric.name in self._names or any(s.name in self._names for s in metric.samples):
                yield metric


class Exposition:
    """Turns snapshots into text. It keeps no metrics: what is unregistered is gone from the next answer."""

    def __init__(self) -> None:
        process = CollectorRegistry()
        ProcessCollector(registry=process)
        GCCollector(registry=process)
        self._process = process

    def ours(self, snapshot: Snapshot, media_type: str, names: Collection[str] = ()) -> bytes:
        """The text of `GET /metrics`.

        Args:
            snapshot: The numbers.
            media_type: `TEXT` or `OPENMETRICS`.
            names: Only these metrics; all when empty.
        """
        return _text((lambda: families(snapshot), self._process.collect), media_type, names)

    def djls(self, snapshot: Snapshot, media_type: str, names: Collection[str] = ()) -> bytes:
        """The text of `GET /server/metrics`; see `ours`."""
        return _text((lambda: djl_families(snapshot),), media_type, names)


def _text(sources: Iterable[Callable[[], Iterable[Metric]]], media_type: str, names: Collection[str]) -> bytes:
    registry = CollectorRegistry()
    for source in sources:
        registry.register(_Chosen(source, names))
    if media_type == OPENMETRICS:
        return bytes(openmetrics.generate_latest(registry))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
