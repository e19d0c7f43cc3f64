"""One workload on several servers, in turns: A B A B, so that what changes on the machine changes for all of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from benchmarks.peers.pipelines import pipeline
from benchmarks.processes import Process, StartError, free_port
from benchmarks.records import Comparison, Engine, Entry
from benchmarks.servers import ROOT, Place, Server
from benchmarks.workloads import Workload, differs
from flowyard.platform.bench.load import Load, run
from flowyard.platform.bench.target import Target
from flowyard.schemas.errors import FlowyardError

FIRST_WARMUP_S = 3.0
HALF_LOAD_CONNECTIONS = 64
#: Beyond these a batch is larger than anything that would be served.
ENGINE_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Plan:
    """How long and how often.

    Attributes:
        rounds: Turns of each server.
        duration_s: Seconds measured for each number of connections in a turn.
        warmup_s: Seconds before them.
        connections: Instead of the workload's own, empty for those.
        half_load: Whether each server is also measured in an open loop at half its throughput.
    """

    rounds: int
    duration_s: float
    warmup_s: float
    connections: tuple[int, ...] = ()
    half_load: bool = True


@dataclass
class Running:
    """A started server and what has been found of it."""

    server: Server
    process: Process
    target: Target
    request: bytes
    entry: Entry


def compare(workload: Workload, servers: Sequence[Server], plan: Plan, models: Path, scratch: Path) -> Comparison:
    """Measures one workload.

    Args:
        workload: What to serve.
        servers: Who serves it; one that cannot is listed with the reason.
        plan: How long.
        models: Folder of the model files.
        scratch: Folder for logs and state.

    Returns:
        What was found.
    """
    connections = list(plan.connections or workload.connections)
    plan = replace(plan, duration_s=plan.duration_s * workload.longer)
    servers = [server for server in servers if server.only in ("", workload.name)]
    entries = {server.name: Entry(server=server.name, version=_version(server)) for server in servers}
    running: list[Running] = []
    engine = _engine_batches(workload, models)
    try:
        for server in servers:
            _start(server, workload, models, scratch, entries[server.name], running)
        for number in range(plan.rounds):
            _round(number, workload, running, engine, plan, connections, models)
        if plan.half_load:
            _half_load(running, plan, connections)
        for item in running:
            item.process.resume()
            item.entry.memory_mb = round(item.process.memory_mb(), 1)
    finally:
        for item in running:
            item.process.stop()
    return Comparison(
        workload=workload.name,
        title=workload.title,
        body_bytes=len(workload.body()),
        batch_size=workload.batch_size,
        connections=connections,
        entries=list(entries.values()),
        engine=engine,
    )


def _version(server: Server) -> str:
    if not server.package or server.missing():
        return ""
    code = f"from importlib.metadata import version; print(version({server.package!r}))"
    done = subprocess.run([str(server.venv / "bin" / "python"), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _start(server: Server, workload: Workload, models: Path, scratch: Path, entry: Entry, running: list[Running]) -> None:
    entry.status = server.missing() or server.lacks(workload) or "measured"
    if entry.status != "measured":
        _say(f"{workload.name}: {server.name}: {entry.status}")
        return
    _warm_files(server, workload, models, scratch)
    process, target = _begin(server, workload, models, scratch)
    request = server.request(workload, target)
    try:
        entry.first_prediction_s = round(process.first_answer_s(target, request, server.answer_limit_s), 3)
        if server.is_peer:
            _check_answer(server, workload, models, target, request)
        run(Load(target=target, request=request, connections=8, duration_s=FIRST_WARMUP_S, warmup_s=0))
    except (StartError, FlowyardError, ValueError) as error:
        process.stop()
        entry.status = f"failed: {' '.join(str(error).split())[:200]}"
        _say(f"{workload.name}: {server.name}: {entry.status}")
        return
    process.pause()
    running.append(Running(server, process, target, request, entry))
    _say(f"{workload.name}: {server.name} {entry.version}: first prediction after {entry.first_prediction_s:.2f} s")


def _warm_files(server: Server, workload: Workload, models: Path, scratch: Path) -> None:
    """Starts a server once without looking at the time, so that the start that counts finds its files in memory."""
    process, target = _begin(server, workload, models, scratch)
    try:
        process.first_answer_s(target, server.request(workload, target), server.answer_limit_s)
    except StartError:
        """The start that counts tells."""
    finally:
        process.stop()


def _begin(server: Server, workload: Workload, models: Path, scratch: Path) -> tuple[Process, Target]:
    folder = scratch / f"{workload.name}-{server.name}"
    shutil.rmtree(folder, ignore_errors=True)
    target = Target("127.0.0.1", free_port())
    return server.start(workload, Place(target, models, folder, server.venv)), target


def _check_answer(server: Server, workload: Workload, models: Path, target: Target, request: bytes) -> None:
    rows = workload.rows if workload.rows.dtype == np.uint8 else workload.rows.astype(np.float32)
    expected = pipeline(workload.name, models)(rows)
    response = target.exchange(request)
    difference = differs(expected, server.answer(response.body, response.head))
    if difference:
        raise StartError(f"a wrong answer: {difference}")


def _round(
    number: int,
    workload: Workload,
    running: list[Running],
    engine: Engine | None,
    plan: Plan,
    connections: list[int],
    models: Path,
) -> None:
    for item in running:
        item.process.resume()
        for count in connections:
            load = Load(target=item.target, request=item.request, connections=count)
            result = run(_timed(load, plan))
            item.entry.rounds.setdefault(count, []).append(result)
            _say(
                f"{workload.name}: round {number + 1}: {item.server.name}, {count} connections: "
                f"{result.throughput_per_s:,.1f}/s, p50 {result.latency.p50_ms:.2f} ms, failures {result.failures}"
            )
        item.process.pause()
    if engine is not None:
        rate = _engine_rates(workload, models, plan.duration_s, [engine.best_batch])
        engine.rounds.append(rate[str(engine.best_batch)])
        _say(f"{workload.name}: round {number + 1}: engine alone, batches of {engine.best_batch}: {engine.rounds[-1]:,.1f}/s")


def _timed(load: Load, plan: Plan) -> Load:
    return msgspec.structs.replace(load, duration_s=plan.duration_s, warmup_s=plan.warmup_s)


def _half_load(running: list[Running], plan: Plan, connections: list[int]) -> None:
    for item in running:
        if not item.server.is_peer:
            continue
        best = max(median(item.entry.throughput(count)) for count in connections)
        if best <= 0:
            continue
        item.process.resume()
        load = Load(target=item.target, request=item.request, connections=HALF_LOAD_CONNECTIONS, rate_per_s=best / 2)
        item.entry.half_load = run(_timed(load, plan))
        item.process.pause()


def _engine_batches(workload: Workload, models: Path) -> Engine | None:
    if not workload.raw:
        return None
    small = workload.rows.size < 100_000
    batches = [batch for batch in ENGINE_BATCHES if small or batch <= 16]
    rates = _engine_rates(workload, models, 0.3 if small else 1.0, batches)
    best = max(rates, key=lambda batch: rates[batch])
    return Engine(by_batch=rates, best_batch=int(best), rounds=[])


def _engine_rates(workload: Workload, models: Path, seconds: float, batches: Sequence[int]) -> dict[str, float]:
    argv = [sys.executable, "-m", "benchmarks.rawloop", workload.name, str(models), str(seconds), *map(str, batches)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
