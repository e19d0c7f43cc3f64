"""Compares flowyard with floors and other servers: `python -m benchmarks.run --help`."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.compare import Plan, compare
from benchmarks.models import write_models
from benchmarks.peer_servers import peers
from benchmarks.processes import LOAD_CORE, SERVER_CORE
from benchmarks.records import Machine, Report
from benchmarks.report import markdown
from benchmarks.servers import ROOT, Echo, Flowyard, Server
from benchmarks.workloads import models_folder, workloads

DOCS = ROOT / "docs" / "performance.md"
METHOD = ROOT / "benchmarks" / "method.md"
#: What the figures of the last run say; whoever makes new ones looks whether it still holds.
FINDINGS = ROOT / "benchmarks" / "findings.md"


def main() -> None:
    """Runs what the command line asks for."""
    options = _options()
    # Ends through the `finally` clauses that stop the servers.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if len(os.sched_getaffinity(0)) < 2:
        print("warning: only one core: the load generator takes its share of what is measured", file=sys.stderr)
    known = workloads()
    chosen = [known[name] for name in options.workloads or known]
    servers = _servers(options.servers, peers=options.peers)
    models = write_models(models_folder(ROOT))
    machine = _machine()
    # Models are written with all cores; from here on this process is the load generator.
    os.sched_setaffinity(0, {LOAD_CORE})
    plan = Plan(options.rounds, options.duration, options.warmup, tuple(options.connections or ()), not options.no_half_load)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="fy-") as scratch:
        comparisons = [compare(workload, servers, plan, models, Path(scratch)) for workload in chosen]
    report = Report(
        time=now.isoformat(timespec="seconds"),
        machine=machine,
        rounds=plan.rounds,
        duration_s=plan.duration_s,
        warmup_s=plan.warmup_s,
        comparisons=comparisons,
    )
    _write(report, now, write_docs=options.write_docs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=list(workloads()), help="all by default")
    parser.add_argument("--servers", nargs="+", choices=[server.name for server in _all()], help="flowyard and echo by default")
    parser.add_argument("--peers", action="store_true", help="the other servers too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=2.0, metavar="SECONDS", help="per server, round and connections")
    parser.add_argument("--warmup", type=float, default=0.5, metavar="SECONDS", help="before each of them")
    parser.add_argument("--connections", type=int, nargs="+", help="instead of each workload's own")
    parser.add_argument("--no-half-load", action="store_true", help="without the open loop at half load")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    if min(options.rounds, options.duration, *(options.connections or [1])) <= 0 or options.warmup < 0:
        parser.error("rounds, duration and connections are above 0")
    return options


def _all() -> list[Server]:
    return [Flowyard(), Echo(), *peers()]


def _servers(names: list[str] | None, *, peers: bool) -> list[Server]:
    if names:
        return [server for server in _all() if server.name in names]
    return _all() if peers else [Flowyard(), Echo()]


def _machine() -> Machine:
    names = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return Machine(
        cpu=names[0] if names else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        system=platform.system(),
        python=platform.python_version(),
        server_core=SERVER_CORE,
        load_core=LOAD_CORE,
    )


def _write(report: Report, now: datetime, *, write_docs: bool) -> None:
    folder = ROOT / "bench-results"
    folder.mkdir(exist_ok=True)
    file = folder / f"{now:%Y%m%d-%H%M%S}.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    table = markdown(report)
    print(table)
    print(f"raw results: {file.relative_to(ROOT)}", file=sys.stderr)
    if write_docs:
        method, findings = (path.read_text(encoding="utf-8") for path in (METHOD, FINDINGS))
        DOCS.write_text(f"{method}\n{findings}\n## Last run\n\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()
