"""Where requests go, what their bytes are, and one exchange without any load."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import msgspec

from flowyard.platform.bench.response import BadResponseError, Response, ResponseParser
from flowyard.schemas.errors import InvalidRequestError, UnavailableError

RECEIVE_BYTES = 1 << 18


class Target(msgspec.Struct, frozen=True):
    """An HTTP server.

    Attributes:
        host: Name or address.
        port: Port.
    """

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Target:
        """From a base URL like `http://127.0.0.1:8080`.

        Raises:
            InvalidRequestError: It is none, or not plain HTTP.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise InvalidRequestError(f"--url {url}: a base URL like http://127.0.0.1:8080 is expected")
        return cls(parts.hostname, port)

    def __str__(self) -> str:
        """Renders as the base URL."""
        return f"http://{self.authority}"

    @property
    def authority(self) -> str:
        """What the Host header says."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def request(self, method: str, path: str, body: bytes = b"", content_type: str = "", headers: tuple[str, ...] = ()) -> bytes:
        """The bytes of a request.

        Args:
            method: `POST`, `GET`.
            path: Path and query, escaped where needed.
            body: The body.
            content_type: Its type; empty for no such header.
            headers: Further headers as `Name: value`.

        Returns:
            Head and body.

        Raises:
            InvalidRequestError: A blank or a line break where HTTP allows none.
        """
        typed = (f"Content-Type: {content_type}",) if content_type else ()
        lines = [f"Host: {self.authority}", "Accept: */*", *typed, *headers, f"Content-Length: {len(body)}"]
        if any(not character.isprintable() or character == " " for character in path) or not path.startswith("/"):
            raise InvalidRequestError(f"--path {path!r}: a path that starts with / and has no blanks is expected")
        if any("\r" in line or "\n" in line or not line.isascii() for line in lines):
            raise InvalidRequestError("a header with a line break or a character outside ASCII")
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body

    def exchange(self, request: bytes, timeout_s: float = 60.0) -> Response:
        """Sends one request on a connection of its own.

        Args:
            request: Its bytes.
            timeout_s: Longest silence, in seconds.

        Returns:
            The response, with its body.

        Raises:
            UnavailableError: Nobody answers, or not in HTTP.
        """
        parser = ResponseParser(keep_body=True)
        try:
            with socket.create_connection((self.host, self.port), timeout=timeout_s) as connection:
                connection.sendall(request)
                while data := connection.recv(RECEIVE_BYTES):
                    if (response := parser.feed(data)) is not None:
                        return response
                if (response := parser.eof()) is not None:
                    return response
        except OSError as error:
            raise UnavailableError(f"no answer from {self}: {error.strerror or error}") from None
        except BadResponseError as error:
            raise UnavailableError(f"no HTTP answer from {self}: {error}") from None
        raise UnavailableError(f"no answer from {self}: it closed the connection")
