"""A run as Markdown."""

from __future__ import annotations

from statistics import median

from benchmarks.records import Comparison, Entry, Report, Spread, ratios


def markdown(report: Report) -> str:
    """All workloads as tables.

    Args:
        report: The run.

    Returns:
        Markdown, without a heading of its own.
    """
    machine = report.machine
    where = f"servers on core {machine.server_core}, load generator on core {machine.load_core}"
    measured = f"Measured {report.time[:10]} on {machine.cpu} ({machine.cores} cores), Python {machine.python}: {where}"
    lines = [f"{measured}; {report.rounds} rounds of {report.duration_s:g} s.", ""]
    for comparison in report.comparisons:
        lines += _comparison(comparison)
    return "\n".join(lines)


def _comparison(comparison: Comparison) -> list[str]:
    lines = [f"### {comparison.workload}: {comparison.title}", ""]
    lines += [f"Body {comparison.body_bytes:,} bytes, batches of up to {comparison.batch_size}.", ""]
    head = [
        "server",
        *(f"/s at {count}" for count in comparison.connections),
        *(f"p50, p99 ms at {count}" for count in comparison.connections),
    ]
    head += ["p99 ms at half load", "MB", "first prediction s", "not 200"]
    lines += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += [_row(entry, comparison.connections, len(head)) for entry in comparison.entries]
    if comparison.engine is not None:
        engine = comparison.engine
        rates = Spread.of(engine.rounds)
        lines += ["", f"Engine alone, in batches of {engine.best_batch}: {rates} rows per second."]
    return [*lines, "", *_ratios(comparison), ""]


def _row(entry: Entry, connections: list[int], width: int) -> str:
    name = f"{entry.server} {entry.version}".strip()
    if entry.status != "measured":
        return f"| {name} | {entry.status} |" + " |" * (width - 2)
    rates = [f"{median(entry.throughput(count)):,.1f}" for count in connections]
    times = [f"{median(entry.p50_ms(count)):.2f}, {median(entry.p99_ms(count)):.2f}" for count in connections]
    half = f"{entry.half_load.latency.p99_ms:.2f}" if entry.half_load else ""
    cells = [name, *rates, *times, half, f"{entry.memory_mb:.0f}", f"{entry.first_prediction_s:.2f}", str(entry.failures())]
    return "| " + " | ".join(cells) + " |"


def _ratios(comparison: Comparison) -> list[str]:
    """flowyard against each other server: requests per second, round by round, as median (min to max)."""
    ours = comparison.entry("flowyard")
    if ours is None:
        return []
    head = ["flowyard's requests per second, relative to", *(f"at {count}" for count in comparison.connections)]
    rows = []
    for entry in comparison.entries:
        if entry is not ours and entry.status == "measured":
            found = [ratios(ours.throughput(count), entry.throughput(count)) for count in comparison.connections]
            rows.append([entry.server, *(_shown(spread) for spread in found)])
    if comparison.engine is not None:
        found = [ratios(ours.throughput(count), comparison.engine.rounds) for count in comparison.connections]
        rows.append(["engine alone", *(_shown(spread) for spread in found)])
    table = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [table[0], "|---" + "|---:" * len(comparison.connections) + "|", *table[1:]] if rows else []


def _shown(spread: Spread | None) -> str:
    return "" if spread is None else str(spread)
