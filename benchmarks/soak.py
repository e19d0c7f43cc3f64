"""Minutes of mixed load while everything goes wrong: every request must get its one answer, in time, and nothing may be left.

    python -m benchmarks.soak --seconds 600

Clients send all kinds of requests (`soak_requests.py`): small and large, JSON and npy, in pieces and in sequences, to models and
workflows, through the native API and TorchServe's. Some have deadlines, some hang up, some close their sending side and read
on. Meanwhile workers are killed and stopped, models are scaled, registered and unregistered. In the end requests in must equal
answers out, each 200 a right one, none later than its deadline plus a second; nothing of a request may be held, and no worker
process may be left. Exit status 1 if any of that fails.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.models import mlp
from benchmarks.soak_requests import ASKS, Ask, add, choose, registrations

GRACE_S = 1.0
DEFAULT_DEADLINE_S = 20.0
#: Longest that the server may hold something of a request after the last answer.
SETTLE_S = 30.0
#: What an answer may be; anything else is a defect. TorchServe has a status of its own for a deadline, and one for a dead worker.
EXPECTED = {200, 404, 503, 504}
EXPECTED_OF_TORCHSERVE = EXPECTED | {408}
WORKER_DIED = b"Worker died"
#: Shares of the requests that are not just sent and answered.
HANG_UP, HALF_CLOSE, SEQUENCE = 0.02, 0.05, 0.02
SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END = (f"ts_request_sequence_{what}" for what in ("id", "start", "end"))
REQUESTS_IN_SEQUENCE = 5
ENV = {
    "FLOWYARD_TORCHSERVE_INFERENCE_ADDRESS": "http://127.0.0.1:0",
    "FLOWYARD_TORCHSERVE_MANAGEMENT_ADDRESS": "http://127.0.0.2:0",
    "FLOWYARD_ENABLE_METRICS_API": "false",
    "FLOWYARD_ENABLE_GRPC_API": "false",
    "FLOWYARD_DISABLE_TOKEN_AUTHORIZATION": "true",
}


class Tally:
    """Counts what came of the requests."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent = 0
        self.hung_up = 0
        self.half_closed = 0
        self.broken_off = 0
        self.statuses: collections.Counter[int] = collections.Counter()
        self.right: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.latest_s = 0.0

    def answered(self, ask: Ask, status: int, over_s: float, body: bytes) -> None:
        """Notes an answer, and how long after its deadline it came."""
        expected = EXPECTED_OF_TORCHSERVE if ask.at_torchserve else EXPECTED
        died = ask.at_torchserve and status == 500 and WORKER_DIED in body
        with self.lock:
            self.statuses[status] += 1
            self.latest_s = max(self.latest_s, over_s)
            if status not in expected and not died:
                self.failures.append(f"{ask.path}: status {status}: {body[:200]!r}")
            if over_s > GRACE_S:
                self.failures.append(f"{ask.path}: answered {over_s:.2f} s after its deadline")
            if status == 200 and not ask.is_right(body):
                self.failures.append(f"{ask.path}: a wrong answer: {body[:200]!r}")
            elif status == 200:
                self.right[ask.label] += 1

    def unanswered(self, ask: Ask, error: Exception) -> None:
        """Notes that no complete answer came; one in pieces may break off when its worker does."""
        with self.lock:
            if ask.in_pieces and isinstance(error, http.client.IncompleteRead):
                self.broken_off += 1
            else:
                self.failures.append(f"{ask.path}: no answer: {error!r}")


