"""Counters, gauges and histograms, and their text as the Java client of Prometheus writes it (TorchServe reference §6.1)."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterator
from decimal import Decimal

from flowyard.platform.torchserve_metrics import Family

#: Upper bounds of the buckets that the Java client has.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
#: Series of one metric.
MOST_SERIES = 1000


class Meter:
    """One metric, with a series for each set of labels.

    Args:
        name: Its name.
        family: What it is.

    Attributes:
        series: Numbers by the values of the labels: one, or of a histogram the number of values in each bucket and their sum.
    """

    def __init__(self, name: str, family: Family) -> None:
        self.name = name
        self.family = family
        self.series: dict[tuple[str, ...], list[float]] = {}
        self._words: dict[tuple[str, ...], tuple[str, str]] = {}

    def words(self, labels: tuple[str, ...]) -> tuple[str, str]:
        """What is before and behind the number in a line of the log."""
        words = self._words.get(labels)
        if words is None:
            names = self.family.labels[:-1]
            told = ",".join(f"{name}:{value}" for name, value in zip(names, labels[:-1], strict=True))
            words = f"{self.name}.{self.family.unit}:", f"|#{told}|#hostname:{labels[-1]}"
            if len(self._words) < MOST_SERIES:
                self._words[labels] = words
        return words

    def add(self, labels: tuple[str, ...], number: float) -> bool:
        """Takes a value.

        Returns:
            Whether it could; not where there are as many series as may be, or it is a counter that would go back.
        """
        if self.family.kind == "counter" and not number >= 0:
            return False
        series = self.series.get(labels)
        if series is None:
            if len(self.series) >= MOST_SERIES:
                return False
            series = self.series[labels] = [0.0] * (len(BUCKETS) + 2 if self.family.kind == "histogram" else 1)
        match self.family.kind:
            case "counter":
                series[0] += number
            case "gauge":
                series[0] = number
            case "histogram":
                series[bisect_left(BUCKETS, number)] += 1
                series[-1] += number
        return True

    def text(self, names: Collection[str] = ()) -> str:
        """Its text; labels end with a comma, as clients know it.

        Args:
            names: Metrics that are asked for, all when empty; also those of a histogram's lines.
        """
        lines = [
            f"{sample}{{{_labels(self.family.labels, labels)}{further}}} {java_number(number)}\n"
            for sample, labels, further, number in self._samples()
            if not names or self.name in names or sample in names
        ]
        if names and not lines and self.name not in names:
            return ""
        kind = self.family.kind
        head = (
            f"# HELP {self.name} Torchserve prometheus {kind} metric with unit: {self.family.unit}\n# TYPE {self.name} {kind}\n"
        )
        return head + "".join(lines)

    def _samples(self) -> Iterator[tuple[str, tuple[str, ...], str, float]]:
        for labels, series in self.series.items():
            if self.family.kind != "histogram":
                yield self.name, labels, "", series[0]
                continue
            below = 0.0
            for bound, count in zip((*BUCKETS, math.inf), series, strict=False):
                below += count
                yield f"{self.name}_bucket", labels, f'le="{java_number(bound)}",', below
            yield f"{self.name}_count", labels, "", below
            yield f"{self.name}_sum", labels, "", series[-1]


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return "".join(f'{name}="{_escaped(value)}",' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def java_number(value: float) -> str:
    """A number as Java writes a double: `12.5`, `1.25E7`, and in Prometheus `+Inf`."""
    value = float(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    mantissa, _, exponent = f"{Decimal(repr(value)).normalize():e}".partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{int(exponent)}"
