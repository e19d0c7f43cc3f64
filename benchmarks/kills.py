"""Kills a server at random moments, again and again: whatever it acknowledged must be there when it is back.

    python -m benchmarks.kills --kills 500

Clients register, replace, scale, weigh, choose defaults of and unregister small models, each under names of its own.
The server gets SIGKILL, mostly in the middle of that, sometimes while it starts. What it says after the next start is compared
with what was acknowledged; a change that was under way may have been made or not, but not by half. Exit status 1 when anything
acknowledged is gone or different, or anything is there that nobody asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic

START_LIMIT_S = 60.0
NAMES_PER_CLIENT = 2
VERSIONS = ("v1", "v2", "v3")
#: A longest time between a start and the kill.
LIFE_S = 0.8
GONE = (OSError, http.client.HTTPException)


class Version(msgspec.Struct, frozen=True):
    """One version as it must be: where it came from, and its most workers."""

    url: str
    max_worker: int


class State(msgspec.Struct, frozen=True):
    """One name as it must be."""

    versions: dict[str, Version] = {}
    traffic: Traffic = NO_TRAFFIC

    def with_version(self, name: str, version: Version) -> State:
        """After a registration, a replacement or a change of the number of workers."""
        return msgspec.structs.replace(self, versions=self.versions | {name: version})

    def without(self, *names: str) -> State:
        """After versions were unregistered."""
        traffic = self.traffic
        for name in names:
            traffic = traffic.without(name)
        return State({name: version for name, version in self.versions.items() if name not in names}, traffic)


class Step(msgspec.Struct, frozen=True):
    """One request, and what it makes of a name when it is acknowledged."""

    method: str
    path: str
    after: State
    body: bytes = b""


def archive(token: str) -> bytes:
    """A model of one function, different for each token."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("model.py", f"def predict(value):\n    return {token!r}\n")
    return buffer.getvalue()


def register(name: str, state: State, chance: random.Random) -> Step:
    """Registers a version that is not there, or replaces one that is."""
    version = chance.choice(VERSIONS)
    body = archive(f"{name}-{chance.random()}")
    asked: dict[str, object] = {
        "model_name": name,
        "model_version": version,
        "engine": "Python",
        "min_worker": 0,
        "max_worker": 1,
    }
    if version in state.versions:
        asked["replace"] = "true"
    elif chance.random() < 0.5:
        asked["synchronous"] = "false"
    after = state.with_version(version, Version(f"upload:sha256:{hashlib.sha256(body).hexdigest()}", 1))
    return Step("POST", f"/models?{urlencode(asked)}", after, body)


def scale(name: str, state: State, chance: random.Random) -> Step:
    """Changes the most workers of a version."""
    version = chance.choice(sorted(state.versions))
    most = chance.randint(1, 9)
    after = state.with_version(version, msgspec.structs.replace(state.versions[version], max_worker=most))
    return Step("PUT", f"/models/{name}/{version}?max_worker={most}", after)


def weigh(name: str, state: State, chance: random.Random) -> Step:
    """Sets weights of all versions."""
    weights = {version: chance.randint(1, 100) for version in state.versions}
    text = ",".join(f"{version}:{weight}" for version, weight in weights.items())
    after = msgspec.structs.replace(state, traffic=msgspec.structs.replace(state.traffic, weights=weights))
    return Step("PUT", f"/models/{name}?weights={text}", after)


def choose(name: str, state: State, chance: random.Random) -> Step:
    """Chooses a default version."""
    version = chance.choice(sorted(state.versions))
    after = msgspec.structs.replace(state, traffic=msgspec.structs.replace(state.traffic, default=version))
    return Step("PUT", f"/models/{name}/{version}/set-default", after)


def unregister(name: str, state: State, chance: random.Random) -> Step:
    """Removes a version."""
    version = chance.choice(sorted(state.versions))
    return Step("DELETE", f"/models/{name}/{version}", state.without(version))


def unregister_all(name: str, state: State, _: random.Random) -> Step:
    """Removes a name."""
    return Step("DELETE", f"/models/{name}", state.without(*state.versions))


STEPS: tuple[tuple[Callable[[str, State, random.Random], Step], int], ...] = (
    (register, 4),
    (scale, 4),
    (weigh, 2),
    (choose, 2),
    (unregister, 1),
    (unregister_all, 1),
)


