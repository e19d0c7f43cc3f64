"""Unpacked archives on disk, each under the digest of what it came from.

    root/sha256/<digest>/    complete, never changed
    root/tmp/<random>        being written; whatever is here at the start is left over from a crash

A folder enters `sha256` by one rename after everything in it is on disk, so that there is never half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from flowyard.platform.archives.extract import check_size, extract
from flowyard.platform.archives.members import DEFAULT_LIMITS, Limits, Writer, refused, sync_folder
from flowyard.platform.archives.recognise import ARCHIVES, Kind, is_json, recognise
from flowyard.schemas.errors import InvalidArchiveError, NotFoundError

CHUNK_BYTES = 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")
#: For model files that come without an extension.
_SUFFIXES = {Kind.ONNX: "onnx", Kind.TORCH: "pt"}
#: What macOS adds beside the folder that was packed.
_IGNORED_AT_ROOT = "__MACOSX"
#: Where TorchServe's archives have their manifests: a folder that stays one, even where nothing else is in the archive.
_MANIFEST_FOLDERS = frozenset({"MAR-INF", "WAR-INF"})


class StoredArchive(msgspec.Struct, frozen=True):
    """One archive, model file or folder in the store.

    Attributes:
        digest: SHA-256 in hex: of an archive's bytes, or of the names and contents of a folder or single file.
        folder: Where its files are; the only folder at the root of an archive that has nothing else there.
        filename: Name of the file in `folder` where there is exactly one and nothing else, as for a model file; else empty.
    """

    digest: str
    folder: Path
    filename: str


class ArchiveStore:
    """Keeps unpacked archives. One process owns a root; its threads may add at the same time."""

    def __init__(self, root: Path) -> None:
        """Opens the store, and removes what a crash left half done.

        Args:
            root: Folder of the store, made when it is absent.
        """
        self._root = root
        self._kept = root / "sha256"
        self._tmp = root / "tmp"
        for folder in (self._kept, self._tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._tmp.iterdir():
            _remove(left)

    @property
    def folders(self) -> tuple[Path, Path]:
        """The folders on the way to what is unpacked."""
        return self._root, self._kept

    def add_file(self, path: Path, filename: str, limits: Limits, sha256: str = "") -> StoredArchive:
        """Adds an archive, a single model file or a workflow file.

        Args:
            path: The file, which must not change meanwhile.
            filename: What it is called; a model file keeps this name, less what could be unsafe in one.
            limits: How much it may hold.
            sha256: What the digest of the file has to be, in hex; empty for any.

        Returns:
            What is stored; the same as before when the same was added before.

        Raises:
            InvalidArchiveError: It is empty, broken or refused, it changed while it was read, or its digest is another.
            TooLargeError: It is over a limit of the settings.
        """
        before = _fingerprint(path)
        check_size(path, limits)
        known = _checked_digest(path, sha256) if sha256 else None
        kind = recognise(path, limits)
        digest = (known or _file_digest(path)) if kind in ARCHIVES else None
        if digest and (self._kept / digest).is_dir():
            return self.open(digest)
        with self._temporary_folder() as folder:
            if digest:
                extract(path, folder, limits)
            else:
                _copy_single(path, _single_name(path, filename, kind), folder, limits)
            if _fingerprint(path) != before:
                raise InvalidArchiveError("the file changed while it was read")
            return self._keep(folder, digest or tree_digest(folder))

    def add_directory(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> StoredArchive:
        """Adds a copy of a folder. Links are followed where they stay inside the folder.

        Args:
            path: The folder.
            limits: How much it may hold.

        Returns:
            What is stored; the same as before when the same was added before.

        Raises:
            InvalidArchiveError: A link leads out or in circles, or something is neither a file nor a folder.
            TooLargeError: It is over a limit of the settings.
        """
        root = Path(os.path.realpath(path))
        if Path(os.path.realpath(self._root)).is_relative_to(root):
            raise InvalidArchiveError("the folder holds the server's own state")
        with self._temporary_folder() as folder:
            with Writer(folder, limits) as writer:
                _copy_folder(root, root, "", writer)
                writer.check_not_empty()
            return self._keep(folder, tree_digest(folder))

    def open(self, digest: str) -> StoredArchive:
        """Finds what was added before.

        Args:
            digest: Its digest.

        Returns:
            What is stored.

        Raises:
            NotFoundError: Nothing is stored under this digest.
        """
        folder = self._kept / digest
        if not _DIGEST.fullmatch(digest) or not folder.is_dir():
            raise NotFoundError(f"No archive is stored under digest {digest[:64]!r}.")
        root = _root_of(folder)
        entries = list(root.iterdir())
        single = len(entries) == 1 and entries[0].is_file()
        return StoredArchive(digest, root, entries[0].name if single else "")

    def put_unused_aside(self, keep: Iterable[str]) -> list[Path]:
        """Takes what is not needed out of the store. Nothing may be added between asking what to keep and the end of this.

        Args:
            keep: Digests to keep.

        Returns:
            What `discard` is to remove from the disk; whatever of it a crash leaves there goes at the next start.
        """
        unused = sorted({entry.name for entry in self._kept.iterdir()} - set(keep))
        doomed = [self._temporary_path() for _ in unused]
        for digest, path in zip(unused, doomed, strict=True):
            (self._kept / digest).rename(path)
        return doomed

    def discard(self, doomed: Iterable[Path]) -> None:
        """Removes what was put aside; it may be large."""
        for path in doomed:
            _remove(path)

    @contextlib.contextmanager
    def temporary_file(self) -> Iterator[Path]:
        """Lends a file for an upload, on the file system of the store.

        Yields:
            An empty file; it is removed in the end.
        """
        path = self._temporary_path()
        path.touch(mode=0o600)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def temporary_path(self) -> Iterator[Path]:
        """Lends a place for something that is fetched, on the file system of the store.

        Yields:
            A path where nothing is; the file or folder that is there in the end is removed.
        """
        path = self._temporary_path()
        try:
            yield path
        finally:
            _remove(path)

    @contextlib.contextmanager
    def _temporary_folder(self) -> Iterator[Path]:
        path = self._temporary_path()
        path.mkdir()
        path.chmod(0o755)
        try:
            yield path
        finally:
            _remove(path)

    def _temporary_path(self) -> Path:
        return self._tmp / secrets.token_hex(16)

    def _keep(self, folder: Path, digest: str) -> StoredArchive:
        target = self._kept / digest
        try:
            folder.rename(target)
        except OSError:
            # Another thread that added the same was faster; a rename does not replace a folder that is not empty.
            if not target.is_dir():
                raise
        sync_folder(self._kept)
        return self.open(digest)


def tree_digest(folder: Path) -> str:
    """Digests a folder: the sorted names in it, and what the files hold.

    Args:
        folder: The folder, without links.

    Returns:
        SHA-256 in hex.
    """
    digest = hashlib.sha256()
    entries = {entry.relative_to(folder).as_posix(): entry for entry in folder.rglob("*")}
    for name in sorted(entries):
        contents = "/" if entries[name].is_dir() else _file_digest(entries[name])
        digest.update(f"{name}\0{contents}\0".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_digest(path: Path, sha256: str) -> str:
    digest = _file_digest(path)
    if digest != sha256.lower():
        raise InvalidArchiveError(f"the SHA-256 of the file is {digest}, the parameter sha256 says {sha256.lower()}")
    return digest


def _fingerprint(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _root_of(folder: Path) -> Path:
    entries = [entry for entry in folder.iterdir() if entry.name != _IGNORED_AT_ROOT]
    is_wrapped = len(entries) == 1 and entries[0].is_dir() and entries[0].name not in _MANIFEST_FOLDERS
    return entries[0] if is_wrapped else folder


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _copy_single(path: Path, name: str, into: Path, limits: Limits) -> None:
    with Writer(into, limits) as writer:
        writer.file(name, _chunks(path))


def _single_name(path: Path, filename: str, kind: Kind) -> str:
    if kind is Kind.WORKFLOW:
        return "workflow" + _workflow_suffix(path, filename)
    base = filename.replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, dot, suffix = _UNSAFE.sub("_", base).lstrip(".-").rpartition(".")
    if not dot:
        stem, suffix = suffix, _SUFFIXES.get(kind, "")
    return f"{stem[:100] or 'model'}.{suffix[:20]}".removesuffix(".")


def _workflow_suffix(path: Path, filename: str) -> str:
    """Goes by the name where it says something: a broken JSON file is to be reported as such."""
    suffix = Path(filename).suffix.lower()
    if suffix in (".json", ".yaml", ".yml"):
        return ".json" if suffix == ".json" else ".yaml"
    return ".json" if is_json(path.read_bytes()) else ".yaml"


def _copy_folder(root: Path, folder: Path, name: str, writer: Writer, above: tuple[Path, ...] = ()) -> None:
    if folder in above:
        raise refused(name, "a link that leads in circles")
    for entry in sorted(folder.iterdir()):
        inner = f"{name}/{entry.name}" if name else entry.name
        real = Path(os.path.realpath(entry))
        if not real.is_relative_to(root):
            raise refused(inner, "a link that leads out of the folder")
        mode = _mode(real, inner)
        if stat.S_ISDIR(mode):
            writer.folder(inner)
            _copy_folder(root, real, inner, writer, (*above, folder))
        elif stat.S_ISREG(mode):
            writer.file(inner, _chunks(real))
        else:
            raise refused(inner, "a special file; only regular files and folders are allowed")


def _mode(real: Path, name: str) -> int:
    try:
        return real.stat().st_mode
    except OSError as error:
        raise refused(name, f"it cannot be read: {error.strerror}") from error
