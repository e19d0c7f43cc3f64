"""Which addresses a server of a remote URL may have, and how hosts are spelled."""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
#: Resolvers take a name that ends in such a part for an address in octal, hexadecimal, or with fewer than four parts.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_host(host: str) -> str:
    """Holds a host against what all resolvers read alike.

    Args:
        host: Name or address in lower case, an IPv6 address without brackets.

    Returns:
        The host; an address in its usual spelling.

    Raises:
        ValueError: It is neither a name nor an address as it is usually written; the message says what to write.
    """
    address = parse_address(host)
    if address is not None:
        return str(address)
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise ValueError("an IPv4 address is written as four decimal numbers without leading zeros")
    if ":" in host or not _HOST.fullmatch(host) or len(host) > 253:
        raise ValueError("a host is a name of letters, digits and `-` without a final dot (others as xn--), or an address")
    return host


def parse_address(text: str) -> Address | None:
    """Reads an address.

    Args:
        text: An IPv4 address as four decimal numbers, or an IPv6 address without a zone.

    Returns:
        The address, `None` when it is something else.
    """
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def effective_address(address: Address) -> Address:
    """The address that packets go to in the end: an IPv4 address may be wrapped in an IPv6 one.

    Args:
        address: An address.

    Returns:
        The IPv4 address inside a mapped, NAT64 or 6to4 address; else the address itself.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def is_public(address: Address) -> bool:
    """Tells whether an address is one of the internet's, of a single host.

    Args:
        address: An address.

    Returns:
        `False` for private, shared, loopback, link-local, multicast, unspecified and reserved addresses, however they are
        wrapped.
    """
    inner = effective_address(address)
    if isinstance(inner, ipaddress.IPv6Address) and (inner not in _GLOBAL_V6 or inner.teredo):
        return False
    return inner.is_global and not (inner.is_multicast or inner.is_reserved or inner.is_unspecified)


def is_local(address: Address) -> bool:
    """Tells whether an address is one that a host of the operator's own network may well have.

    Args:
        address: An address that is not public.

    Returns:
        `True` for private, shared and loopback addresses; `False` for link-local ones (where clouds tell secrets), multicast,
        unspecified and reserved ones.
    """
    inner = effective_address(address)
    special = inner.is_link_local or inner.is_multicast or inner.is_unspecified or inner.is_reserved
    return inner.is_loopback or not special
