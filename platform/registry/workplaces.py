"""Folders of their own for handlers of TorchServe and MMS.

Their servers unpack an archive anew for each registration, and handlers write where their model is: what they unpack, compile or
remember. Here an archive is kept once, whoever registers it; so each deployment works in a folder with links to its files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from flowyard.platform.state_dir import let_through
from flowyard.platform.workers.confinement import Confinement
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.schemas.errors import storage_error
from flowyard.schemas.messages import Handlers

#: Whose handlers find what they have written only where they are registered.
_WRITERS: tuple[Handlers, ...] = ("torchserve", "mms")


class Workplaces:
    """Makes the folders, and removes them.

    Args:
        root: Where they are; what is left of an earlier life of the server goes.
        confinement: Who works there.
    """

    def __init__(self, root: Path, confinement: Confinement) -> None:
        self._root = root
        self._account = confinement.account
        shutil.rmtree(root, ignore_errors=True)

    def give(self, specs: Mapping[str, PoolSpec]) -> dict[str, PoolSpec]:
        """Gives the pools whose handlers may write a folder of their own.

        Args:
            specs: The pools.

        Returns:
            The pools, in these folders.

        Raises:
            StorageError: The disk does not take them.
        """
        given: dict[str, PoolSpec] = {}
        try:
            for key, spec in specs.items():
                given[key] = self._placed(spec) if spec.handlers in _WRITERS else spec
        except OSError as error:
            self.take_back(given.values())
            raise storage_error(error) or error from None
        return given

    def _placed(self, spec: PoolSpec) -> PoolSpec:
        if not self._root.is_dir():
            self._root.mkdir(parents=True)
            if self._account is not None:
                let_through((self._root,), self._account.gid)
        folder = self._root / secrets.token_hex(16)
        self._fill(Path(spec.root), folder)
        return msgspec.structs.replace(spec, root=str(folder))

    def _fill(self, source: Path, target: Path) -> None:
        target.mkdir()
        # Where workers run as another user they may read here, as in the archive; one model's could else change another's.
        target.chmod(0o755)
        with os.scandir(source) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    self._fill(Path(entry.path), target / entry.name)
                else:
                    _link(Path(entry.path), target / entry.name)

    def take_back(self, specs: Iterable[PoolSpec]) -> None:
        """Removes the folders of pools that are gone."""
        for spec in specs:
            if Path(spec.root).parent == self._root:
                shutil.rmtree(spec.root, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """The same file under another name; where that cannot be, as on another file system, a reference to it."""
    with contextlib.suppress(OSError):
        if not source.is_symlink():
            os.link(source, target)
            return
    target.symlink_to(source.resolve())
