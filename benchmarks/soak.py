"""Minutes of mixed load while everything goes wrong: every request must get its one answer, in time, and nothing may be left.

    python -m benchmarks.soak --seconds 600

Clients send predictions to a Python, an ONNX and a workflow endpoint, some with deadlines, some of them hanging up. Meanwhile
workers are killed and stopped, models are scaled, registered and unregistered. In the end requests in must equal answers out,
none later than its deadline plus a second, and no worker process may be left. Exit status 1 if any of that fails.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

from benchmarks.models import mlp as mlp_onnx

GRACE_S = 1.0
DEFAULT_DEADLINE_S = 20.0
SLOW = "import time\n\ndef predict(value):\n    time.sleep(value)\n    return value\n"
FLOW = """name: flow
models: {mlp: mlp.onnx}
functions: {first: steps:first}
workflow:
  scores: [mlp, in]
  out: [first, scores]
"""
STEPS = "def first(scores):\n    return float(scores[0][0])\n"
#: What an answer may be; anything else is a defect.
EXPECTED = {200, 404, 503, 504}


class Tally:
    """Counts what came of the requests."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent = 0
        self.hung_up = 0
        self.statuses: collections.Counter[int] = collections.Counter()
        self.failures: list[str] = []
        self.latest_s = 0.0

    def answered(self, status: int, over_s: float, body: bytes) -> None:
        """Notes an answer, and how long after its deadline it came."""
        with self.lock:
            self.statuses[status] += 1
            self.latest_s = max(self.latest_s, over_s)
            if status not in EXPECTED:
                self.failures.append(f"status {status}: {body[:200]!r}")
            if over_s > GRACE_S:
                self.failures.append(f"answered {over_s:.2f} s after its deadline")


class Caller(threading.Thread):
    """Sends one request after the other over one connection."""

    def __init__(self, port: int, tally: Tally, stop: threading.Event, seed: int) -> None:
        super().__init__()
        self.port = port
        self.tally = tally
        self.stop = stop
        self.random = random.Random(seed)

    def run(self) -> None:
        """Calls until told to stop."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.is_set():
            with self.tally.lock:
                self.tally.sent += 1
            if self.random.random() < 0.02:
                self._hang_up()
                continue
            try:
                self._call(connection)
            except (OSError, http.client.HTTPException) as error:
                with self.tally.lock:
                    self.tally.failures.append(f"no answer: {error!r}")
                connection.close()
        connection.close()

    def _request(self) -> tuple[str, bytes, float]:
        name = self.random.choice(["slow", "mlp", "mlp", "flow", "coming-and-going"])
        body = json.dumps(self.random.choice([0.001, 0.02, 0.1])) if name == "slow" else json.dumps([[0.5] * 784])
        deadline_s = self.random.choice([0.05, 0.5, DEFAULT_DEADLINE_S])
        return f"/predictions/{name}", body.encode(), deadline_s

    def _call(self, connection: http.client.HTTPConnection) -> None:
        path, body, deadline_s = self._request()
        headers = {"Content-Type": "application/json", "X-Request-Timeout": f"{deadline_s:g}"}
        started = time.monotonic()
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        self.tally.answered(answer.status, time.monotonic() - started - deadline_s, content)

    def _hang_up(self) -> None:
        """Sends a request and leaves before the answer."""
        path, body, _ = self._request()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as gone:
            gone.sendall(head.encode() + body)
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
            name = self.random.choice(["slow", "mlp"])
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


def zipped(files: dict[str, str | bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def register(port: int, mlp: bytes) -> None:
    """Registers what the callers call."""
    trouble = Trouble(port, 0, mlp)
    for path, body in (
        ("/models?model_name=mlp&batch_size=8&max_worker=2", mlp),
        ("/models?model_name=slow&max_worker=2&max_idle_time=2", zipped({"model.py": SLOW})),
        ("/workflows", zipped({"workflow.yaml": FLOW, "steps.py": STEPS, "mlp.onnx": mlp})),
    ):
        status = trouble.call("POST", path, body)
        if status != 200:
            raise SystemExit(f"cannot register {path}: status {status}")


def soak(port: int, server: int, mlp: bytes, seconds: float, callers: int) -> tuple[Tally, Trouble]:
    """Runs load and trouble at the same time."""
    tally, stop, trouble = Tally(), threading.Event(), Trouble(port, server, mlp)
    threads = [Caller(port, tally, stop, seed) for seed in range(callers)]
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
    return tally, trouble


def report(tally: Tally, trouble: Trouble, left: list[int], exit_status: int) -> bool:
    """Prints what came of it; true when all is well."""
    answered = sum(tally.statuses.values())
    if answered + tally.hung_up != tally.sent:
        tally.failures.append(f"{tally.sent} requests, {tally.hung_up} hung up, but {answered} answers")
    if left:
        tally.failures.append(f"processes left: {left}")
    if exit_status != 0:
        tally.failures.append(f"the server ended with status {exit_status}")
    print(f"{tally.sent} requests, {answered} answers {dict(tally.statuses)}, {tally.hung_up} hung up")
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
        with subprocess.Popen(command) as server:
            while not ready.exists() and server.poll() is None:
                time.sleep(0.02)
            port = int(ready.read_text().strip().rsplit(":", 1)[1])
            mlp = mlp_onnx(0)
            register(port, mlp)
            tally, trouble = soak(port, server.pid, mlp, options.seconds, options.callers)
            workers = children(server.pid)
            server.terminate()
            status = server.wait(60)
        left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        return 0 if report(tally, trouble, left, status) else 1


if __name__ == "__main__":
    sys.exit(main())
