"""Lists of arrays as bytes: DJL's NDList."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flowyard.schemas.codecs import ndlist


def to_nd_list(arrays: Sequence[Any]) -> bytearray:
    """Encodes arrays, or what numpy makes one of, as an NDList."""
    return bytearray(ndlist.encode([np.asarray(array) for array in arrays]))


def from_nd_list(encoded: bytes | bytearray) -> list[Any]:
    """Decodes an NDList.

    Raises:
        InvalidInputError: It is none; the message says where.
    """
    value = ndlist.decode(bytes(encoded))
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]
