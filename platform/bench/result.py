"""What a run of the load generator found."""

from __future__ import annotations

import msgspec

from flowyard.platform.bench.histogram import Histogram


class Latency(msgspec.Struct, frozen=True):
    """Latencies in milliseconds."""

    min_ms: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        """From a histogram; zeros when nothing was recorded."""
        if not histogram.count:
            return cls(0, 0, 0, 0, 0, 0, 0)
        percentiles = (histogram.percentile_s(percent) for percent in (50, 90, 99, 99.9))
        seconds = (histogram.min_s, histogram.mean_s(), *percentiles, histogram.max_s)
        return cls(*(round(value * 1000, 4) for value in seconds))


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        loop: `closed` (a new request when the last is answered) or `open` (requests are due at times of their own).
        connections: Connections; of an open loop the most.
        rate_per_s: Requests per second that were due, `None` of a closed loop.
        duration_s: Seconds measured, without the warm-up.
        warmup_s: Seconds before them.
        requests: Answers in that time, whatever their status.
        throughput_per_s: Answers with status 200 per second.
        statuses: Answers by status code.
        errors: Requests without an answer, by what went wrong.
        sent_bytes: Bytes of the requests that were answered.
        received_bytes: Bytes of their answers.
        latency: Of the answers with status 200: from the intended send time to the last byte of the answer.
        generator_cpu: Share of a core that the generator itself took: near 1, it and not the server was measured.
    """

    loop: str
    connections: int
    rate_per_s: float | None
    duration_s: float
    warmup_s: float
    requests: int
    throughput_per_s: float
    statuses: dict[str, int]
    errors: dict[str, int]
    sent_bytes: int
    received_bytes: int
    latency: Latency
    generator_cpu: float

    @property
    def failures(self) -> int:
        """Answers other than 200, and requests without one."""
        return sum(self.errors.values()) + sum(amount for status, amount in self.statuses.items() if status != "200")
