"""What a node costs: slopes over chains of growing length, a graph of 200 nodes, and how full the batches of a `map` are.

    python -m benchmarks.graphs

Requests are sent one after the other over one connection; the cost of a node is the slope of a straight line through their times,
so that what a request costs anyway drops out. Besides the median there is the fastest tenth, which is less disturbed by whatever
else the machine does. Prints; asserts nothing.
"""

from __future__ import annotations

import http.client
import io
import itertools
import json
import random
import statistics
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.processes import Process, free_port
from flowyard.platform.bench.target import Target
from flowyard.schemas.payload import Payload
from flowyard.workflows.check import compile_workflow
from flowyard.workflows.run import Run

MODEL = '''"""Each item is answered with the size of its batch."""


class Model:
    def load(self, device):
        pass

    def predict(self, batch):
        return [len(batch)] * len(batch)
'''
ECHO = "def predict(value):\n    return value\n"
CHAINS = (1, 25, 50, 75, 100)
HOPS = (1, 5, 10, 15, 20)
MAP_ITEMS = 1_000
MAP_CLIENTS = 20
MAP_ROUNDS = 3


def chain(callee: str, length: int) -> str:
    """Nodes that call the same thing one after the other."""
    names = ["in", *(f"n{at}" for at in range(length - 1)), "out"]
    return "".join(f"  {name}: [{callee}, {before}]\n" for before, name in itertools.pairwise(names))


def dag(nodes: int) -> str:
    """Built-ins that take up to three nodes before them; `out` takes all that nobody else does."""
    chance = random.Random(7)
    names = [f"n{at}" for at in range(nodes - 1)]
    lines, unused = [], set()
    for at, name in enumerate(names):
        taken = chance.sample(names[:at], min(at, chance.randint(1, 3))) or ["in"]
        unused = (unused - set(taken)) | {name}
        lines.append(f"  {name}: [merge, {', '.join(taken)}]\n")
    return "".join(lines) + f"  out: [merge, {', '.join(sorted(unused))}]\n"


def archive(name: str, nodes: str) -> bytes:
    """A workflow with the two models."""
    text = f"name: {name}\nmodels:\n  echo: echo:predict\n  sizes: {{url: 'sizes:Model', batch_size: 32}}\nworkflow:\n{nodes}"
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as packed:
        for member, content in (("workflow.yaml", text), ("echo.py", ECHO), ("sizes.py", MODEL)):
            packed.writestr(member, content)
    return target.getvalue()


class Client:
    """One connection to the server."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def register(self, name: str, nodes: str) -> None:
        """Registers a workflow."""
        self.connection.request("POST", "/workflows", archive(name, nodes))
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{name}: {answer.status} {body.decode()}")

    def ask(self, name: str, body: bytes) -> bytes:
        """Sends one prediction."""
        self.connection.request("POST", f"/predictions/{name}", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{name}: {answer.status} {content.decode()[:300]}")
        return content

    def times_us(self, name: str, body: bytes, requests: int) -> tuple[float, float]:
        """The median time of a prediction, and that of the fastest tenth."""
        for _ in range(requests // 10):
            self.ask(name, body)
        times = [1e6 * timed(lambda: self.ask(name, body)) for _ in range(requests)]
        return statistics.median(times), statistics.quantiles(times, n=10)[0]


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def slope(lengths: Sequence[int], times: Sequence[float]) -> float:
    """Of the straight line through the points that is nearest to all of them."""
    return statistics.linear_regression(lengths, times).slope


def core_slope_us(lengths: Sequence[int]) -> float:
    """The cost of an `id` in the run core alone, without a server."""
    medians = []
    for length in lengths:
        plan = compile_workflow(archive_text(length), "w", None)
        request = Payload.from_json(b"1")
        medians.append(1e6 * statistics.median(timed(lambda: Run(plan, request, {}, {}, None).start(0.0)) for _ in range(2_000)))  # noqa: B023
    return slope(lengths, medians)


def archive_text(length: int) -> bytes:
    """A file with a chain of `id`."""
    return f"name: w\nworkflow:\n{chain('id', length)}".encode()


def mapped(port: int) -> float:
    """Mean size of the batches in which many clients' items are computed."""
    sizes: list[int] = []
    body = json.dumps(list(range(MAP_ITEMS))).encode()

    def call() -> None:
        client = Client(port)
        for _ in range(MAP_ROUNDS):
            sizes.extend(json.loads(client.ask("mapped", body)))

    threads = [threading.Thread(target=call) for _ in range(MAP_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # An item in a batch of n stands for an n-th of a batch.
    return len(sizes) / sum(1 / size for size in sizes)


def main() -> None:
    """Starts a server and measures."""
    print(f"an `id` in the run core alone: {core_slope_us(CHAINS):.1f} us")
    with tempfile.TemporaryDirectory() as scratch:
        port = free_port()
        state = Path(scratch) / "state"
        argv = [sys.executable, "-m", "flowyard.platform.cli.main", "serve", "--port", str(port), "--state-dir", str(state)]
        server = Process(argv, Path(scratch), pinned=False)
        try:
            target = Target("127.0.0.1", port)
            server.first_answer_s(target, target.request("GET", "/ping"))
            measure(Client(port), port)
        finally:
            server.stop()


def measure(client: Client, port: int) -> None:
    """Registers and measures everything."""
    measure_chain(client, "id", CHAINS, 1_000)
    measure_chain(client, "echo", HOPS, 500)
    client.register("dag", dag(200))
    median_us, fast_us = client.times_us("dag", b'{"a": 1}', 500)
    print(f"a graph of 200 `merge`: {median_us:.0f} us, fastest tenth {fast_us:.0f} us")
    client.register("mapped", "  out: [map, sizes, in]\n")
    print(f"map over {MAP_ITEMS} items, {MAP_CLIENTS} clients, batch size 32: mean batch {mapped(port):.1f}")


def measure_chain(client: Client, callee: str, lengths: Sequence[int], requests: int) -> None:
    """Prints what one more call of the same thing costs."""
    for length in lengths:
        client.register(f"{callee}-{length}", chain(callee, length))
    times = [client.times_us(f"{callee}-{length}", b"1", requests) for length in lengths]
    medians, fast = ([time[at] for time in times] for at in (0, 1))
    print(f"`{callee}`, chains of {lengths[0]} to {lengths[-1]}: {slope(lengths, medians):.1f} us a node, ", end="")
    print(f"fastest tenth {slope(lengths, fast):.1f} us; a request with {lengths[-1]}: {medians[-1]:.0f} us")


if __name__ == "__main__":
    main()