class Caller(threading.Thread):
    """Sends one request after the other, over one connection to each API where nothing else is said."""

    def __init__(self, ports: tuple[int, int], tally: Tally, stop: threading.Event, seed: int) -> None:
        super().__init__()
        self.ports = ports
        self.tally = tally
        self.stop = stop
        self.seed = seed
        self.random = random.Random(seed)
        self.connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for port in ports]
        self.sequences = 0

    def run(self) -> None:
        """Calls until told to stop."""
        while not self.stop.is_set():
            chance = self.random.random()
            if chance < HANG_UP:
                self._hang_up()
            elif chance < HANG_UP + HALF_CLOSE:
                self._half_close()
            elif chance < HANG_UP + HALF_CLOSE + SEQUENCE:
                self._sequence()
            else:
                self._call(choose(self.random), self.random.choice([0.05, 0.5, DEFAULT_DEADLINE_S]))
        for connection in self.connections:
            connection.close()

    def _sent(self) -> None:
        with self.tally.lock:
            self.tally.sent += 1

    def _call(self, ask: Ask, deadline_s: float, **headers: str) -> int:
        """Sends a request and takes its answer; 0 where none came."""
        self._sent()
        connection = self.connections[ask.at_torchserve]
        given = {"Content-Type": ask.kind, "X-Request-Timeout": f"{deadline_s:g}"} | headers
        started = time.monotonic()
        try:
            connection.request("POST", ask.path, ask.body, given)
            return self._take(ask, connection.getresponse(), started + deadline_s)
        except (OSError, http.client.HTTPException) as error:
            self.tally.unanswered(ask, error)
            connection.close()
            return 0

    def _take(self, ask: Ask, answer: http.client.HTTPResponse, deadline: float) -> int:
        body = answer.read()
        self.tally.answered(ask, answer.status, time.monotonic() - deadline, body)
        return answer.status

    def _sequence(self) -> None:
        """Requests of one sequence, to its end or to one that fails."""
        self.sequences += 1
        name = f"{self.seed}-{self.sequences}"
        for number in range(1, REQUESTS_IN_SEQUENCE + 1):
            headers = {SEQUENCE_ID: name}
            if number == 1:
                headers[SEQUENCE_START] = "true"
            if number == REQUESTS_IN_SEQUENCE:
                headers[SEQUENCE_END] = "true"
            if self._call(add(number, number - 1), DEFAULT_DEADLINE_S, **headers) != 200:
                return

    def _opened(self, ask: Ask) -> socket.socket:
        """A connection of its own on which a request has been sent."""
        self._sent()
        lines = [f"POST {ask.path} HTTP/1.1", "Host: x", f"Content-Type: {ask.kind}", f"Content-Length: {len(ask.body)}"]
        opened = socket.create_connection(("127.0.0.1", self.ports[ask.at_torchserve]), 60)
        opened.sendall("\r\n".join([*lines, f"X-Request-Timeout: {DEFAULT_DEADLINE_S:g}", "", ""]).encode() + ask.body)
        return opened

    def _half_close(self) -> None:
        """Sends a request, closes the sending side, and takes the answer."""
        ask = choose(self.random)
        deadline = time.monotonic() + DEFAULT_DEADLINE_S
        try:
            with self._opened(ask) as opened:
                opened.shutdown(socket.SHUT_WR)
                answer = http.client.HTTPResponse(opened, method="POST")
                answer.begin()
                self._take(ask, answer, deadline)
                if opened.recv(1):
                    raise http.client.HTTPException("something behind the answer")
        except (OSError, http.client.HTTPException) as error:
            self.tally.unanswered(ask, error)
        with self.tally.lock:
            self.tally.half_closed += 1

    def _hang_up(self) -> None:
        """Sends a request and leaves before the answer, or in the middle of it."""
        ask = choose(self.random)
        with contextlib.suppress(OSError), self._opened(ask) as gone:
            if ask.in_pieces and self.random.random() < 0.5:
                gone.recv(1)
        with self.tally.lock:
            self.tally.hung_up += 1


