"""Tokens: what one may do, how long it is valid, and how it is made. Pure; `keyring` keeps them on disk.

A token is `fyd_<id>_<secret>`. The secret has 256 random bits, so that one round of SHA-256 is enough to keep it by; the token
itself is shown once and kept nowhere.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from flowyard.schemas.errors import ConflictError, InvalidRequestError, NotFoundError

Scope: TypeAlias = Literal["inference", "management", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SECRET_BYTES = 32
#: Most tokens that are kept, so that the file of a script gone wrong stays a file that can be read.
MAX_TOKENS = 10_000
MAX_LIFETIME_DAYS = 36_500

_PREFIX = "fyd"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LIFETIME = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token, as it is kept.

    Attributes:
        id: Its public part.
        name: What the operator calls it. After a rotation the old and the new one have the same.
        scopes: What it is good for.
        digest: SHA-256 of the whole token, in hex.
        created: When it was made.
        expires: When it ends, `None` for never.
        replaced_by: Id of the one that has taken its place, empty for none.
    """

    id: str
    name: str
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    created: datetime
    expires: datetime | None = None
    replaced_by: str = ""

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All tokens there are, in the order in which they were made."""

    tokens: tuple[Token, ...] = ()

    def create(
        self, scopes: Iterable[str], now: datetime, *, name: str = "", lifetime: timedelta | None = None
    ) -> tuple[Tokens, Token, str]:
        """Makes a token.

        Args:
            scopes: What it is to be good for.
            now: The time.
            name: What to call it; its first scope and its id when empty.
            lifetime: How long it is valid, `None` for ever.

        Returns:
            All tokens, the new one, and its text, which is nowhere else.

        Raises:
            InvalidRequestError: A scope or name that is not allowed, or too many tokens.
            ConflictError: The name is taken.
        """
        known = _checked_scopes(scopes)
        if len(self.tokens) >= MAX_TOKENS:
            raise InvalidRequestError(f"there are {MAX_TOKENS} tokens already: revoke some")
        if name and not _NAME.fullmatch(name):
            raise InvalidRequestError(
                f"name {name[:80]!r}: allowed are letters, digits and _.-, up to 64, a letter or digit first"
            )
        if any(name in (token.name, token.id) for token in self.tokens):
            raise ConflictError(f"there is a token called {name!r} already: rotate or revoke it, or take another name")
        text, made = _make(known, name, now, None if lifetime is None else now + lifetime)
        return Tokens((*self.tokens, made)), made, text

    def revoke(self, which: str) -> tuple[Tokens, tuple[Token, ...]]:
        """Removes a token by its id, or all of a name.

        Returns:
            The tokens that are left, and those that are gone.

        Raises:
            NotFoundError: There is none.
        """
        gone = self._find(which)
        return Tokens(tuple(token for token in self.tokens if token not in gone)), gone

    def rotate(
        self, which: str, now: datetime, *, grace: timedelta, lifetime: timedelta | None = None
    ) -> tuple[Tokens, Token, str]:
        """Makes a token that takes the place of another one, which stays valid for a while.

        Args:
            which: Id or name of the old one.
            now: The time.
            grace: How long the old one stays valid, unless it ends before.
            lifetime: How long the new one is valid; as long as the old one was when `None`.

        Returns:
            All tokens, the new one, and its text.

        Raises:
            NotFoundError: There is no such token.
            ConflictError: It has been replaced already.
        """
        old = self._find(which)[-1]
        if old.replaced_by:
            raise ConflictError(f"token {old.id} has been replaced by {old.replaced_by} already: rotate that one")
        if lifetime is None and old.expires is not None:
            lifetime = old.expires - old.created
        text, made = _make(old.scopes, old.name, now, None if lifetime is None else now + lifetime)
        end = now + grace
        left = msgspec.structs.replace(old, expires=end if old.expires is None else min(end, old.expires), replaced_by=made.id)
        return Tokens((*(left if token is old else token for token in self.tokens), made)), made, text

    def _find(self, which: str) -> tuple[Token, ...]:
        found = tuple(token for token in self.tokens if which in (token.id, token.name))
        if not found:
            names = ", ".join(sorted({token.name for token in self.tokens})[:20]) or "none"
            raise NotFoundError(f"there is no token with the id or name {which[:80]!r}; there are: {names}")
        return found


def digest_of(text: bytes) -> str:
    """What a token is kept as."""
    return hashlib.sha256(text).hexdigest()


def id_of(text: str) -> str:
    """The public part of a token, empty where it is none of ours."""
    prefix, _, rest = text.partition("_")
    return rest.partition("_")[0] if prefix == _PREFIX else ""


def parse_lifetime(text: str, what: str) -> timedelta:
    """Reads `90s`, `15m`, `12h`, `30d` or `4w`.

    Args:
        text: What was said.
        what: Where, for the message.

    Raises:
        InvalidRequestError: It is none of these, 0, or more than a hundred years.
    """
    found = _LIFETIME.fullmatch(text.strip())
    lifetime = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found and int(found[1]) <= MAX_LIFETIME_DAYS * 86_400 else None
    if lifetime is None or not timedelta() < lifetime <= timedelta(days=MAX_LIFETIME_DAYS):
        raise InvalidRequestError(
            f"{what} {text[:50]!r} is not allowed; allowed is a time like 15m, 12h, 30d or 4w, up to 100 years"
        )
    return lifetime


def now_utc() -> datetime:
    """The time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def _checked_scopes(scopes: Iterable[str]) -> tuple[Scope, ...]:
    asked = [scope.strip() for scope in scopes]
    for scope in asked:
        if scope not in SCOPES:
            raise InvalidRequestError(
                f"scope {scope[:50]!r} is not allowed; allowed are {', '.join(SCOPES)}, several separated by commas"
            )
    if not asked:
        raise InvalidRequestError(f"a token needs a scope: {', '.join(SCOPES)}, several separated by commas")
    return tuple(scope for scope in SCOPES if scope in asked)


def _make(scopes: tuple[Scope, ...], name: str, now: datetime, expires: datetime | None) -> tuple[str, Token]:
    identity = secrets.token_hex(4)
    text = f"{_PREFIX}_{identity}_{secrets.token_urlsafe(SECRET_BYTES)}"
    name = name or f"{scopes[0]}-{identity}"
    return text, Token(id=identity, name=name, scopes=scopes, digest=digest_of(text.encode()), created=now, expires=expires)
