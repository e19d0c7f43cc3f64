"""Bodies for a model: given ones, or random ones that fit what the server says of it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from flowyard.platform.bench.target import Target
from flowyard.schemas.errors import InvalidRequestError, NotFoundError, UserError
from flowyard.schemas.tensors import Signature, TensorSpec

NPY = "application/x-npy"
JSON = "application/json"
BYTES = "application/octet-stream"
_TYPES = {".npy": NPY, ".json": JSON, ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".txt": "text/plain"}
#: Names and indices go into embeddings: a small one is in range of all of them.
_MAX_INTEGER = 2


class Body(msgspec.Struct, frozen=True):
    """What is sent.

    Attributes:
        content: The bytes.
        content_type: Their type.
    """

    content: bytes
    content_type: str


class _Model(msgspec.Struct, rename="camel"):
    model_name: str
    signature: Signature | None = None


class _Workflow(msgspec.Struct, rename="camel"):
    models: list[_Model]
    functions: dict[str, Any] | None = None


def given_body(path: Path, content: bytes, content_type: str | None) -> Body:
    """A body from a file or the standard input.

    Args:
        path: The file, for its suffix.
        content: What is in it.
        content_type: What the caller calls it; `None` goes by the suffix and the first byte.

    Returns:
        The body.
    """
    if content_type is None:
        content_type = _TYPES.get(path.suffix.lower(), JSON if content[:1] in (b"{", b"[") else BYTES)
    return Body(content, content_type)


def fitting_bodies(target: Target, name: str, seed: int = 0) -> list[Body]:
    """Random bodies for a model, from what the server tells about it.

    Args:
        target: The server.
        name: The model.
        seed: The same seed gives the same bodies.

    Returns:
        Those that ought to be taken, the smallest first: npy for a single numeric input, then JSON.

    Raises:
        NotFoundError: There is no such model.
        UserError: The server does not say what the model takes.
    """
    inputs = _signature(target, name).inputs
    source = np.random.default_rng(seed)
    arrays = {spec.name: _random(spec, source) for spec in inputs}
    bodies = [Body(_json(arrays), JSON)]
    if len(inputs) == 1 and inputs[0].dtype != "string":
        buffer = io.BytesIO()
        np.save(buffer, arrays[inputs[0].name], allow_pickle=False)
        bodies.insert(0, Body(buffer.getvalue(), NPY))
    return bodies


def _signature(target: Target, name: str) -> Signature:
    response = target.exchange(target.request("GET", f"/models/{quote(name, safe='')}"))
    unknown = UserError(f'the server does not say what "{name}" takes: give a body (--body FILE)')
    if response.status == 404:
        raise NotFoundError(f'{target} has no model "{name}"')
    try:
        versions = msgspec.json.decode(response.body, type=list[_Workflow]) if response.status == 200 else []
    except msgspec.MsgspecError:
        raise unknown from None
    if not versions or versions[-1].functions is not None or len(versions[-1].models) != 1:
        raise unknown
    signature = versions[-1].models[0].signature
    if signature is None or not signature.inputs or any(spec.shape is None or not spec.dtype for spec in signature.inputs):
        raise unknown
    return signature


def _random(spec: TensorSpec, source: np.random.Generator) -> np.ndarray[Any, np.dtype[Any]]:
    shape = tuple(1 if size < 0 else size for size in spec.shape or ())
    if math.prod(shape) > 100_000_000:
        raise InvalidRequestError(f'input "{spec.name}" is too large for a random body: give one (--body FILE)')
    if spec.dtype == "string":
        return np.full(shape, "flowyard", dtype=object)
    if np.dtype(spec.dtype).kind in "fc":
        return source.standard_normal(shape).astype(spec.dtype)
    return source.integers(0, _MAX_INTEGER, shape).astype(spec.dtype)


def _json(arrays: dict[str, np.ndarray[Any, np.dtype[Any]]]) -> bytes:
    if any(array.dtype.kind == "c" for array in arrays.values()):
        raise UserError("JSON has no complex numbers: give a body (--body FILE)")
    lists = {name: array.tolist() for name, array in arrays.items()}
    return msgspec.json.encode(next(iter(lists.values())) if len(lists) == 1 else lists)
