"""The tables of docs/observability.md hold every metric there is, with its type and labels, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.metrics_core import Metric
from support.telemetry import SNAPSHOT

from flowyard.platform.telemetry.djl import djl_families
from flowyard.platform.telemetry.families import families
from flowyard.platform.telemetry.logs import LEVELS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "observability.md").read_text()
OURS, _, REST = PAGE.partition("## `GET /server/metrics`")
DJLS, _, LOGS = REST.partition("## Logs")
Row = tuple[str, str, frozenset[str]]


def documented(text: str) -> set[Row]:
    found: set[Row] = set()
    for names, kind, labels in re.findall(r"^\| (`[^|]+`) \| (\w+) \| ([^|]*)\|", text, re.M):
        found |= {(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name in re.findall(r"`(\w+)`", names)}
    return found


def told(metrics: Iterable[Metric]) -> set[Row]:
    return {_row(metric) for metric in metrics}


def _row(metric: Metric) -> Row:
    kind = "gauge" if metric.type == "info" else metric.type
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    return metric.name + suffix, kind, frozenset(metric.samples[0].labels) - {"le"}


def test_ours():
    assert documented(OURS) == told(families(SNAPSHOT))


def test_djls():
    assert documented(DJLS) == told(djl_families(SNAPSHOT))


def test_every_level_is_named():
    assert set(re.findall(r"`(\w+)`", LOGS.rpartition("Allowed are")[2].partition("\n\n")[0])) == set(LEVELS)
