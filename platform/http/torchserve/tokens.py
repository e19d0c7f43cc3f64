"""TorchServe's tokens: three keys in a file, of which two run out (TorchServe reference §1.2, token API)."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from flowyard.platform.http.torchserve.errors import InvalidKeyError
from flowyard.schemas.errors import InvalidRequestError

KeyKind: TypeAlias = Literal["management", "inference"]

KEY_FILE = "key_file.json"
#: Random bytes of a key; the original's have 6.
KEY_BYTES = 24
_BEARER = re.compile(r"Bearer\s+(\S+)")
REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
NOT_RENEWED = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"


class Tokens:
    """The keys of one server; the file is written at the start, and whenever a key changes.

    Args:
        file: Where they are written, for the owner only.
        lifetime: How long the inference and the management key are good for.
        now: The clock.

    Raises:
        InvalidRequestError: The file cannot be written.
    """

    def __init__(self, file: Path, lifetime: timedelta, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file = file
        self._lifetime = lifetime
        self._now = now
        self._api_key = _new_key()
        self._keys: dict[KeyKind, tuple[str, datetime]] = {"management": self._fresh(), "inference": self._fresh()}
        self._write()

    def check(self, authorization: str, kinds: tuple[KeyKind, ...]) -> None:
        """Holds a request's token against the keys that are good for it.

        Args:
            authorization: The header, empty for none.
            kinds: Which keys are.

        Raises:
            InvalidKeyError: It is none of them, or has run out.
        """
        given = _bearer(authorization)
        good = [self._is_good(given, kind) for kind in kinds]
        if not any(good):
            raise InvalidKeyError(REFUSED)

    def renew(self, authorization: str, kind: str | None) -> None:
        """Replaces the management or the inference key; the new one is only in the file.

        Raises:
            InvalidKeyError: The token is not the API key, or the kind is no such key.
        """
        is_api = secrets.compare_digest(_bearer(authorization).encode(), self._api_key.encode())
        if not is_api or kind not in ("management", "inference"):
            raise InvalidKeyError(NOT_RENEWED)
        self._keys[kind] = self._fresh()  # type: ignore[index]
        self._write()

    def remove_file(self) -> None:
        """The server stops: its keys are worth nothing any more."""
        self._file.unlink(missing_ok=True)

    def _is_good(self, given: str, kind: KeyKind) -> bool:
        key, expires = self._keys[kind]
        return secrets.compare_digest(given.encode(), key.encode()) and self._now() < expires

    def _fresh(self) -> tuple[str, datetime]:
        return _new_key(), self._now() + self._lifetime

    def _write(self) -> None:
        told = {
            kind: {"key": key, "expiration time": expires.isoformat(timespec="microseconds").replace("+00:00", "Z")}
            for kind, (key, expires) in self._keys.items()
        }
        text = json.dumps(told | {"API": {"key": self._api_key}}, indent=2)
        partial = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            partial.unlink(missing_ok=True)
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
                opened.write(text)
            partial.replace(self._file)
        except OSError as error:
            raise InvalidRequestError(f"the tokens cannot be written to {self._file}: {error.strerror}") from None


def _bearer(authorization: str) -> str:
    found = _BEARER.fullmatch(authorization)
    return found[1] if found else ""


def _new_key() -> str:
    return secrets.token_urlsafe(KEY_BYTES)
