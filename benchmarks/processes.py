"""Server processes: pinned to a core with all their children, waited for, weighed, paused, stopped by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowyard.platform.bench.target import Target
from flowyard.schemas.errors import FlowyardError

POLL_S = 0.01
START_LIMIT_S = 120.0
STOP_LIMIT_S = 20.0


class StartError(Exception):
    """A server that does not start; the message says why."""


def cores() -> tuple[int, int]:
    """The core of the servers and the core of the load generator; the same where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


SERVER_CORE, LOAD_CORE = cores()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A running server.

    Args:
        argv: Its command line.
        folder: Where its log goes, and where it runs.
        env: Variables besides this process's own.
        pinned: Whether it gets one core for itself and all its children.
    """

    def __init__(self, argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, *, pinned: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        self.started = time.perf_counter()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_pin if pinned else None,  # noqa: PLW1509 - this process has one thread when it starts servers
            )

    def first_answer_s(self, target: Target, request: bytes, answer_limit_s: float = START_LIMIT_S) -> float:
        """Waits for the first prediction.

        Args:
            target: Where the server listens, sooner or later.
            request: What is asked until it is answered.
            answer_limit_s: Time after which a request that is not answered is sent again.

        Returns:
            Seconds from the start of the process to the first answer with status 200.

        Raises:
            StartError: There was none in time, with the last answer; or the process has ended, with the end of its log.
        """
        last = ""
        while (passed_s := time.perf_counter() - self.started) < START_LIMIT_S and self._process.poll() is None:
            try:
                response = target.exchange(request, answer_limit_s)
            except FlowyardError as error:
                last = str(error)
            else:
                if response.status == 200:
                    return time.perf_counter() - self.started
                last = f"status {response.status}: {response.body[:300].decode('utf-8', 'replace')}"
                if 400 <= response.status < 500 and response.status != 404 and passed_s > 10:
                    break
            time.sleep(POLL_S)
        raise StartError(last if self._process.poll() is None else self._last_words())

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"exit status {self._process.poll()}"

    def tree(self) -> list[int]:
        """The ids of the process and all its descendants."""
        found = [self._process.pid]
        for pid in found:
            found += _children(pid)
        return found

    def memory_mb(self) -> float:
        """Proportional set size of the whole tree in MB: shared pages are counted once."""
        return sum(_pss_bytes(pid) for pid in self.tree()) / 1e6

    def pause(self) -> None:
        """Stops the tree, so that it takes nothing of the core while another server is measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets the tree go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends the tree: first by request, then by force."""
        tree = {pid: _start_time(pid) for pid in self.tree()[1:]}
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid, started in tree.items():
            # The same number may belong to somebody else by now.
            if started is not None and started == _start_time(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _pin() -> None:
    os.sched_setaffinity(0, {SERVER_CORE})


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since the boot."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
