"""Unpacking an archive into a folder, trusting nothing that it says."""

from __future__ import annotations

from pathlib import Path

from flowyard.platform.archives.members import Limits, Writer
from flowyard.platform.archives.recognise import ARCHIVES, Kind, recognise
from flowyard.platform.archives.tars import unpack_tar
from flowyard.platform.archives.zips import unpack_zip
from flowyard.schemas.errors import InvalidArchiveError, TooLargeError


def extract(archive: Path, into: Path, limits: Limits) -> None:
    """Unpacks a ZIP, tar or tar.gz archive.

    Only regular files and folders come out, under names that stay inside `into`, with modes 0644 and 0755, on disk (fsync).

    Args:
        archive: The archive; what it is called does not matter.
        into: An empty folder on the file system where the result is to stay; made when absent, empty again after a failure.
        limits: How much it may hold.

    Raises:
        InvalidArchiveError: It is no archive, broken, or a member is refused; the message names the member.
        TooLargeError: It is over a limit of the settings; the message names the setting.
    """
    check_size(archive, limits)
    kind = recognise(archive, limits)
    if kind not in ARCHIVES:
        raise InvalidArchiveError("the file is not a ZIP, tar or tar.gz archive")
    with Writer(into, limits, archive.stat().st_size) as writer:
        if kind is Kind.ZIP:
            unpack_zip(archive, writer, limits)
        else:
            unpack_tar(archive, writer, limits, zipped=kind is Kind.TAR_GZ)
        writer.check_not_empty()


def check_size(archive: Path, limits: Limits) -> None:
    """Refuses a file that is too large before any of it is read.

    Args:
        archive: The file.
        limits: How large it may be.

    Raises:
        TooLargeError: It is larger; the message names the setting.
    """
    size = archive.stat().st_size
    if size > limits.max_archive_bytes:
        raise TooLargeError(
            f"the archive has {size} bytes, {limits.max_archive_bytes} are allowed (setting max_archive_size_bytes)"
        )
