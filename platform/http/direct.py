"""The direct way of a request: from the parser to whoever answers it and back, without a task and without ASGI's messages.

A small prediction spends more time between the socket and its handler than anywhere else. What takes the direct way is plain: its
length is known, its answer comes whole, and nothing that it asks for needs an application in between. Everything else goes the
long way, through ASGI, where a request of any kind is answered the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

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
