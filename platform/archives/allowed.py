"""Which remote URLs the settings allow.

An entry of the setting `allowed_urls` is `SCHEME://HOST[:PORT][/PATH]`:

    https://models.example.org              everything on that host, at the scheme's own port
    https://models.example.org/team         /team itself, and everything below /team/
    https://models.example.org/team-*.zip   `*` in a path stands for any characters, `/` too
    https://*.example.org, https://*        hosts below one, any host; only with public addresses
    http://127.0.0.1:9000, http://[::1]:*   an address; `*` is any port
    models.example.org:8443                 without a scheme: https and http
    s3://bucket/models, hf://owner/model    for object stores and the Hugging Face Hub, the "host" is the bucket or the owner
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote_to_bytes

import msgspec

from flowyard.platform.archives.hosts import Address, check_host, is_local, is_public, parse_address
from flowyard.platform.archives.remote import PLACE, SCHEMES, WEB_PORTS, RemoteUrl
from flowyard.schemas.errors import ForbiddenError, InvalidRequestError


class Pattern(msgspec.Struct, frozen=True):
    """One entry of the setting `allowed_urls`.

    Attributes:
        schemes: Schemes that it is for.
        host: Host, `*` for any, `*.NAME` for those below one.
        port: Port; `None` for the scheme's own, -1 for any.
        path: What paths have to match.
    """

    schemes: tuple[str, ...]
    host: str
    port: int | None
    path: str

    @property
    def is_literal(self) -> bool:
        """Whether it names one host."""
        return not self.host.startswith("*")

    def matches(self, url: RemoteUrl) -> bool:
        """Whether a URL is one of those that the entry is for."""
        return url.scheme in self.schemes and self._has_host(url) and self._has_port(url) and self._has_path(url.path or "/")

    def _has_host(self, url: RemoteUrl) -> bool:
        if self.is_literal:
            return url.host.lower() == self.host.lower()
        return self.host == "*" or (url.host.endswith(self.host[1:]) and parse_address(url.host) is None)

    def _has_port(self, url: RemoteUrl) -> bool:
        wanted = WEB_PORTS.get(url.scheme, 0) if self.port is None else self.port
        return wanted in (-1, url.port)

    def _has_path(self, path: str) -> bool:
        if "*" in self.path:
            return fits(self.path.split("*"), path)
        return path == self.path or path.startswith(self.path.rstrip("/") + "/")


def fits(pieces: Sequence[str], text: str) -> bool:
    """Matches what was written with `*` between the pieces. A regular expression could be made to take minutes by a hostile URL.

    Args:
        pieces: Two or more.
        text: What has to have them, from the first at its start to the last at its end.

    Returns:
        Whether it has them all in this order, without overlap.
    """
    first, *middle, last = pieces
    at, end = len(first), len(text) - len(last)
    if not text.startswith(first) or not text.endswith(last) or at > end:
        return False
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def parse_pattern(text: str) -> Pattern:
    """Reads one entry of the setting `allowed_urls`.

    Args:
        text: The entry.

    Returns:
        What it allows.

    Raises:
        InvalidRequestError: It is none; the message says what is expected.
    """
    scheme, separator, rest = text.partition("://")
    schemes = (scheme.lower(),) if separator else tuple(WEB_PORTS)
    authority, slash, path = (rest if separator else text).partition("/")
    try:
        if schemes[0] not in SCHEMES:
            raise ValueError(f"schemes are {', '.join(SCHEMES)}")
        if "?" in text or "#" in text or "@" in authority:
            raise ValueError("no user, query or fragment")
        host, port = _pattern_host(authority, web=schemes[0] in WEB_PORTS)
        return Pattern(schemes, host, port, unquote_to_bytes(slash + path).decode("utf-8") or "/")
    except ValueError as error:
        raise InvalidRequestError(
            f"allowed_urls: {text!r} is not allowed: {error}; expected is SCHEME://HOST[:PORT][/PATH], "
            "with `*` for a whole host, its first part, a port, or anything in a path"
        ) from None


def _pattern_host(authority: str, *, web: bool) -> tuple[str, int | None]:
    if not web:
        if authority != "*" and not PLACE.fullmatch(authority):
            raise ValueError("after :// comes a bucket, container or owner")
        return authority, None
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::([0-9]{1,5}|\*))?", authority)
    if match is None:
        raise ValueError("there is no host")
    host = match[1].strip("[]").lower()
    if match[1].startswith("[") and parse_address(host) is None:
        raise ValueError("in brackets there is an IPv6 address")
    if host != "*":
        host = "*." + check_host(host[2:]) if host.startswith("*.") else check_host(host)
    return host, None if match[2] is None else -1 if match[2] == "*" else int(match[2])


def parse_regex(text: str) -> re.Pattern[str]:
    """Reads one entry of the setting `allowed_url_regexes`, which is TorchServe's `allowed_urls`.

    Raises:
        InvalidRequestError: It is no regular expression.
    """
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise InvalidRequestError(f"allowed_url_regexes: {text!r} is no regular expression: {error}") from None


class AllowedUrls:
    """The settings `allowed_urls` and `allowed_url_regexes`."""

    def __init__(self, entries: Iterable[str], regexes: Iterable[str] = ()) -> None:
        """Reads the entries.

        Args:
            entries: The value of the first setting.
            regexes: The value of the second.

        Raises:
            InvalidRequestError: One of them cannot be read.
        """
        self._patterns = tuple(parse_pattern(entry) for entry in entries)
        self._regexes = tuple(parse_regex(entry) for entry in regexes)

    @property
    def takes_signed(self) -> bool:
        """Whether URLs may have a credential in their query: TorchServe's users have URLs that are signed beforehand."""
        return bool(self._regexes)

    def matches_regex(self, text: str) -> bool:
        """Whether one of the regular expressions is for a URL as a whole."""
        return any(regex.fullmatch(text) for regex in self._regexes)

    def check(self, url: RemoteUrl, shown: str) -> None:
        """Refuses a URL that no entry allows.

        Args:
            url: The URL.
            shown: What the message calls it.

        Raises:
            ForbiddenError: No entry allows it, or its host is an address that has to be listed and is not.
        """
        if not (any(pattern.matches(url) for pattern in self._patterns) or self.matches_regex(f"{url.origin}{url.target}")):
            known = (
                "it lists no entry that matches"
                if self._patterns or self._regexes
                else "it is empty, so that none may be fetched"
            )
            raise ForbiddenError(f"{shown}: remote urls are not allowed unless the setting allowed_urls lists them; {known}")
        address = parse_address(url.host)
        if address is not None and url.scheme in WEB_PORTS:
            self.check_address(url, address)

    def check_address(self, url: RemoteUrl, address: Address) -> None:
        """Refuses to connect to an address that is not public, unless the operator wants it.

        A host that an entry names, not one that a `*` stands for, may have a private or loopback address. Link-local, multicast
        and other special addresses have to be listed themselves.

        Args:
            url: The URL, which `check` has passed.
            address: An address of its host.

        Raises:
            ForbiddenError: It may not be connected to. The message does not tell the address of a name.
        """
        listed = any(pattern.is_literal and pattern.matches(url) for pattern in self._patterns)
        if is_public(address) or (listed and (parse_address(url.host) == address or is_local(address))):
            return
        if is_local(address) and self.matches_regex(f"{url.origin}{url.target}"):
            return
        raise ForbiddenError(
            f"{url.origin} has an address that is not public; the setting allowed_urls has to list this host by name or address, "
            "and a link-local or other special address as an address"
        )
