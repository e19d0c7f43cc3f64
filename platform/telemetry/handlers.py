"""Metrics that handlers have of their own, as Prometheus has them: under their own names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric

from flowyard.platform.telemetry.snapshot import HandlerNumbers, Snapshot

#: Names that are the server's: what a handler calls so is left out.
OWN = ("flowyard_", "process_", "python_")
#: What becomes of a kind; one that the handler does not say is a gauge, and a histogram is told without buckets.
_TYPES = {"counter": "counter", "gauge": "gauge", "": "gauge", "histogram": "summary"}
_NO_NAME = re.compile(r"[^a-zA-Z0-9_]")

Told = tuple[dict[str, str], HandlerNumbers]


def handler_families(snapshot: Snapshot) -> Iterator[Metric]:
    """The metrics of all handlers, by model and version: for `GET /metrics`."""
    told = [
        ({"model": model.model, "version": endpoint.version}, number)
        for endpoint in snapshot.endpoints
        for model in endpoint.models
        for number in model.of_handlers
    ]
    yield from _families((labels, number) for labels, number in told if not number.name.startswith(OWN))


def djl_handler_families(snapshot: Snapshot, taken: Iterable[str]) -> Iterator[Metric]:
    """The metrics of DJL's handlers with the dimensions that they give, and their model: for `GET /server/metrics`.

    Args:
        snapshot: The numbers.
        taken: Names that are the server's.
    """
    names = frozenset(taken)
    told = [
        ({"Model": model.model}, number)
        for endpoint in snapshot.endpoints
        for model in endpoint.models
        if model.handlers == "djl"
        for number in model.of_handlers
    ]
    yield from _families((labels, number) for labels, number in told if name_of(number.name) not in names)


def name_of(text: str) -> str:
    """A name as Prometheus allows it."""
    name = _NO_NAME.sub("_", text)
    return f"_{name}" if name[:1].isdigit() else name


def _families(told: Iterable[Told]) -> Iterator[Metric]:
    """One family a name. What would make a second kind, or a second value, of one name is left out: the first counts."""
    families: dict[str, Metric] = {}
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for own, number in told:
        # The library adds the ending itself.
        kind = _TYPES.get(number.kind, "gauge")
        name = name_of(number.name).removesuffix("_total" if kind == "counter" else "")
        if not name:
            continue
        family = families.setdefault(name, Metric(name, f"Of handlers, in {number.unit}.", kind))
        labels = _labels(own, number)
        values = _values(name, kind, number)
        keys = {(sample, frozenset(labels.items())) for sample in values}
        if family.type == kind and not keys & seen:
            seen |= keys
            for sample, value in values.items():
                family.add_sample(sample, labels, value)
    yield from families.values()


def _labels(own: Mapping[str, str], number: HandlerNumbers) -> dict[str, str]:
    """Ours go before a handler's of the same name."""
    given = {label: value for name, value in number.dimensions if not _is_reserved(label := name_of(name))}
    return given | dict(own)


def _is_reserved(label: str) -> bool:
    """Whether Prometheus keeps a name for itself, or gives it a meaning."""
    return not label or label.startswith("__") or label in ("le", "quantile")


def _values(name: str, kind: str, number: HandlerNumbers) -> dict[str, float]:
    match kind:
        case "counter":
            return {f"{name}_total": number.total}
        case "summary":
            return {f"{name}_count": number.count, f"{name}_sum": number.total}
        case _:
            return {name: number.last}
