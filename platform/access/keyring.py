"""Tokens on disk, and what a running server knows of them.

    state_dir/tokens.json    mode 0600, replaced in one step by whoever holds tokens.lock

The server looks four times a second whether the file is another one; a request costs no access to it. A token that it does not
know makes it look at once, so that a new one is good from the moment it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hmac
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from flowyard.platform import state_dir as state
from flowyard.platform.access.tokens import Scope, Tokens, digest_of, id_of
from flowyard.schemas.errors import ConflictError
from flowyard.schemas.values import NOT_JSON

log = structlog.stdlib.get_logger(__name__)
T = TypeVar("T")

FILE = "tokens.json"
LOCK = "tokens.lock"
POLL_S = 0.25
#: A file of tokens that is larger is none of ours.
MAX_FILE_BYTES = 16 << 20
#: What stands before the token in a request, as nearly everybody writes it.
BEARER = b"Bearer "
NEVER = float("inf")


class TokenFile:
    """The file of tokens in a state directory.

    Args:
        state_dir: The directory; it is made by the first change.
    """

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir
        self._path = state_dir / FILE

    def read(self) -> Tokens | None:
        """All tokens, `None` where there has never been one.

        Raises:
            ConflictError: The file cannot be read, or is none of ours.
        """
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ConflictError(f"{self._path} has more than {MAX_FILE_BYTES} bytes: it is no file of tokens")
            return msgspec.json.decode(content, type=Tokens)
        except FileNotFoundError:
            return None
        except (OSError, *NOT_JSON) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ConflictError(f"{self._path} cannot be used: {reason}; mend it, or remove it and create new tokens") from None

    def change(self, by: Callable[[Tokens], tuple[Tokens, T]]) -> T:
        """Changes the tokens; the change is on disk when this returns, or not made at all.

        Args:
            by: Gets the tokens; gives those that are to be, and what this is to return.

        Raises:
            ConflictError: The file or the folder cannot be used.
        """
        try:
            state.prepare(self._folder)
            with self._locked():
                after, result = by(self.read() or Tokens())
                self._write(msgspec.json.format(msgspec.json.encode(after), indent=1) + b"\n")
        except OSError as error:
            raise ConflictError(f"{self._folder} cannot be used: {error.strerror or error}") from None
        return result

    def stamp(self) -> tuple[int, int, int] | None:
        """Something that changes with the file, `None` where there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, content: bytes) -> None:
        partial = self._folder / f".{FILE}.{os.getpid()}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            partial.replace(self._path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Known(NamedTuple):
    """What the server needs to know of a token: its digest, when it ends, what it is good for, what it is called."""

    digest: str
    expires: float
    scopes: frozenset[Scope]
    name: str


class Keyring:
    """What a running server knows of the tokens.

    Once there has been a token, requests need one until the server ends: neither revoking the last one nor removing the file
    opens the door.

    Args:
        file: Where they are kept.

    Raises:
        ConflictError: The file cannot be read: the server must not take it for "no tokens".

    Attributes:
        is_required: Whether requests need a token.
        good: What is known of tokens that were found before, by `Bearer TOKEN`, no more than there are tokens. It takes no longer
            to look for one that is nearly right: Python's dictionaries compare hashes first, which are keyed by a secret.
    """

    def __init__(self, file: TokenFile) -> None:
        self._file = file
        self._stamp = file.stamp()
        self._known: dict[str, Known] = {}
        self.good: dict[bytes, Known] = {}
        self.is_required = False
        self._take(file.read())

    def find(self, text: bytes) -> Known | None:
        """What is known of a token; compared in constant time, by its digest. From then on it is in `good`.

        Args:
            text: The token as a request has it.

        Returns:
            What is known, `None` for one that is none of ours.
        """
        found = self._look_up(text)
        if found is not None:
            self.good[BEARER + text] = found
        return found

    def _look_up(self, text: bytes) -> Known | None:
        identity = id_of(text.decode("latin-1"))
        if identity not in self._known:
            self.refresh()
        known = self._known.get(identity)
        return known if known is not None and hmac.compare_digest(known.digest, digest_of(text)) else None

    def refresh(self) -> None:
        """Reads the file where it is another one than before. What cannot be read leaves everything as it was."""
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(self._file.read())
        except ConflictError as error:
            log.error("the tokens stay as they were", reason=str(error))

    async def follow(self) -> None:
        """Keeps up with the file until it is cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self.refresh()

    def _take(self, tokens: Tokens | None) -> None:
        self.good = {}
        if tokens is None:
            self._known = {}
            return
        self.is_required = True
        self._known = {
            token.id: Known(
                token.digest, token.expires.timestamp() if token.expires else NEVER, frozenset(token.scopes), token.name
            )
            for token in tokens.tokens
        }


def is_over(known: Known) -> bool:
    """Whether the time of a token is over."""
    return known.expires <= time.time()