class Client(threading.Thread):
    """Changes its names one after the other until the server is gone."""

    def __init__(self, port: int, states: dict[str, State], seed: str) -> None:
        super().__init__()
        self.port = port
        self.states = states
        self.pending: dict[str, State] = {}
        self.acknowledged = 0
        self.wrong: list[str] = []
        self._chance = random.Random(seed)

    def run(self) -> None:
        """Calls until a call is not answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while True:
            name = self._chance.choice(sorted(self.states))
            step = self._next(name)
            try:
                connection.request(step.method, step.path, step.body)
                answer = connection.getresponse()
                body = answer.read()
            except GONE:
                self.pending[name] = step.after
                return
            self._answered(name, step, answer.status, body)

    def _next(self, name: str) -> Step:
        state = self.states[name]
        if not state.versions:
            return register(name, state, self._chance)
        (kind,) = self._chance.choices([kind for kind, _ in STEPS], [weight for _, weight in STEPS])
        return kind(name, state, self._chance)

    def _answered(self, name: str, step: Step, status: int, body: bytes) -> None:
        if status in (200, 202):
            self.states[name] = step.after
            self.acknowledged += 1
        # What still starts cannot be scaled: a refusal changes nothing.
        elif status != 503:
            self.wrong.append(f"{step.method} {step.path}: {status} {body[:200]!r}")


class Server:
    """A server that dies many times, on one state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, without waiting for anything."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "flowyard.platform.cli.main", "serve", "--port", "0"]
        command += ["--state-dir", str(self.folder / "state"), "--ready-file", str(ready)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=os.environ
            )

    def port(self) -> int:
        """Waits until it accepts requests."""
        assert self.process is not None
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
                return int((self.folder / "ready").read_text().split()[0].rpartition(":")[2])
            time.sleep(0.005)
        raise AssertionError(f"the server does not start:\n{(self.folder / 'log').read_text()[-5000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def observed(port: int, name: str) -> tuple[State, list[str]]:
    """What the server says of a name, and what is wrong with it in any case."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/models/{name}")
    answer = connection.getresponse()
    body = answer.read()
    if answer.status == 404:
        return State(), []
    told: list[dict[str, Any]] = json.loads(body)
    versions = {item["version"]: Version(item["url"], _most_workers(item)) for item in told}
    weights = {item["version"]: item["weight"] for item in told if item.get("weight")}
    default = next((item["version"] for item in told if item.get("default")), None)
    wrong = [f"{name}/{item['version']}: FAILED, {item.get('reason')}" for item in told if item["status"] == "FAILED"]
    return State(versions, Traffic(weights, default)), wrong


def _most_workers(item: dict[str, Any]) -> int:
    return max((group["maxWorkers"] for model in item["models"] for group in model["workerGroups"]), default=0)


def is_as(seen: State, wanted: State) -> bool:
    """Whether a name is as it must be; the order of versions does not count."""
    return seen.versions == wanted.versions and seen.traffic == wanted.traffic


def check(port: int, states: dict[str, State], pending: dict[str, State]) -> list[str]:
    """Compares, and takes over what became of changes that were under way."""
    wrong = []
    for name, state in states.items():
        seen, failures = observed(port, name)
        wrong += failures
        allowed = [state, *([pending[name]] if name in pending else [])]
        if not any(is_as(seen, one) for one in allowed):
            wrong.append(f"{name} is {seen}, must be one of {allowed}")
        states[name] = seen
    return wrong


def main() -> int:
    """Kills as often as told and reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="flowyard-kills-") as folder:
        wrong, acknowledged, took_s = run(Path(folder), asked.kills, asked.clients, chance)
        if wrong:
            print((Path(folder) / "log").read_text()[-10_000:])
    for line in wrong:
        print(f"WRONG: {line}")
    verdict = "nothing acknowledged was lost" if not wrong else f"{len(wrong)} differences"
    print(f"{asked.kills} kills, {acknowledged} acknowledged changes, {took_s / max(1, asked.kills):.2f} s a kill: {verdict}")
    return 1 if wrong else 0


def run(folder: Path, kills: int, clients: int, chance: random.Random) -> tuple[list[str], int, float]:
    """The loop.

    Returns:
        What was wrong, how many changes were acknowledged, and how long it took.
    """
    server = Server(folder)
    groups = [{f"m{client}-{name}": State() for name in range(NAMES_PER_CLIENT)} for client in range(clients)]
    pending: dict[str, State] = {}
    wrong: list[str] = []
    acknowledged = 0
    began = time.monotonic()
    for kill in range(kills + 1):
        server.start()
        if chance.random() < 0.1:
            time.sleep(chance.random())
            server.kill()
            server.start()
        port = server.port()
        for group in groups:
            wrong += [f"kill {kill}: {line}" for line in check(port, group, pending)]
        if wrong or kill == kills:
            break
        callers = [Client(port, group, f"{chance.random()}") for group in groups]
        for caller in callers:
            caller.start()
        time.sleep(chance.random() * LIFE_S)
        server.kill()
        for caller in callers:
            caller.join()
        pending = {name: state for caller in callers for name, state in caller.pending.items()}
        acknowledged += sum(caller.acknowledged for caller in callers)
        wrong += [line for caller in callers for line in caller.wrong]
        if kill % 50 == 49:
            print(f"{kill + 1} kills, {acknowledged} acknowledged changes", flush=True)
    server.kill()
    return wrong, acknowledged, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
