"""Sockets to listen on: TCP ports and socket files."""

from __future__ import annotations

import contextlib
import socket
import stat
from pathlib import Path

from flowyard.platform.addresses import Address
from flowyard.schemas.errors import InvalidRequestError

BACKLOG = 2048
#: Time that whoever may listen on a socket file gets to take a connection.
_PROBE_S = 1.0


class Listener:
    """One open socket. As a context manager it closes the socket in the end, and removes its file.

    Args:
        address: Where to listen.

    Raises:
        InvalidRequestError: It cannot be listened on; the message names the address and the reason.

    Attributes:
        socket: Listens.
        address: Where it listens, with the port that was given for 0.
    """

    def __init__(self, address: Address) -> None:
        try:
            self.socket = _open_file(Path(address.path)) if address.scheme == "unix" else _open_port(address)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            shown = address.path if address.scheme == "unix" else f"{address.host}:{address.port}"
            raise InvalidRequestError(f"cannot listen on {shown}: {reason}") from None
        self._file = _identity(Path(address.path)) if address.scheme == "unix" else None
        self.address = address if self._file else Address(address.scheme, *self.socket.getsockname()[:2])

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        path = Path(self.address.path)
        if self._file is not None and _identity(path) == self._file:
            path.unlink(missing_ok=True)


def _open_port(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with contextlib.ExitStack() as undo:
        opened = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address.host, address.port))
        opened.listen(BACKLOG)
        undo.pop_all()
    return opened


def _open_file(path: Path) -> socket.socket:
    _remove_stale(path)
    with contextlib.ExitStack() as undo:
        opened = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        opened.bind(str(path))
        opened.listen(BACKLOG)
        undo.pop_all()
    return opened


def _remove_stale(path: Path) -> None:
    """Removes a socket file that nobody listens on any more, which a server that was killed leaves behind; nothing else."""
    found = _identity(path)
    if found is None:
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise InvalidRequestError(f"cannot listen on {path}: something that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise InvalidRequestError(f"cannot listen on {path}: somebody may listen there: {error.strerror or error}") from None
    raise InvalidRequestError(f"cannot listen on {path}: another server listens there")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
