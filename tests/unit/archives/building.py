"""Archives for tests, well-formed and malicious ones."""

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path


def zip_bytes(members, compression=zipfile.ZIP_DEFLATED) -> bytes:
    """Packs (name or ZipInfo, contents) pairs; names are written as they are."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as opened:
        warnings.simplefilter("ignore", UserWarning)
        for name, contents in members:
            opened.writestr(name, contents)
    return buffer.getvalue()


def zip_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def entry_field(data: bytes, offset: int, value: int) -> bytes:
    """Overwrites a 16-bit field of the first entry in a ZIP archive's list of members."""
    start = data.index(b"PK\x01\x02") + offset
    return data[:start] + struct.pack("<H", value) + data[start + 2 :]


def tar_bytes(members, form=tarfile.PAX_FORMAT) -> bytes:
    """Packs (name or TarInfo, contents) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as opened:
        for name, contents in members:
            info = tar_info(name, tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE) if isinstance(name, str) else name
            info.size = len(contents)
            opened.addfile(info, io.BytesIO(contents))
    return buffer.getvalue()


def tar_info(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def write(folder: Path, data: bytes, name: str = "archive") -> Path:
    file = folder / name
    file.write_bytes(data)
    return file


def tree(folder: Path) -> dict[str, bytes]:
    """Contents by relative name; folders end in a slash."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        found[name + "/" * path.is_dir()] = b"" if path.is_dir() else path.read_bytes()
    return found


#: A ModelProto with ir_version, graph and opset_import.
ONNX = b"\x08\x0a\x3a\x02\x0a\x00\x42\x02\x10\x11"
