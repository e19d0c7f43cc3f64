"""What a file is, told from its contents and never from its name."""

from __future__ import annotations

import enum
import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flowyard.platform.archives.members import DEFAULT_LIMITS, Limits
from flowyard.platform.archives.tars import BLOCK_BYTES, is_tar_header
from flowyard.platform.archives.zips import member_name, open_zip
from flowyard.schemas.errors import InvalidArchiveError

#: Longest text that is looked at as a workflow file.
MAX_WORKFLOW_BYTES = 2**20
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP_MAGIC = b"\x1f\x8b\x08"
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_YAML_KEY = re.compile(r"""^["']?(workflow|models)["']?\s*:\s*($|[#{&])""", re.MULTILINE)
_BRACED_KEY = re.compile(r"""[{,\s"'](workflow|models)["']?\s*:""")
_WORKFLOW_FILES = ("workflow.json", "workflow.yml", "workflow.yaml")
#: Fields of the ONNX ModelProto that are varints, and those that are length-delimited.
_ONNX_VARINTS = {1, 5}
_ONNX_BLOCKS = {2, 3, 4, 6, 7, 8, 14, 20, 25, 26}
_ONNX_GRAPH, _ONNX_OPSETS = 7, 8
#: One for each operator set, function and line of metadata: hundreds in large models.
_ONNX_MAX_FIELDS = 100_000


class Kind(enum.StrEnum):
    """What a file is.

    `ZIP` (also `.mar` and `.war`), `TAR` and `TAR_GZ` are archives to unpack. `TORCH` is what `torch.save`, `torch.jit.save` and
    `torch.export.save` write: a ZIP archive by format, but a single model file. `MODEL` is any other single file.
    """

    ZIP = "zip"
    TAR = "tar"
    TAR_GZ = "tar.gz"
    WORKFLOW = "workflow"
    ONNX = "onnx"
    TORCH = "torch"
    MODEL = "model"


ARCHIVES = frozenset({Kind.ZIP, Kind.TAR, Kind.TAR_GZ})


def recognise(file: Path, limits: Limits = DEFAULT_LIMITS) -> Kind:
    """Tells what a file is.

    Args:
        file: The file.
        limits: How many members a ZIP archive may list.

    Returns:
        The kind; whatever is neither an archive nor a workflow is taken for a model.

    Raises:
        InvalidArchiveError: It is empty, a broken archive, or a gzip file that holds no tar archive.
        TooLargeError: A ZIP archive that lists too many members.
    """
    with file.open("rb") as opened:
        head = opened.read(BLOCK_BYTES)
        if not head:
            raise InvalidArchiveError("the file is empty")
        if head.startswith(_ZIP_MAGIC):
            return _zip_kind(file, limits)
        if head.startswith(_GZIP_MAGIC):
            return _gzip_kind(file)
        if is_tar_header(head):
            return Kind.TAR
        if _is_onnx(opened):
            return Kind.ONNX
        opened.seek(0)
        return Kind.WORKFLOW if _is_workflow(opened.read(MAX_WORKFLOW_BYTES + 1)) else Kind.MODEL


def is_json(text: bytes) -> bool:
    """Tells the two notations of a workflow file apart.

    Args:
        text: The file.

    Returns:
        Whether it is meant as JSON: it starts with a brace.
    """
    return text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _zip_kind(file: Path, limits: Limits) -> Kind:
    with open_zip(file, limits) as opened:
        return Kind.TORCH if _is_torch(opened.infolist()) else Kind.ZIP


def _is_torch(members: list[zipfile.ZipInfo]) -> bool:
    """Looks for records that PyTorch stores without compression: `<name>/data.pkl`, or those of an exported program."""
    stored = {member_name(info) for info in members if info.compress_type == zipfile.ZIP_STORED}
    if {"serialized_exported_program.json", "version"} <= stored:
        return True
    names = {member_name(info) for info in members}
    tops = {name.split("/")[0] for name in names} - {".data"}
    if len(tops) != 1:
        return False
    top = tops.pop()
    if any(f"{top}/{file}" in names for file in _WORKFLOW_FILES):
        return False
    return {f"{top}/data.pkl", f"{top}/version"} <= stored or {f"{top}/archive_format", f"{top}/byteorder"} <= stored


def _gzip_kind(file: Path) -> Kind:
    try:
        with gzip.open(file) as opened:
            head = opened.read(BLOCK_BYTES)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidArchiveError(f"the gzip stream is broken: {error}") from error
    if not is_tar_header(head):
        raise InvalidArchiveError("the gzip file holds no tar archive")
    return Kind.TAR_GZ


def _is_onnx(file: BinaryIO) -> bool:
    """Walks over the top level of a protobuf message: ONNX has no magic number, but few other files are exactly a ModelProto."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    seen = set(_onnx_fields(file, size))
    return file.tell() == size and {_ONNX_GRAPH, _ONNX_OPSETS} <= seen


def _onnx_fields(file: BinaryIO, size: int) -> Iterator[int]:
    """Yields field numbers until the end; stops short of it, out of place, where the file is not a ModelProto."""
    for _ in range(_ONNX_MAX_FIELDS):
        if file.tell() == size:
            return
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        value = _varint(file)
        if wire == 2 and number in _ONNX_BLOCKS and 0 <= value <= size - file.tell():
            file.seek(value, os.SEEK_CUR)
        elif wire != 0 or number not in _ONNX_VARINTS:
            file.seek(0)
            return
        yield number


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return -1
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return -1


def _is_workflow(data: bytes) -> bool:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    if len(data) > MAX_WORKFLOW_BYTES or _NOT_TEXT.search(text):
        return False
    return bool((_BRACED_KEY if is_json(data) else _YAML_KEY).search(text))
