"""Remote URLs: how they are read, and what may not be in one. Nothing here touches the network."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import SplitResult, parse_qsl, quote, unquote_to_bytes, urljoin, urlsplit

import msgspec

from flowyard.platform.archives.hosts import check_host, parse_address
from flowyard.schemas.errors import InvalidRequestError

#: Longest URL; more than any server takes.
MAX_URL_CHARS = 8192
WEB_PORTS = {"http": 80, "https": 443}
SCHEMES = (*WEB_PORTS, "s3", "gs", "az", "hf")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
#: Name of a bucket, a container, or an owner on the hub.
PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]+)(?::([0-9]{0,5}))?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: What may stand unencoded in a path that is asked for.
_SAFE = "/%:@!$&'()*+,;=~"
#: Query parameters that let whoever knows the URL in.
_CREDENTIALS = frozenset(
    {
        "access_token",
        "api_key",
        "apikey",
        "auth",
        "authorization",
        "awsaccesskeyid",
        "credential",
        "credentials",
        "key-pair-id",
        "passwd",
        "password",
        "private_token",
        "secret",
        "sig",
        "signature",
        "token",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-credential",
        "x-goog-signature",
    }
)


class RemoteUrl(msgspec.Struct, frozen=True):
    """A URL that has to be fetched.

    Attributes:
        scheme: One of `SCHEMES`.
        host: Name or address in lower case, without brackets; for an object store the bucket, for the hub the owner.
        port: Port, 0 where the scheme has none.
        path: Path, decoded; empty or with a leading slash.
        target: What an HTTP server is asked for: path and query, encoded.
    """

    scheme: str
    host: str
    port: int
    path: str
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: all that a message says of a URL that a server made up."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port, as a `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == WEB_PORTS.get(self.scheme, 0) else f"{host}:{self.port}"

    @property
    def filename(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


def is_remote(url: str) -> bool:
    """Tells whether a URL has to be fetched.

    Args:
        url: URL or path of a model.

    Returns:
        Whether its scheme is one of `SCHEMES`.
    """
    scheme = _SCHEME.match(url)
    return scheme is not None and scheme[1].lower() in SCHEMES


def parse_url(url: str, *, signed: bool = False) -> RemoteUrl:
    """Reads a remote URL that a caller gave.

    Args:
        url: The URL; `is_remote` holds.
        signed: Whether it may have a credential in its query.

    Returns:
        Its parts.

    Raises:
        InvalidRequestError: It is no URL, has a credential in it, or spells its host or path in a way that others read
            differently. The message repeats no credential.
    """
    parts = _split(url)
    names = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    found = sorted(names & _CREDENTIALS)
    if found and not signed:
        raise InvalidRequestError(
            f"Invalid url: the parameter {found[0]} is a credential. Credentials come from the environment of the server; "
            "for an object store use s3:, gs: or az:."
        )
    return _parse(parts, url)


def parse_redirect(base: RemoteUrl, location: str) -> RemoteUrl:
    """Reads where a server redirects to. Unlike a caller, a server may put a signature into it.

    Args:
        base: The URL that was asked for.
        location: The `Location` header.

    Returns:
        The parts of the new URL.

    Raises:
        InvalidRequestError: It leads to what is no `http:` or `https:` URL, from `https:` to `http:`, or is not well formed.
    """
    shown = f"the redirect of {base.origin}"
    try:
        if not location:
            raise InvalidRequestError("it does not say where it leads")
        parts = _split(urljoin(f"{base.origin}{base.target}", _checked(location)))
        if parts.scheme not in WEB_PORTS or (base.scheme, parts.scheme) == ("https", "http"):
            raise InvalidRequestError(f"it leads from {base.scheme}: to {parts.scheme}:")
        return _parse(parts, "")
    except (InvalidRequestError, ValueError) as error:
        raise InvalidRequestError(f"{shown} cannot be followed: {error}") from None


def url_arguments(url: str) -> dict[str, str]:
    """The query of a URL: arguments of the model (DJL §3.3). Of a repeated one the first counts.

    Args:
        url: URL or path of a model. A path has no query.

    Returns:
        The arguments by name.
    """
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[1].lower() not in ("file", *SCHEMES):
        return {}
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    return dict(reversed(pairs))


def _checked(url: str) -> str:
    """Refuses text that readers of URLs cut short, clean up or split in different ways."""
    if len(url) > MAX_URL_CHARS:
        raise InvalidRequestError(f"Invalid url: it has {len(url)} characters, {MAX_URL_CHARS} are allowed")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zs", "Zl", "Zp") for char in url) or "\\" in url:
        raise InvalidRequestError("Invalid url: it has control characters, blanks or backslashes; write them as %20")
    return url


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(_checked(url))
    except ValueError:
        raise InvalidRequestError("Invalid url: it is not a url") from None
    if "@" in parts.netloc:
        raise InvalidRequestError(
            "Invalid url: it has a user name or password before the host; credentials come from the environment of the server"
        )
    return parts


def _parse(parts: SplitResult, url: str) -> RemoteUrl:
    shown = f"Invalid url: {url!r}" if url else "Invalid url"
    scheme = parts.scheme.lower()
    if parts.fragment or _BAD_ESCAPE.search(parts.path):
        raise InvalidRequestError(f"{shown}; `%` and `#` in a path are written %25 and %23")
    try:
        host, port = _web_host(parts, scheme) if scheme in WEB_PORTS else (_place(parts), 0)
        path = unquote_to_bytes(parts.path).decode("utf-8")
    except ValueError as error:
        raise InvalidRequestError(f"{shown}; {error if type(error) is ValueError else 'it is not UTF-8 text'}") from None
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in path) or "\\" in path:
        raise InvalidRequestError(f"{shown}; its path has control characters or backslashes")
    # Some servers decode twice, and some cut off what follows a semicolon.
    if ".." in re.split("[/;]", unquote_to_bytes(path).decode("utf-8", "replace")):
        raise InvalidRequestError(f"{shown}; its path leads upwards with ..")
    query = f"?{quote(parts.query, safe=_SAFE + '?')}" if parts.query else ""
    return RemoteUrl(scheme, host, port, path, quote(parts.path or "/", safe=_SAFE) + query)


def _web_host(parts: SplitResult, scheme: str) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(parts.netloc)
    if found is None:
        raise ValueError(f"expected is {scheme}://HOST/PATH or {scheme}://HOST:PORT/PATH")
    host, port = found[1].lower(), int(found[2] or WEB_PORTS[scheme])
    if port > 65_535:
        raise ValueError(f"there is no port {port}")
    if host.startswith("["):
        host = host[1:-1]
        if parse_address(host) is None:
            raise ValueError("in brackets there is an IPv6 address without a zone")
    return check_host(host), port


def _place(parts: SplitResult) -> str:
    """A bucket, container or owner. Its case counts for the hub."""
    if not PLACE.fullmatch(parts.netloc):
        example = "hf://OWNER/MODEL" if parts.scheme == "hf" else f"{parts.scheme}://BUCKET/PATH"
        raise ValueError(f"expected is {example}")
    return parts.netloc
