"""npz: arrays by name in a ZIP archive of npy files, as `numpy.savez`, `numpy.savez_compressed` and DJL write it."""

from __future__ import annotations

import io
import zipfile

from flowyard.schemas.codecs import members, npy
from flowyard.schemas.codecs.arrays import Array, named, parts_of, value_of
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.values import Value

MEDIA_TYPE = "tensor/npz"
MAGIC = members.MAGIC
_SUFFIX = ".npy"


def recognise(body: bytes) -> bool:
    """Whether a body is npz for certain: a ZIP archive of which every member is an npy file by name."""
    if not body.startswith(MAGIC):
        return False
    try:
        listed = members.list_members(body)
    except InvalidInputError:
        return False
    return bool(listed) and all(member.name.endswith(_SUFFIX) for member in listed)


def decode(body: bytes) -> Value:
    """Reads an npz file.

    Args:
        body: The file.

    Returns:
        The arrays, see `value_of`; views of the body where they are stored uncompressed.

    Raises:
        InvalidInputError: It is no npz file, or one beyond the limits.
    """
    return value_of([(member.name.removesuffix(_SUFFIX) or None, _array(body, member)) for member in members.list_members(body)])


def _array(body: bytes, member: members.Member) -> Array:
    if not member.name.endswith(_SUFFIX):
        raise InvalidInputError(f"expected members named *.npy in npz, got {member.name[:100]!r}")
    try:
        return npy.decode(members.contents(body, member))
    except InvalidInputError as error:
        raise InvalidInputError(f"npz member {member.name[:100]!r}: {error.message}") from None


def encode(value: Value) -> bytes:
    """Writes an npz file, uncompressed.

    Args:
        value: An array, or a list or mapping of arrays; unnamed ones are written as `arr_0`, `arr_1`, ...

    Returns:
        The file.

    Raises:
        NotAcceptableError: There is an array of strings.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in named(parts_of(value)):
            archive.writestr(zipfile.ZipInfo(name + _SUFFIX), npy.write(array))
    return buffer.getvalue()
