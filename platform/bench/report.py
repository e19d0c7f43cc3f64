"""Results as a table for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from flowyard.platform.bench.result import Result

#: Above this share of a core the generator is what was measured.
BUSY = 0.9


def print_results(title: str, results: Iterable[Result], console: Console) -> None:
    """Prints one row per run.

    Args:
        title: What was measured.
        results: The runs.
        console: Where to.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("load", "answers", "per second", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "not 200"):
        table.add_column(column, justify="left" if column == "load" else "right", no_wrap=True)
    shown = list(results)
    for result in shown:
        table.add_row(*_row(result))
    console.print(table)
    for result in shown:
        for line in _remarks(result):
            console.print(f"{_load(result)}: {line}", markup=False)


def _load(result: Result) -> str:
    connections = f"{result.connections} connection{'' if result.connections == 1 else 's'}"
    return connections if result.rate_per_s is None else f"{result.rate_per_s:g}/s, {connections}"


def _row(result: Result) -> list[str]:
    latency = result.latency
    times = (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p99_9_ms, latency.max_ms)
    rate = f"{result.throughput_per_s:,.0f}" if result.throughput_per_s >= 100 else f"{result.throughput_per_s:.2f}"
    return [_load(result), f"{result.requests:,}", rate, *(f"{time:.2f}" for time in times), f"{result.failures:,}"]


def _remarks(result: Result) -> list[str]:
    remarks = [f"{amount} answers with status {status}" for status, amount in result.statuses.items() if status != "200"]
    remarks += [f"{amount} requests failed: {reason}" for reason, amount in result.errors.items()]
    if result.generator_cpu > BUSY and result.rate_per_s is None:
        remarks.append(f"the load generator took {result.generator_cpu:.0%} of a core: it may be the limit, not the server")
    return remarks
