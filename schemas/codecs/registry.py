"""Which codec is meant: by content type, or by the first bytes where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flowyard.schemas.codecs import ndlist, npy, npz, safetensors
from flowyard.schemas.values import Encoded, SmallArray, Value


class Codec(NamedTuple):
    """How one format is read and written.

    Attributes:
        decode: Body to value; an `InvalidInputError` says what is wrong with the body.
        encode: Value to body; a `NotAcceptableError` says what the format cannot hold.
        lay_out: Body to the binary form of the one array that it is, and its shape, without making the array; `None`, and where
            there is no such function, it has to be decoded. Errors as for `decode`.
        encode_small: Binary form of a small array to body, without making the array; `None`, and where there is no such function,
            it has to be made.
    """

    decode: Callable[[bytes], Value]
    encode: Callable[[Value], bytes]
    lay_out: Callable[[bytes | memoryview], tuple[Encoded, tuple[int, ...]] | None] | None = None
    encode_small: Callable[[SmallArray], bytes | None] | None = None


def _decode_as_djl(body: bytes) -> Value:
    """Reads what DJL does under `tensor/ndlist`: any of its formats. No NDList begins like one of the others."""
    if body.startswith(npy.MAGIC):
        return npy.decode(body)
    if body.startswith(npz.MAGIC):
        return npz.decode(body)
    return safetensors.decode(body) if body[8:9] == b"{" else ndlist.decode(body)


NPY = Codec(npy.decode, npy.encode, npy.lay_out, npy.encode_small)
NPZ = Codec(npz.decode, npz.encode)
SAFETENSORS = Codec(safetensors.decode, safetensors.encode)
NDLIST = Codec(_decode_as_djl, ndlist.encode)

BY_TYPE = {
    ndlist.MEDIA_TYPE: NDLIST,
    npz.MEDIA_TYPE: NPZ,
    "application/x-npz": NPZ,
    npy.MEDIA_TYPE: NPY,
    "application/x-npy": NPY,
    safetensors.MEDIA_TYPE: SAFETENSORS,
}


def recognise(body: bytes) -> Codec | None:
    """The codec of a body that does not say what it is.

    Args:
        body: The body.

    Returns:
        The codec, where the first bytes leave no doubt: npy, npz (a ZIP archive with nothing but npy files) and NDList.
    """
    if body.startswith(npy.MAGIC):
        return NPY
    if ndlist.recognise(body):
        return NDLIST
    return NPZ if npz.recognise(body) else None
