"""What is predicted for, as a body: JSON, bytes, arrays, or a file."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flowyard.platform.client.errors import InvalidArgumentError
from flowyard.platform.client.uploads import Upload, file_body
from flowyard.schemas.codecs import ndlist, npy, npz, safetensors
from flowyard.schemas.codecs.arrays import is_tensors
from flowyard.schemas.codecs.content import is_json, media_type
from flowyard.schemas.codecs.registry import BY_TYPE
from flowyard.schemas.errors import NotAcceptableError
from flowyard.schemas.values import Value, to_jsonable

JSON = "application/json"
BYTES = "application/octet-stream"
_SUFFIXES = {
    ".json": JSON,
    ".npy": npy.MEDIA_TYPE,
    ".npz": npz.MEDIA_TYPE,
    ".safetensors": safetensors.MEDIA_TYPE,
    ".ndlist": ndlist.MEDIA_TYPE,
}


def body_of(data: Value | Path, content_type: str | None = None) -> tuple[str, bytes | Upload]:
    """Makes a body.

    Args:
        data: A file (`Path`), bytes, an array, a list or mapping of arrays, or any JSON value.
        content_type: What it is. Without it: what a file's suffix says; `application/octet-stream` for bytes; `tensor/npy` for
            one array, `tensor/npz` for a mapping of them, `tensor/ndlist` for a list; else `application/json`.

    Returns:
        Content-Type and body.

    Raises:
        InvalidArgumentError: The value cannot be told in this content type, or the file cannot be read.
    """
    if isinstance(data, Path):
        kind = content_type or file_type(data)
        return kind, file_body(data, kind)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return content_type or BYTES, bytes(data)
    if isinstance(data, Mapping) and not isinstance(data, dict):
        data = dict(data)
    kind = content_type or _usual_type(data)
    return kind, _encoded(data, kind)


def file_type(path: Path) -> str:
    """What a file is, going by its suffix."""
    return _SUFFIXES.get(path.suffix.lower()) or mimetypes.guess_type(path.name, strict=False)[0] or BYTES


def _usual_type(data: Value) -> str:
    if not is_tensors(data):
        return JSON
    if isinstance(data, np.ndarray):
        return npy.MEDIA_TYPE
    return npz.MEDIA_TYPE if isinstance(data, dict) else ndlist.MEDIA_TYPE


def _encoded(data: Value, content_type: str) -> bytes:
    kind = media_type(content_type)
    if kind in BY_TYPE:
        if not is_tensors(data):
            raise InvalidArgumentError(f"{kind} holds arrays; got {type(data).__name__}")
        try:
            return BY_TYPE[kind].encode(data)
        except NotAcceptableError as error:
            raise InvalidArgumentError(error.message) from None
    if is_json(kind):
        return _json(data)
    if isinstance(data, str):
        return data.encode()
    raise InvalidArgumentError(f"how a {type(data).__name__} is told as {content_type} is not known: give bytes or text")


def _json(data: Any) -> bytes:
    try:
        return msgspec.json.encode(data, enc_hook=_jsonable)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"this cannot be told in JSON: {error}") from None


def _jsonable(item: Any) -> Any:
    if isinstance(item, np.generic):
        return item.item()
    if isinstance(item, np.ndarray):
        return to_jsonable(item)
    raise TypeError(f"an object of type {type(item).__name__}")