class Trouble:
    """Makes it: kills and stops workers, scales, registers and unregisters."""

    def __init__(self, port: int, server: int, mlp: bytes) -> None:
        self.port = port
        self.server = server
        self.mlp = mlp
        self.random = random.Random(7)
        self.counts: collections.Counter[str] = collections.Counter()

    def step(self) -> None:
        """One piece of trouble."""
        kind = self.random.choice(["kill", "kill", "stop", "scale", "scale", "come or go"])
        self.counts[kind] += 1
        workers = children(self.server)
        if kind in ("kill", "stop") and workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(workers), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        elif kind == "scale":
            low = self.random.randint(0, 2)
            name = self.random.choice(["slow", "slow-batches", "mlp"])
            self.call("PUT", f"/models/{name}?min_worker={low}&max_worker={max(1, low)}&synchronous=false")
        elif kind == "come or go":
            status = self.call("DELETE", "/models/coming-and-going")
            if status == 404:
                self.call("POST", "/models?model_name=coming-and-going", self.mlp)

    def call(self, method: str, path: str, body: bytes = b"") -> int:
        """Sends a management request and returns its status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


def children(pid: int) -> list[int]:
    """Child processes of a process."""
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def register(trouble: Trouble) -> None:
    """Registers what the callers call."""
    for path, body in registrations():
        status = trouble.call("POST", path, body)
        if status != 200:
            raise SystemExit(f"cannot register {path}: status {status}")


def soak(ports: tuple[int, int], trouble: Trouble, seconds: float, callers: int) -> Tally:
    """Runs load and trouble at the same time."""
    tally, stop = Tally(), threading.Event()
    threads = [Caller(ports, tally, stop, seed) for seed in range(callers)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            trouble.step()
            stop.wait(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return tally


def held(port: int) -> list[str]:
    """What the server still says of requests without an answer, once it had time to notice that their clients have left."""
    end = time.monotonic() + SETTLE_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics?name[]=flowyard_held_bytes&name[]=flowyard_requests_in_flight")
            lines = connection.getresponse().read().decode().splitlines()
        left = [line for line in lines if not line.startswith("#") and float(line.rpartition(" ")[2])]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


def report(tally: Tally, trouble: Trouble, still_held: list[str], left: list[int], exit_status: int) -> bool:
    """Prints what came of it; true when all is well."""
    answered = sum(tally.statuses.values())
    if answered + tally.hung_up + tally.broken_off != tally.sent:
        tally.failures.append(f"{tally.sent} requests, {tally.hung_up} hung up, but {answered} answers")
    always_there = [ask for ask in (*ASKS, add(1, 0)) if "coming-and-going" not in ask.path]
    never = {ask.label for ask in always_there} - tally.right.keys()
    if never:
        tally.failures.append(f"never answered: {sorted(never)}")
    if still_held:
        tally.failures.append(f"still held: {still_held}")
    if left:
        tally.failures.append(f"processes left: {left}")
    if exit_status != 0:
        tally.failures.append(f"the server ended with status {exit_status}")
    further = f"{tally.hung_up} hung up, {tally.broken_off} broken off in pieces, {tally.half_closed} half-closed"
    print(f"{tally.sent} requests, {answered} answers {dict(tally.statuses)}, {further}")
    for what, count in sorted(tally.right.items()):
        print(f"  {count} right answers of {what}")
    print(f"trouble made: {dict(trouble.counts)}; the latest answer came {tally.latest_s:.2f} s after its deadline")
    for failure, count in collections.Counter(tally.failures).most_common(20):
        print(f"FAILED {count} x {failure}")
    print("nothing was lost" if not tally.failures else "something was lost")
    return not tally.failures


def main() -> int:
    """Starts a server, soaks it, stops it and reports."""
    parser = argparse.ArgumentParser(description="Mixed load while everything goes wrong.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--callers", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flowyard-soak-") as folder:
        ready = Path(folder, "ready")
        command = [sys.executable, "-m", "flowyard.platform.cli.main", "serve", "--port", "0", "--ready-file", str(ready)]
        command += ["--state-dir", str(Path(folder, "state")), "--log-level", "error"]
        command += ["--dialect", "torchserve", "--host", "127.0.0.1"]
        with subprocess.Popen(command, env=os.environ | ENV) as server:
            while not ready.exists() and server.poll() is None:
                time.sleep(0.02)
            torchserve, _, native = (int(url.rpartition(":")[2]) for url in ready.read_text().split())
            trouble = Trouble(native, server.pid, mlp(0))
            register(trouble)
            tally = soak((native, torchserve), trouble, options.seconds, options.callers)
            still_held = held(native)
            workers = children(server.pid)
            server.terminate()
            status = server.wait(60)
        left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        return 0 if report(tally, trouble, still_held, left, status) else 1


if __name__ == "__main__":
    sys.exit(main())
