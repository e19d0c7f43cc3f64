"""A file server on the loopback that can be told to misbehave."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Longest wait for a gate; it is for a test that is broken.
GATE_LIMIT_S = 60.0


class FileServer:
    """Answers `GET` by path.

    Attributes:
        requests: The path, with the query, and headers of every request.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._gates: list[threading.Event] = []
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        files = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                files.requests.append((self.path, dict(self.headers)))
                files._answers.get(self.path.partition("?")[0], _not_found)(self)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def file(self, path: str, content: bytes) -> str:
        """Serves a file; tells its URL."""
        self._answers[path] = lambda request: _send(request, 200, content)
        return self.url + path

    def status(self, path: str, *statuses: int, then: bytes = b"") -> str:
        """Answers with these statuses, one after the other, and then with a file."""
        left = list(statuses)
        self._answers[path] = lambda request: _send(request, left.pop(0), b"no") if left else _send(request, 200, then)
        return self.url + path

    def redirect(self, path: str, location: str, status: int = 302) -> str:
        self._answers[path] = lambda request: _send(request, status, b"", location)
        return self.url + path

    def truncated(self, path: str, content: bytes) -> str:
        """Promises a byte more than it sends."""
        self._answers[path] = lambda request: _send(request, 200, content, length=len(content) + 1)
        return self.url + path

    def endless(self, path: str) -> str:
        """Sends until the client has enough, and never says how much there is."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            _head(request, 200, None)
            with contextlib.suppress(OSError):
                while True:
                    request.wfile.write(bytes(65_536))

        self._answers[path] = answer
        return self.url + path

    def gated(self, path: str, content: bytes) -> tuple[str, threading.Event]:
        """Sends the first half, and the second when the gate is opened."""
        gate = threading.Event()
        self._gates.append(gate)

        def answer(request: BaseHTTPRequestHandler) -> None:
            half = len(content) // 2
            _head(request, 200, len(content))
            with contextlib.suppress(OSError):
                request.wfile.write(content[:half])
                request.wfile.flush()
                gate.wait(GATE_LIMIT_S)
                request.wfile.write(content[half:])

        self._answers[path] = answer
        return self.url + path, gate

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        for gate in self._gates:
            gate.set()
        self._server.shutdown()
        self._server.server_close()


def _head(request: BaseHTTPRequestHandler, status: int, length: int | None, location: str | None = None) -> None:
    request.send_response(status)
    if length is not None:
        request.send_header("Content-Length", str(length))
    if location is not None:
        request.send_header("Location", location)
    request.end_headers()


def _send(
    request: BaseHTTPRequestHandler, status: int, content: bytes, location: str | None = None, length: int | None = None
) -> None:
    _head(request, status, len(content) if length is None else length, location)
    with contextlib.suppress(OSError):
        request.wfile.write(content)


def _not_found(request: BaseHTTPRequestHandler) -> None:
    _send(request, 404, b"nothing here")


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    server = FileServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
