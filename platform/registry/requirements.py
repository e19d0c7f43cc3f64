"""What the `requirements.txt` of an archive names, where the settings allow that it is installed (DJL §7.1).

root/<digest of the archive>-<python>/    complete, for the workers of this archive only
root/tmp/                                 being written; left over from a crash at the start
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec
import structlog

from flowyard.engines.torchserve.folder import REQUIREMENTS
from flowyard.platform import state_dir as state
from flowyard.platform.settings import Settings
from flowyard.platform.workers.confinement import Confinement
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.schemas.errors import InvalidArchiveError, InvalidModelError
from flowyard.schemas.redaction import without_host_paths

log = structlog.stdlib.get_logger(__name__)

FILE = "requirements.txt"
#: Folder of an archive with packages that need not be fetched.
LINKS = "requirements"
#: Variables of the server's environment that keep pip off the network.
_OFFLINE = ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONSTRAINT")
NOT_INSTALLED = "requirements.txt is not installed (setting install_requirements)"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOLD_BYTES = 4000
_BLANKS = re.compile(r"\s+")


class Requirements:
    """Installs packages for archives, each into a folder of its own, once.

    Args:
        settings: Whether that is allowed, how, and how long it may take.
        root: Where the folders are.
        confinement: What the workers may; pip may no more.
    """

    def __init__(self, settings: Settings, root: Path, confinement: Confinement) -> None:
        self._settings = settings
        self._root = root
        self._tmp = root / "tmp"
        self._confinement = confinement
        self._locks: dict[str, asyncio.Lock] = {}
        self._running: set[subprocess.Popen[bytes]] = set()
        shutil.rmtree(self._tmp, ignore_errors=True)

    async def satisfy(self, specs: Mapping[str, PoolSpec]) -> dict[str, PoolSpec]:
        """Gives pools the packages that their archives ask for.

        Args:
            specs: The pools.

        Returns:
            The pools, with the folder of their packages.

        Raises:
            InvalidArchiveError: The requirements cannot be installed; the message says why.
        """
        return {key: await self._satisfy(spec) for key, spec in specs.items()}

    async def _satisfy(self, spec: PoolSpec) -> PoolSpec:
        root = Path(spec.root)
        digest = next((part for part in reversed(root.parts) if _DIGEST.fullmatch(part)), None)
        file = _file_of(spec)
        if digest is None or file is None:
            return spec
        if not self._settings.install_requirements:
            log.warning(NOT_INSTALLED, model=spec.name)
            return spec
        async with self._locks.setdefault(digest, asyncio.Lock()):
            target = self._root / f"{digest}-{sys.implementation.cache_tag}"
            if not target.is_dir():
                try:
                    await self._install(root, file, target)
                except InvalidArchiveError as error:
                    error.installing = spec.name
                    raise
        return msgspec.structs.replace(spec, packages=str(target))

    @contextlib.contextmanager
    def hint(self, specs: Mapping[str, PoolSpec]) -> Iterator[None]:
        """Names the setting where a module is missed that an archive might have had installed.

        Args:
            specs: The pools that are started within it.

        Raises:
            InvalidModelError: A model could not be loaded, with the hint.
        """
        # A pool that cannot be started has no folder any more.
        is_asked_for = any(_file_of(spec) is not None for spec in specs.values())
        try:
            yield
        except InvalidModelError as error:
            if self._settings.install_requirements or not is_asked_for or "ModuleNotFoundError" not in error.message:
                raise
            hinted = InvalidModelError(f"{error.message}; {NOT_INSTALLED}")
            hinted.starting = error.starting
            raise hinted from None

    def stop(self) -> None:
        """Cuts short what is being installed; who waits for it is told that it failed."""
        for process in self._running:
            _kill(process)

    def remove_unused(self, keep: Iterable[str]) -> None:
        """Removes the packages of archives that are not needed any more.

        Args:
            keep: Digests of the archives that are.
        """
        kept = set(keep)
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            if _DIGEST.match(folder.name) and folder.name[:64] not in kept:
                shutil.rmtree(folder, ignore_errors=True)
                self._locks.pop(folder.name[:64], None)

    async def _install(self, root: Path, file: str, target: Path) -> None:
        folder = self._tmp / secrets.token_hex(16)
        folder.mkdir(parents=True)
        account = self._confinement.account
        if account is not None:
            state.let_through((self._root, self._tmp), account.gid)
            os.chown(folder, account.uid, account.gid)
        try:
            with tempfile.TemporaryFile(dir=self._tmp) as output:
                await self._run_pip(root, file, folder, output)
            folder.chmod(0o755)
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _run_pip(self, root: Path, file: str, folder: Path, output: IO[bytes]) -> None:
        links = ("--find-links", LINKS) if (root / LINKS).is_dir() else ()
        fixed = ("install", "--target", str(folder), "--no-input", "--no-cache-dir", "--disable-pip-version-check", "-r", file)
        account = self._confinement.account
        started = time.monotonic()
        # In the loop's own thread, whose end is the end of the process; not by the loop, as uvloop knows no users and groups.
        process = subprocess.Popen(  # noqa: ASYNC220
            [
                *(sys.executable, "-m", "flowyard.engines.installation", *self._confinement.arguments(), "--"),
                *(*fixed, *links, *self._settings.pip_args),
            ],
            cwd=root,
            env=self._environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self._running.add(process)
        limit_s = self._settings.requirements_timeout_s
        try:
            status = await asyncio.to_thread(process.wait, limit_s)
        except subprocess.TimeoutExpired:
            raise InvalidArchiveError(f"{FILE} was not installed within {limit_s:g} s (setting requirements_timeout_s)") from None
        finally:
            self._running.discard(process)
            _kill(process)
            process.wait()
        if status:
            raise InvalidArchiveError(f"{FILE} cannot be installed: {_reason(output)}")
        log.info("installed requirements", seconds=round(time.monotonic() - started, 1))

    def _environment(self) -> dict[str, str]:
        offline = {name: os.environ[name] for name in _OFFLINE if name in os.environ}
        return self._confinement.environment(os.environ, 1) | offline


def _file_of(spec: PoolSpec) -> str | None:
    """The file in a pool's archive that names what is to be installed; a manifest of TorchServe may call it otherwise."""
    root = Path(spec.root)
    for name in (spec.properties.get(REQUIREMENTS, ""), FILE):
        file = (root / name).resolve()
        if name and file.is_file() and file.is_relative_to(root.resolve()):
            return name
    return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends pip and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _reason(output: IO[bytes]) -> str:
    """What pip says went wrong, in one line; the log has the end of its output."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TOLD_BYTES))
    text = output.read().decode("utf-8", "replace")
    log.error("pip failed", output=text)
    lines = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
    return _BLANKS.sub(" ", without_host_paths("; ".join(lines) or text.strip()))[:1000] or "pip says nothing"
