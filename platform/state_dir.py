"""The state directory: the server's own, for nobody else to look into."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from flowyard.schemas.errors import ConflictError

#: The file of what is registered.
DATABASE = "registry.sqlite"
#: What the server puts into it; a folder that holds nothing of it may belong to somebody else as well.
_OURS = ("lock", DATABASE, "tokens.json")
MODE = 0o700


def prepare(state_dir: Path) -> None:
    """Makes the folder where it is absent, and closes it to others where it is ours: empty, or with what the server puts there.

    Where it was opened to the group of the workers (`let_through`) it stays so. A folder like `/tmp` that was named by mistake
    stays as it is; the files in it that matter have a mode of their own.
    """
    state_dir.mkdir(mode=MODE, parents=True, exist_ok=True)
    found = state_dir.stat()
    entries = [entry.name for entry in state_dir.iterdir()]
    if found.st_uid == os.geteuid() and found.st_mode & 0o067 and (not entries or any(name in entries for name in _OURS)):
        with contextlib.suppress(OSError):
            state_dir.chmod(MODE)


def let_through(folders: Iterable[Path], gid: int) -> None:
    """Lets a group find what is in folders whose names it knows, where workers run as another user.

    Args:
        folders: The state directory and those on the way to the unpacked archives, which are readable themselves.
        gid: The group.

    Raises:
        ConflictError: They are not ours.
    """
    for folder in folders:
        try:
            os.chown(folder, -1, gid)
            folder.chmod(0o710)
        except OSError as error:
            raise ConflictError(f"{folder} cannot be opened to the workers' group {gid}: {error.strerror}") from None


class StateDirLock:
    """Holds a state directory for one server; the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, state_dir: Path) -> None:
        """Takes the lock.

        Raises:
            ConflictError: Another server has it.
        """
        prepare(state_dir)
        self._fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise ConflictError(
                f"the state directory {state_dir} is in use by another server (process {holder or 'unknown'}); "
                "stop it, or give this one its own --state-dir"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets go of the directory."""
        os.close(self._fd)
