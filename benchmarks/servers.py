"""Who is measured: how each server is started, what is sent to it, and how its answer is read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.pipelines import rows_of
from benchmarks.processes import START_LIMIT_S, Process
from benchmarks.workloads import Workload
from flowyard.platform.bench.target import Target

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"


@dataclass(frozen=True)
class Place:
    """Where one server runs for one workload.

    Attributes:
        target: The address it must listen on.
        models: Folder of the model files.
        folder: A folder of its own.
        venv: Its virtual environment.
    """

    target: Target
    models: Path
    folder: Path
    venv: Path

    @property
    def python(self) -> str:
        """The interpreter of its environment."""
        return str(self.venv / "bin" / "python")


class Server:
    """A kind of server. Subclasses say how it is started and spoken to.

    Attributes:
        name: What tables call it.
        package: The distribution whose version is told; empty for none.
        requirements: What `make bench-peers` installs into its environment.
        is_peer: Whether it computes what flowyard computes, so that its answers must agree.
        only: The one workload that it is for; empty where it serves all of them.
        shares: The server whose virtual environment it runs in; empty where it has its own.
        answer_limit_s: Time after which its first request is sent again: short only where requests are known to get lost.
    """

    name = ""
    package = ""
    requirements: tuple[str, ...] = ()
    is_peer = True
    only = ""
    shares = ""
    answer_limit_s = START_LIMIT_S

    @property
    def venv(self) -> Path:
        """Its virtual environment."""
        return ROOT / ".bench-venvs" / (self.shares or self.name)

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        return "" if (self.venv / "bin" / "python").exists() else "not installed"

    def lacks(self, workload: Workload) -> str:
        """Why it cannot serve a workload; empty when it can."""
        return ""

    def start(self, workload: Workload, place: Place) -> Process:
        """Starts it; it need not answer yet."""
        raise NotImplementedError

    def request(self, workload: Workload, target: Target) -> bytes:
        """The request that is sent over and over."""
        return target.request("POST", workload.path, workload.body(), workload.kind)

    def answer(self, body: bytes, head: bytes) -> Any:
        """The numbers of an answer."""
        return rows_of(body)


class Flowyard(Server):
    """Ours, with batching as the others have it, everything else as it comes."""

    name = "flowyard"
    package = "flowyard"

    @property
    def venv(self) -> Path:
        return Path(sys.prefix)

    def start(self, workload: Workload, place: Place) -> Process:
        argv = [place.python, "-m", "flowyard.platform.cli.main", "serve", "--port", str(place.target.port)]
        name, file = workload.load.split("=")
        argv += ["--state-dir", str(place.folder / "state"), "--load", f"{name}={place.models / file}"]
        argv += ["--log-level", "warning"]
        return Process(argv, place.folder, {"FLOWYARD_BATCH_SIZE": str(workload.batch_size)})


class Echo(Server):
    """The floor: uvicorn with uvloop and httptools, an application that returns the body."""

    name = "echo"
    is_peer = False

    @property
    def venv(self) -> Path:
        return Path(sys.prefix)

    def start(self, workload: Workload, place: Place) -> Process:
        return Process([place.python, str(ROOT / "benchmarks" / "echo.py"), str(place.target.port)], place.folder)


def environment(workload: Workload, place: Place) -> Mapping[str, str]:
    """What the peers' server programs read."""
    return {
        "BENCH_WORKLOAD": workload.name,
        "BENCH_MODELS": str(place.models),
        "BENCH_BATCH_SIZE": str(workload.batch_size),
        "BENCH_PORT": str(place.target.port),
        "PYTHONPATH": str(PEERS),
    }
