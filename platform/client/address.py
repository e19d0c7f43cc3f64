"""Where the server is, and what proves that the caller may ask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from flowyard.platform.client.errors import InvalidArgumentError

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "FLOWYARD_URL"
TOKEN_VARIABLE = "FLOWYARD_TOKEN"  # noqa: S105 - the name of a variable


class Address(msgspec.Struct, frozen=True):
    """A server's address.

    Attributes:
        base_url: `http://` or `https://`, a host, and perhaps a path that its proxy puts before everything.
        socket: Path of the Unix socket to connect to, empty for TCP.
    """

    base_url: str
    socket: str = ""

    def __str__(self) -> str:
        """Renders as it was given."""
        return f"unix:{self.socket}" if self.socket else self.base_url


def address_of(url: str | None, env: Mapping[str, str] = os.environ) -> Address:
    """Reads a server's address.

    Args:
        url: `http://host:port`, `https://host`, or `unix:/path/of/socket`; `None` takes `FLOWYARD_URL`, and without that
            `http://127.0.0.1:8080`.
        env: The environment.

    Returns:
        The address.

    Raises:
        InvalidArgumentError: It is none of these.
    """
    text = url if url is not None else env.get(URL_VARIABLE) or DEFAULT_URL
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path or "\0" in path:
            raise InvalidArgumentError(f"server URL {text!r}: unix:/path/of/the/socket is expected")
        return Address("http://localhost", path)
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        raise _wrong(text) from None
    if not fine or parts.query or parts.fragment or not text.isprintable() or " " in text:
        raise _wrong(text)
    if parts.username is not None or parts.password is not None:
        raise InvalidArgumentError(f"server URL: a user or password has no place in it; a token goes into {TOKEN_VARIABLE}")
    return Address(text.rstrip("/"))


def _wrong(text: str) -> InvalidArgumentError:
    fix = "" if "://" in text or not text else f" (http://{text}?)"
    return InvalidArgumentError(f"server URL {text!r}: http://host:port, https://host or unix:/path is expected{fix}")


def authorization(token: str | None, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header that carries the token.

    Args:
        token: The token; `None` takes `FLOWYARD_TOKEN`, empty text is none.
        env: The environment.

    Returns:
        The header, none without a token.

    Raises:
        InvalidArgumentError: The token cannot be in a header; the message does not say it.
    """
    text = token if token is not None else env.get(TOKEN_VARIABLE, "")
    if not text:
        return {}
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidArgumentError("the token holds a blank, a line break or a character outside ASCII")
    return {"Authorization": f"Bearer {text}"}
