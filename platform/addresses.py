"""Addresses to listen on, as DJL Serving spells them (DJL §4.2)."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

import msgspec

from flowyard.schemas.errors import InvalidRequestError

ALLOWED = "http://host[:port], https://host[:port] or unix:/path, with a port from 0 to 65535"
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080
_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?/?", re.IGNORECASE)
_UNIX = re.compile(r"unix:(//)?(?P<path>/[^\x00-\x1f]*[^\x00-\x1f/])")


class Address(msgspec.Struct, frozen=True):
    """Where to listen.

    Attributes:
        scheme: `unix` for a socket file.
        host: Name or number, IPv6 without brackets; empty for a socket file.
        port: Port; 0 takes a free one.
        path: The socket file.
    """

    scheme: Literal["http", "https", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """As it is written in the settings."""
        if self.scheme == "unix":
            return f"unix:{self.path}"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.scheme == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Reads an address.

    Args:
        text: `http://host[:port]`, `https://host[:port]` or `unix:/path`; without a port it is 80 or 443.

    Returns:
        The address.

    Raises:
        InvalidRequestError: It is none of these.
    """
    file = _UNIX.fullmatch(text.strip())
    if file:
        return Address("unix", path=file["path"])
    url = _URL.fullmatch(text.strip())
    scheme: Literal["http", "https"] = "https" if url and url["scheme"].lower() == "https" else "http"
    port = int(url["port"] or _DEFAULT_PORTS[scheme]) if url else -1
    if url is None or port > 65_535:
        raise InvalidRequestError(f"{text[:200]!r} is not an address; allowed is {ALLOWED}")
    return Address(scheme, url["host"].lower().strip("[]"), port)


def changed(address: Address, host: str | None, port: int | None) -> Address:
    """The address with another host or port; a socket file gives way to both."""
    if host is None and port is None:
        return address
    scheme: Literal["http", "https"] = "https" if address.scheme == "https" else "http"
    return Address(
        scheme,
        host if host is not None else address.host or DEFAULT_HOST,
        port if port is not None else address.port or DEFAULT_PORT,
    )


def management_default(inference: Address) -> Address:
    """Where the management API listens when only the inference address is said.

    On the same address, unless that can be reached from other machines: then where DJL Serving has it, on loopback, so that
    nobody opens it to the world without saying so. Port 8080 cannot be had twice.
    """
    if inference.is_local or inference.port == DEFAULT_PORT:
        return inference
    return Address("http", DEFAULT_HOST, DEFAULT_PORT)
