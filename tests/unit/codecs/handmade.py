"""Tensor bodies put together by hand, so that the tests do not read what the codecs themselves have written."""

from __future__ import annotations

import json
import struct


def npy(header: str | bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data


def utf(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">H", len(raw)) + raw


def ndarray(
    dtype: str,
    shape: tuple[int, ...],
    data: bytes = b"",
    *,
    version: int = 3,
    name: str | bytes | None = None,
    order: bytes = b"<",
    strings: tuple[str | bytes, ...] | None = None,
    sparse: str = "DENSE",
    layout: str | None = None,
) -> bytes:
    body = utf("NDAR") + struct.pack(">i", version)
    if version > 1:
        body += b"\x00" if name is None else b"\x01" + utf(name)
    layout = "?" * len(shape) if layout is None else layout
    body += utf(sparse) + utf(dtype) + struct.pack(f">i{len(shape)}q", len(shape), *shape)
    body += struct.pack(">i", len(layout)) + layout.encode("utf-16-be")
    if strings is not None:
        return body + struct.pack(">i", len(strings)) + b"".join(map(utf, strings))
    return body + (order if version > 2 else b"") + struct.pack(">i", len(data)) + data


def ndlist(*arrays: bytes) -> bytes:
    return struct.pack(">i", len(arrays)) + b"".join(arrays)


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
