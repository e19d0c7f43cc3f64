"""The direct way of a request: from the parser to whoever answers it and back, without a task and without ASGI's messages.

A small prediction spends more time between the socket and its handler than anywhere else. What takes the direct way is plain: its
length is known, its answer comes whole, and nothing that it asks for needs an application in between. Everything else goes the
long way, through ASGI, where a request of any kind is answered the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
#: Takes status, headers and body of the one answer; the headers are its lines as they go out, each with its end.
Answered: TypeAlias = Callable[[int, bytes, bytes], None]


class DirectCall(Protocol):
    """A request whose head has been accepted."""

    def run(self, body: bytes, answered: Answered) -> bool:
        """Runs the request, now that it is complete.

        Args:
            body: Its body.
            answered: Gets the answer, possibly before this returns; not after `cancel`.

        Returns:
            False when it has to go the long way after all: nothing has happened then.
        """

    def cancel(self) -> None:
        """The client is gone, or has sent something else than it promised. Called at most once, and not after the answer."""


class DirectWay(Protocol):
    """Whoever answers requests directly."""

    def read(self, url: bytes, headers: Headers) -> Any | None:
        """Looks at the head of a POST request; what it finds there holds for every request with the same head.

        Args:
            url: The request's target, as it came.
            headers: Its headers, names in lower case.

        Returns:
            What `take` is to know of it; `None` when the request has to go the long way.
        """

    def take(self, head: Any, client: tuple[str, int] | None) -> DirectCall | None:
        """Takes a request.

        Args:
            head: What `read` has found.
            client: Address of the client.

        Returns:
            The call; `None` when the request has to go the long way.
        """


class Connection(Protocol):
    """What a request comes from."""

    def answer(self, answer: bytes, *, keep_alive: bool) -> None:
        """Writes the whole answer of the request on the direct way.

        Args:
            answer: Its bytes.
            keep_alive: Whether the connection goes on.
        """


class Repeated(NamedTuple):
    """A request that came whole and alone, in one piece: most clients go on to send such ones with the same head.

    Attributes:
        beginning: The head's bytes.
        size: Bytes of all.
        head: What the direct way has found in it.
        keep_alive: Whether the connection goes on after the answer.
    """

    beginning: bytes
    size: int
    head: Any
    keep_alive: bool


class DirectCycle:
    """One request on the direct way, where uvicorn has the cycle of its ASGI messages.

    Args:
        protocol: Its connection.
        call: The request.
        keep_alive: Whether the connection goes on after the answer.

    Attributes:
        response_complete: Whether the answer has been written, or nobody waits for it.
    """

    __slots__ = ("_body", "_call", "_protocol", "keep_alive", "response_complete")

    def __init__(self, protocol: Connection, call: DirectCall, *, keep_alive: bool) -> None:
        self._protocol: Connection | None = protocol
        self._call = call
        self._body: list[bytes] = []
        self.keep_alive = keep_alive
        self.response_complete = False

    def take(self, piece: bytes) -> None:
        """A piece of the body has come."""
        self._body.append(piece)

    def body(self) -> bytes:
        """What has come of the body; it is not kept."""
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return body

    def run(self, body: bytes) -> bool:
        """Runs the request, which has come whole; false where it has to go the long way after all."""
        return self._call.run(body, self._answered)

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if not self.response_complete:
            self.response_complete = True
            self._protocol = None
            self._call.cancel()

    def _answered(self, status: int, fields: bytes, body: bytes) -> None:
        protocol, self._protocol = self._protocol, None
        assert protocol is not None
        self.response_complete = True
        protocol.answer(encode_answer(status, fields, body, keep_alive=self.keep_alive), keep_alive=self.keep_alive)


def encode_answer(status: int, fields: bytes, body: bytes, *, keep_alive: bool) -> bytes:
    """The bytes of an answer.

    Args:
        status: Its status.
        fields: Its headers: lines as they go out, each with its end, with nothing in them that a header must not have.
        body: Its body.
        keep_alive: Whether the connection goes on.
    """
    end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
    return b"%b%b%b%b" % (STATUS_LINE[status], fields, end, body)
