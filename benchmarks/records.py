"""What a comparison finds, as it is written to the JSON file."""

from __future__ import annotations

from statistics import median

import msgspec

from flowyard.platform.bench.result import Result


class Spread(msgspec.Struct, frozen=True):
    """Several rounds of one figure."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """From the figures; there is at least one."""
        return cls(*(round(value, 4) for value in (min(values), median(values), max(values))))

    def __str__(self) -> str:
        """Renders as `1.52 (1.48 to 1.60)`."""
        places = 4 if self.max < 0.1 else 2 if self.max < 100 else 0
        return f"{self.median:,.{places}f} ({self.min:,.{places}f} to {self.max:,.{places}f})"


class Entry(msgspec.Struct, kw_only=True):
    """One server in one workload.

    Attributes:
        server: Its name.
        version: Version of its distribution, empty when it has none.
        status: `measured`, or why it was not: `not installed`, what it lacks, how it failed.
        memory_mb: Proportional set size of the process tree after the last round.
        first_prediction_s: Seconds from the start of the process to its first prediction.
        rounds: Closed loop: connections -> one result per round.
        half_load: Open loop at half of its own throughput in the closed loop.
    """

    server: str
    version: str = ""
    status: str = "measured"
    memory_mb: float = 0.0
    first_prediction_s: float = 0.0
    rounds: dict[int, list[Result]] = {}
    half_load: Result | None = None

    def throughput(self, connections: int) -> list[float]:
        """Requests per second, round by round."""
        return [result.throughput_per_s for result in self.rounds[connections]]

    def p50_ms(self, connections: int) -> list[float]:
        """Median latency in milliseconds, round by round."""
        return [result.latency.p50_ms for result in self.rounds[connections]]

    def p99_ms(self, connections: int) -> list[float]:
        """The same of the slowest hundredth."""
        return [result.latency.p99_ms for result in self.rounds[connections]]

    def failures(self) -> int:
        """Answers other than 200 and requests without an answer, over all rounds."""
        return sum(result.failures for results in self.rounds.values() for result in results)


class Engine(msgspec.Struct, kw_only=True):
    """The engine alone in a loop.

    Attributes:
        by_batch: Rows per second by batch size, from one pass before the rounds.
        best_batch: The best of them.
        rounds: Rows per second at that batch size, one per round.
    """

    by_batch: dict[str, float]
    best_batch: int
    rounds: list[float]


class Comparison(msgspec.Struct, kw_only=True):
    """One workload."""

    workload: str
    title: str
    body_bytes: int
    batch_size: int
    connections: list[int]
    entries: list[Entry]
    engine: Engine | None = None

    def entry(self, server: str) -> Entry | None:
        """What one server did, if it was measured."""
        return next((entry for entry in self.entries if entry.server == server and entry.status == "measured"), None)


class Machine(msgspec.Struct, kw_only=True):
    """Where it was measured."""

    cpu: str
    cores: int
    system: str
    python: str
    server_core: int
    load_core: int


class Report(msgspec.Struct, kw_only=True):
    """A whole run."""

    time: str
    machine: Machine
    rounds: int
    duration_s: float
    warmup_s: float
    comparisons: list[Comparison]


def ratios(ours: list[float], theirs: list[float]) -> Spread | None:
    """The ratio of each pair of rounds, as a spread; `None` without pairs."""
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=False) if other > 0]
    return Spread.of(pairs) if pairs else None
