"""State that lasts from one request of a client to the next, in files that all workers of a model share (DJL §7.1)."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NEW_SESSION = "NEW_SESSION"
DEFAULT_EXPIRATION_S = 1200
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EXPIRATION = ".expiration_ts"


class Session:
    """The values of one client.

    Attributes:
        session_id: Its identifier.
        expiration_ts: When it ends, in seconds since the epoch.
    """

    def __init__(self, session_id: str, session_root: str, expiration_ts: float | None = None) -> None:
        self.session_id = session_id
        self.files_path = str(Path(session_root, session_id))
        self.expiration_ts: float | None = self.get(_EXPIRATION) if expiration_ts is None else expiration_ts

    def put(self, key: str, value: Any) -> None:
        """Keeps a value; another worker sees it whole or not at all."""
        path = self._path(key)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(pickle.dumps(value))
        partial.replace(path)

    def get(self, key: str, d: Any = None) -> Any:
        """A value, `d` where there is none."""
        try:
            return pickle.loads(self._path(key).read_bytes())  # noqa: S301
        except FileNotFoundError:
            return d

    def get_as_numpy(self, key: str, shape: tuple[int, ...], dtype: Any = np.float32, create: bool = False) -> Any:
        """An array that lives in the file: what is written into it is kept.

        Raises:
            FileNotFoundError: There is none of that name, and `create` is not asked for.
        """
        return np.memmap(self._path(key), dtype=dtype, mode="w+" if create else "r+", shape=shape)

    def remove(self) -> bool:
        """Forgets the session.

        Raises:
            ValueError: It is gone already.
        """
        if not Path(self.files_path).is_dir():
            raise ValueError(f"session not found: {self.session_id}")
        shutil.rmtree(self.files_path)
        return True

    def _path(self, key: str) -> Path:
        return Path(self.files_path, key.replace("/", "-"))


class SessionManager:
    """All sessions of a model.

    Args:
        properties: Of the initialising call: `sessions_path`, `sessions_expiration` in seconds.
    """

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.expiration = int(properties.get("sessions_expiration", DEFAULT_EXPIRATION_S))
        default = Path(tempfile.gettempdir(), f"flowyard-sessions-{os.getuid()}")
        self.sessions_path = str(properties.get("sessions_path", default))
        Path(self.sessions_path).mkdir(mode=0o700, parents=True, exist_ok=True)
        if Path(self.sessions_path).stat().st_uid != os.getuid():
            raise PermissionError(f"{self.sessions_path} belongs to another user")

    def create_session(self) -> Session:
        """Begins a session; those that have ended are forgotten first."""
        self._remove_expired()
        session_id = str(uuid.uuid4())
        session = Session(session_id, self.sessions_path, time.time() + self.expiration)
        Path(session.files_path).mkdir(mode=0o700)
        session.put(_EXPIRATION, session.expiration_ts)
        return session

    def get_session(self, session_id: str | None) -> Session | None:
        """A session; `None` for none, `NEW_SESSION`, and one that has ended.

        Raises:
            ValueError: There is none of that identifier.
        """
        if not session_id or session_id == NEW_SESSION:
            return None
        session = self._find(session_id)
        return None if _has_ended(session) else session

    def close_session(self, session_id: str | None) -> None:
        """Ends a session.

        Raises:
            ValueError: There is none of that identifier.
        """
        if not session_id:
            raise ValueError(f"invalid session_id: {session_id}")
        self._find(session_id).remove()

    def _find(self, session_id: str) -> Session:
        if not _ID.fullmatch(session_id) or not Path(self.sessions_path, session_id).is_dir():
            raise ValueError(f"session not found: {session_id}")
        return Session(session_id, self.sessions_path)

    def _remove_expired(self) -> None:
        for folder in Path(self.sessions_path).iterdir():
            if _ID.fullmatch(folder.name) and _has_ended(Session(folder.name, self.sessions_path)):
                shutil.rmtree(folder, ignore_errors=True)


def _has_ended(session: Session) -> bool:
    return session.expiration_ts is not None and time.time() > session.expiration_ts
