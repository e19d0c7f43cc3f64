"""npy: one array as `numpy.save` writes it, versions 1.0 to 3.0. Never unpickles, never evaluates the header."""

from __future__ import annotations

import math
import re
import sys
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from flowyard.schemas.codecs.arrays import (
    BIG,
    LITTLE,
    MAX_AXES,
    NUMERIC,
    Array,
    Body,
    Element,
    cannot_hold,
    contents,
    parts_of,
    view,
)
from flowyard.schemas.errors import InvalidInputError, NotAcceptableError
from flowyard.schemas.values import SMALL_ARRAY_BYTES, Encoded, SmallArray, Value, array_tree

MAGIC = b"\x93NUMPY"
MEDIA_TYPE = "tensor/npy"
#: Longest header; numpy's own limit.
MAX_HEADER_BYTES = 10_000
_ALIGNMENT = 64
_IS_LITTLE = sys.byteorder == "little"
_ENTRY = re.compile(
    rb"""\s* (?P<q>['"]) (?P<key>\w{1,20}) (?P=q) \s* : \s*
    (?: (?P<r>['"]) (?P<text>[^'"\\]{0,100}) (?P=r) | (?P<bool>True|False) | \( (?P<shape>[^()]*) \) )
    \s* (?: (?:,\s*)? (?P<end>\}) | , )""",
    re.VERBOSE,
)
_STRUCTURED = re.compile(rb"""\s*['"]descr['"]\s*:\s*\[""")
#: Python 2 wrote the L.
_AXIS = re.compile(rb"\d{1,18}L?")
_KINDS = {np.dtype(name).str[1:]: name for name in NUMERIC}
_ELEMENTS = {
    order + kind: (BIG if order == ">" else LITTLE)[name]
    for kind, name in _KINDS.items()
    for order in ("<>=|" if kind.endswith("1") else "<>=")
}
_OTHERS = {"O": "Python objects", "M": "datetime64", "m": "timedelta64", "U": "strings", "S": "bytes", "V": "structured"}


class Header(NamedTuple):
    """What the header of an npy file says.

    Attributes:
        element: How the elements are stored.
        fortran: Whether the first axis varies fastest.
        shape: Size per axis.
        tree: That of the array's binary form, where its contents are just what the file has.
        size_bytes: Length of the contents then.
    """

    element: Element
    fortran: bool
    shape: tuple[int, ...]
    tree: bytes = b""
    size_bytes: int = 0


def decode(body: Body) -> Array:
    """Reads an npy file.

    Args:
        body: The file.

    Returns:
        The array: a read-only view of the body where it is stored in this machine's byte order.

    Raises:
        InvalidInputError: It is no npy file, or one of a dtype that is no number.
    """
    header, offset = _head_of(body)
    return view(body, header.element, header.shape, offset, len(body) - offset, fortran=header.fortran)


def lay_out(body: Body) -> tuple[Encoded, tuple[int, ...]] | None:
    """Reads an npy file as far as is needed to hand its array on.

    Args:
        body: The file.

    Returns:
        The binary form of the array, and its shape; `None` where `decode` has something to convert or to find fault with.

    Raises:
        InvalidInputError: It is no npy file.
    """
    header, offset = _head_of(body)
    if not header.tree or len(body) - offset != header.size_bytes:
        return None
    return Encoded(header.tree, (memoryview(body)[offset:],)), header.shape


def _head_of(body: Body) -> tuple[Header, int]:
    """The header, and where the contents begin."""
    if len(body) < 12 or body[:6] != MAGIC:
        raise InvalidInputError(f"expected npy, which begins with {MAGIC!r}, got {len(body)} bytes: {bytes(body[:6])!r}")
    if body[6] == 1:
        start, size = 10, body[8] | body[9] << 8
    elif body[6] in (2, 3):
        start, size = 12, int.from_bytes(body[8:12], "little")
    else:
        raise InvalidInputError(f"expected npy version 1.0, 2.0 or 3.0 at byte 6, got {body[6]}.{body[7]}")
    if body[7] or size > MAX_HEADER_BYTES or start + size > len(body):
        raise InvalidInputError(
            f"expected an npy header of at most {MAX_HEADER_BYTES} bytes at byte {start}, "
            f"got version {body[6]}.{body[7]} with {size} of {len(body) - start} bytes"
        )
    offset = start + size
    return _parse(bytes(body[start:offset])), offset


