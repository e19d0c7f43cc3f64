"""A real server process, and what a test wants to know about it."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

READY_LIMIT_S = 60.0
ROOT = Path(__file__).resolve().parents[2]


class ServerProcess:
    """A running `flowyard serve`, on a free port, with a client for it; `command` may be one of the dialects instead."""

    command = "serve"

    def __init__(
        self, folder: Path, *flags: str, host: str | None = "127.0.0.1", port: int = 0, env: dict[str, str] | None = None
    ) -> None:
        self.state_dir = folder / "state"
        self.model_store = folder / "models"
        self.model_store.mkdir(exist_ok=True)
        self.log = folder / "server.log"
        self._ready = folder / "ready"
        #: Without a host, the flags or the environment say where to listen.
        self._flags = ("--host", host, "--port", str(port), *flags) if host else flags
        #: The ports of gRPC are fixed where nobody names others.
        self._env = {"FLOWYARD_ENABLE_GRPC_API": "false"} | (env or {})
        self.has_store = True
        self.status: int | None = None
        self.trusts: ssl.SSLContext | bool = True
        self.urls: list[str] = []
        self.cwd: Path | None = None
        self.python = sys.executable
        self.process: subprocess.Popen[bytes] | None = None
        self.client: httpx2.Client | None = None

    def start(self) -> ServerProcess:
        self._ready.unlink(missing_ok=True)
        command = [self.python, "-m", "flowyard.platform.cli.main", self.command]
        command += ["--state-dir", str(self.state_dir), *(["--model-store", str(self.model_store)] if self.has_store else [])]
        command += ["--ready-file", str(self._ready), *self._flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._env,
                start_new_session=True,
                cwd=self.cwd,
            )
        self.urls = self._base_urls()
        self.client = self.client_of(self.urls[0])
        return self

    def client_of(self, url: str) -> httpx2.Client:
        """A client of one of the addresses."""
        if url.startswith("unix:"):
            transport = httpx2.HTTPTransport(uds=url.removeprefix("unix:"))
            return httpx2.Client(base_url="http://localhost", transport=transport, timeout=60)
        return httpx2.Client(base_url=url, timeout=60, verify=self.trusts)

    def _base_urls(self) -> list[str]:
        assert self.process is not None
        end = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < end and self.process.poll() is None:
            if self._ready.exists():
                return self._ready.read_text().split()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.01)
        self.kill()
        raise AssertionError(f"the server is not ready:\n{self.log.read_text()}")

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self._forget()

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.status = self.process.wait()
        self._forget()

    def _forget(self) -> None:
        if self.client is not None:
            self.client.close()
        self.process = self.client = None

    def workers(self) -> list[int]:
        """Process ids of the worker processes that this server has started."""
        assert self.process is not None
        return children(self.process.pid)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition, limit_s: float = 20.0):
    """Asks until the answer is true; the limit is for a server that is broken, not for one that is slow."""
    end = time.monotonic() + limit_s
    while not (answer := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return answer


@contextlib.contextmanager
def running(
    folder: Path,
    *flags: str,
    env: dict[str, str] | None = None,
    host: str | None = "127.0.0.1",
    trusts: ssl.SSLContext | bool = True,
    store: bool = True,
) -> Iterator[ServerProcess]:
    """A server that must end with status 0 and take all its workers along; without `store`, its flags name no model store."""
    server = ServerProcess(folder, *flags, env=env, host=host)
    server.has_store = store
    server.trusts = trusts
    server.start()
    try:
        yield server
    except BaseException:
        if server.process is not None:
            server.kill()
        print(server.log.read_text()[-20_000:])
        raise
    if server.process is not None:
        workers = server.workers()
        assert server.stop() == 0, server.log.read_text()[-20_000:]
        wait_until(lambda: all(is_gone(pid) for pid in workers))
