"""Latencies in logarithmic buckets: bounded memory at any length of a run, every percentile to 0.1 %."""

from __future__ import annotations

import math

#: Shortest latency that is told apart, and the ratio between one bucket and the next.
LOWEST_S = 1e-6
HIGHEST_S = 1e4
RATIO = 1.001

_SCALE = 1 / math.log(RATIO)
_OFFSET = -math.log(LOWEST_S) * _SCALE
_BUCKETS = int(math.log(HIGHEST_S / LOWEST_S) * _SCALE) + 2


class Histogram:
    """Counts latencies.

    Attributes:
        count: How many were recorded.
        min_s: The shortest, exactly, in seconds; infinite before the first.
        max_s: The longest, exactly, in seconds.
        sum_s: Their sum in seconds.
    """

    def __init__(self) -> None:
        self.count = 0
        self.min_s = math.inf
        self.max_s = 0.0
        self.sum_s = 0.0
        self._buckets = [0] * _BUCKETS

    def record(self, latency_s: float) -> None:
        """Adds one latency in seconds. One outside 1 µs to 10 000 s goes into the nearest bucket."""
        clamped = LOWEST_S if latency_s < LOWEST_S else HIGHEST_S if latency_s > HIGHEST_S else latency_s
        self._buckets[int(math.log(clamped) * _SCALE + _OFFSET)] += 1
        self.count += 1
        self.sum_s += latency_s
        # Comparisons, because calls of min and max cost more, and this runs once per answer.
        if latency_s > self.max_s:  # noqa: PLR1730
            self.max_s = latency_s
        if latency_s < self.min_s:  # noqa: PLR1730
            self.min_s = latency_s

    def mean_s(self) -> float:
        """The mean in seconds, 0 when nothing was recorded."""
        return self.sum_s / self.count if self.count else 0.0

    def percentile_s(self, percent: float) -> float:
        """The latency that `percent` of the recorded ones do not exceed.

        Args:
            percent: Above 0 and up to 100.

        Returns:
            Seconds, within 0.1 % of the exact value (nearest rank); 0 when nothing was recorded.
        """
        rank = math.ceil(round(percent / 100 * self.count, 9))
        seen = 0
        for index, amount in enumerate(self._buckets):
            seen += amount
            if amount and seen >= rank:
                middle = math.exp((index + 0.5 - _OFFSET) / _SCALE)
                return min(max(middle, self.min_s), self.max_s)
        return 0.0