@lru_cache(maxsize=256)
def _parse(text: bytes) -> Header:
    """Reads a header. The requests of one client mostly have the same: it is read once."""
    entries = _entries(text)
    if entries.keys() != {b"descr", b"fortran_order", b"shape"}:
        found = ", ".join(key.decode("ascii", "replace") for key in entries) or "none"
        raise InvalidInputError(f"expected the keys descr, fortran_order and shape in the npy header, got {found}")
    descr, fortran, shape = entries[b"descr"], entries[b"fortran_order"], entries[b"shape"]
    if descr["text"] is None or fortran["bool"] is None or shape["shape"] is None:
        raise InvalidInputError("expected text, a bool and a tuple for descr, fortran_order and shape in the npy header")
    header = Header(_element(descr["text"].decode("latin-1")), fortran["bool"] == b"True", _axes(shape["shape"]))
    return _with_tree(header)


def _with_tree(header: Header) -> Header:
    stored = header.element.stored
    if not header.element.as_is or header.fortran or len(header.shape) > MAX_AXES:
        return header
    size_bytes = math.prod(header.shape) * stored.itemsize
    if size_bytes <= SMALL_ARRAY_BYTES:
        return header
    return header._replace(tree=array_tree(stored.str, header.shape), size_bytes=size_bytes)


def _entries(text: bytes) -> dict[bytes, re.Match[bytes]]:
    """The entries of the mapping that a header is."""
    text = text.rstrip()
    entries: dict[bytes, re.Match[bytes]] = {}
    place, ended = 1, False
    while not ended:
        entry = _ENTRY.match(text, place) if text.startswith(b"{") else None
        if entry is None or entry["key"] in entries:
            if _STRUCTURED.match(text, place):
                raise InvalidInputError("expected an array of numbers or bools, got a structured npy dtype")
            raise InvalidInputError(f"expected a mapping as npy header, got {text[place : place + 40]!r} at byte {place} of it")
        entries[entry["key"]] = entry
        place, ended = entry.end(), entry["end"] is not None
    if place != len(text):
        raise InvalidInputError(f"expected the end of the npy header at byte {place} of it, got {text[place : place + 40]!r}")
    return entries


def _axes(text: bytes) -> tuple[int, ...]:
    items = [item.strip() for item in text.split(b",")]
    if not items[-1]:
        items.pop()
    if not all(map(_AXIS.fullmatch, items)):
        raise InvalidInputError(f"expected a tuple of sizes as npy shape, got ({text[:100].decode('latin-1')})")
    return tuple(int(item.rstrip(b"L")) for item in items)


def _element(descr: str) -> Element:
    element = _ELEMENTS.get(descr)
    if element is None:
        kind = _OTHERS.get(descr.lstrip("<>=|")[:1])
        raise InvalidInputError(
            f"expected an array of numbers or bools, got the npy dtype {descr[:50]!r}{f' ({kind})' if kind else ''}"
        )
    return element


def encode(value: Value) -> bytes:
    """Writes an npy file.

    Args:
        value: An array, or a list of one.

    Returns:
        The file.

    Raises:
        NotAcceptableError: It is several arrays, or one of strings.
    """
    if isinstance(value, np.ndarray):
        return write(value)
    parts = parts_of(value)
    if len(parts) != 1 or parts[0][0] is not None:
        raise NotAcceptableError(f"{MEDIA_TYPE} holds one unnamed array; ask for tensor/npz to get several or named ones")
    return write(parts[0][1])


def write(array: Array) -> bytes:
    """Writes one array as npy 1.0.

    Raises:
        NotAcceptableError: It is an array of strings.
    """
    plain = contents(array)
    descr = plain.dtype.str
    if descr not in _ELEMENTS:
        raise cannot_hold(MEDIA_TYPE, array)
    return b"".join((_head(descr, array.shape), plain.data))


def encode_small(array: SmallArray) -> bytes | None:
    """Writes a small array from its binary form; `None` where `encode` has something to convert or to find fault with."""
    if array.dtype not in _ELEMENTS or not _IS_LITTLE:
        return None
    return _head(array.dtype, array.shape) + array.contents


@lru_cache(maxsize=256)
def _head(descr: str, sizes: tuple[int, ...]) -> bytes:
    """Everything before the elements. Models give results of few shapes: each is written once."""
    shape = f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(map(str, sizes))})"
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    size = -(-(10 + len(text) + 1) // _ALIGNMENT) * _ALIGNMENT - 10
    return MAGIC + b"\x01\x00" + size.to_bytes(2, "little") + text.encode().ljust(size - 1) + b"\n"
