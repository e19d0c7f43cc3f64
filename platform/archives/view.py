"""The files of one folder, as those see it who check a workflow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flowyard.schemas.errors import TooLargeError


class FolderView:
    """Looks into a folder and never out of it, not even through links."""

    def __init__(self, folder: Path, max_read_bytes: int = 64 * 2**20) -> None:
        """Starts looking.

        Args:
            folder: The folder.
            max_read_bytes: Largest file that is read.
        """
        self._root = Path(os.path.realpath(folder))
        self._max_read_bytes = max_read_bytes

    def exists(self, path: str) -> bool:
        """Tells whether there is a file or folder.

        Args:
            path: Path inside the folder.

        Returns:
            Whether it is there; `False` for a path that leads out.
        """
        real = self._real(path)
        return real is not None and os.access(real, os.F_OK)

    def read(self, path: str) -> bytes | None:
        """Reads a file.

        Args:
            path: Path inside the folder.

        Returns:
            The contents, `None` where there is no regular file.

        Raises:
            TooLargeError: The file has more than `max_read_bytes`.
        """
        real = self._real(path)
        if real is None or not real.is_file():
            return None
        if real.stat().st_size > self._max_read_bytes:
            raise TooLargeError(f"{path} has more than {self._max_read_bytes} bytes")
        return real.read_bytes()

    def names(self) -> Iterator[str]:
        """Lists all files.

        Yields:
            Paths inside the folder, separated by `/`, sorted within each folder.
        """
        for folder, folders, files in os.walk(self._root):
            folders.sort()
            for file in sorted(files):
                name = (Path(folder) / file).relative_to(self._root).as_posix()
                if self.exists(name):
                    yield name

    def _real(self, path: str) -> Path | None:
        if "\0" in path or path.startswith("/"):
            return None
        real = Path(os.path.realpath(self._root / path))
        return real if real.is_relative_to(self._root) else None
