"""A server that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

#: Instead of an answer: close the connection, or say nothing at all.
CLOSE = object()
SILENCE = object()
_TLS_HELLO = b"\x16\x03"


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A complete answer."""
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in given.items()), f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class Loopback:
    """Answers requests by a script, one after the other, on however many connections.

    A step is bytes, `CLOSE`, `SILENCE`, or a list of those that follow each other.
    """

    def __init__(self, listener: socket.socket, script: list[object], tls: ssl.SSLContext | None) -> None:
        self.requests: list[bytes] = []
        self._listener = listener
        self._script = iter(script)
        self._tls = tls
        self._open: list[socket.socket] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def url(self) -> str:
        name = self._listener.getsockname()
        if isinstance(name, str):
            return f"unix:{name}"
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{name[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._closing.is_set():
                connection.close()
                return
            self._open.append(connection)
            # A client that refuses our certificate, or leaves, is what some tests are about.
            with contextlib.suppress(OSError):
                wrapped = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
                self._open.append(wrapped)
                self._serve(wrapped)

    def _serve(self, connection: socket.socket) -> None:
        while (request := _request(connection)) is not None:
            self.requests.append(request)
            steps = next(self._script)
            for step in steps if isinstance(steps, list) else [steps]:
                if step is CLOSE:
                    connection.shutdown(socket.SHUT_RDWR)
                    connection.close()
                    return
                if isinstance(step, bytes):
                    connection.sendall(step)

    def close(self) -> None:
        self._closing.set()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _request(connection: socket.socket) -> bytes | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(1 << 16)
        if not chunk:
            return None
        data += chunk
        if data.startswith(_TLS_HELLO):
            return data
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length or (b"transfer-encoding: chunked" in head.lower() and not body.endswith(b"0\r\n\r\n")):
        chunk = connection.recv(1 << 16)
        if not chunk:
            return None
        body += chunk
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def loopback(*script: object, tls: ssl.SSLContext | None = None, path: Path | None = None) -> Iterator[Loopback]:
    """A scripted server on a free port, or on a Unix socket."""
    if path is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
    else:
        listener = socket.create_server(("127.0.0.1", 0))
    server = Loopback(listener, list(script), tls)
    try:
        yield server
    finally:
        server.close()
