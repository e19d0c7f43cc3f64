"""Resizing as PyTorch's `interpolate` does, which DJL uses: half-pixel centres, no smoothing when an image gets smaller.

Pillow smooths, so that its pixels are other ones than those that a model served by DJL has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowyard.engines.inputs import Array

#: PyTorch's coefficient of cubic convolution.
_CUBIC = -0.75


class _Taps(NamedTuple):
    """For each place of an axis the places it is made of, and their weights."""

    places: Array
    weights: Array


def resize(image: Array, width: int, height: int, interpolation: str = "BILINEAR") -> Array:
    """Resizes an image.

    Args:
        image: Height, width and channels.
        width: Wanted width.
        height: Wanted height.
        interpolation: `NEAREST`, `BILINEAR`, `AREA` or `BICUBIC`.

    Returns:
        The image in the dtype it had; whole numbers are cut off, not rounded, as in DJL.
    """
    taps = INTERPOLATIONS[interpolation]
    sizes = (height, width)
    resized = image
    # What shrinks goes first, as the image in between may be larger than both otherwise.
    for axis in sorted((0, 1), key=lambda axis: sizes[axis] / image.shape[axis]):
        resized = _along(resized, axis, taps(image.shape[axis], sizes[axis]))
    if image.dtype.kind == "u":
        resized = np.clip(resized, 0, np.iinfo(image.dtype).max)
    return resized.astype(image.dtype)


def _along(image: Array, axis: int, taps: _Taps) -> Array:
    shape = [1, 1, 1]
    shape[axis] = -1
    total = np.zeros((), np.float32)
    for places, weights in zip(taps.places, taps.weights, strict=True):
        total = total + image.take(places, axis) * weights.reshape(shape)
    return total


def _nearest(before: int, after: int) -> _Taps:
    places = np.minimum(np.arange(after) * np.float32(before / after), before - 1).astype(np.int64)
    return _Taps(places[None], np.ones((1, after), np.float32))


def _centres(before: int, after: int) -> Array:
    centres: Array = (np.arange(after, dtype=np.float32) + np.float32(0.5)) * np.float32(before / after) - np.float32(0.5)
    return centres


def _bilinear(before: int, after: int) -> _Taps:
    centres = np.maximum(_centres(before, after), 0)
    first = np.minimum(centres.astype(np.int64), before - 1)
    far = (centres - first).astype(np.float32)
    return _Taps(np.stack([first, np.minimum(first + 1, before - 1)]), np.stack([1 - far, far]))


def _bicubic(before: int, after: int) -> _Taps:
    centres = _centres(before, after)
    first = np.floor(centres).astype(np.int64)
    far = centres - first
    places = np.clip(np.stack([first + step for step in (-1, 0, 1, 2)]), 0, before - 1)
    near, wide = [far, 1 - far], [far + 1, 2 - far]
    inner = [((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1 for x in near]
    outer = [((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC for x in wide]
    return _Taps(places, np.stack([outer[0], *inner, outer[1]]).astype(np.float32))


def _area(before: int, after: int) -> _Taps:
    index = np.arange(after)
    starts, ends = index * before // after, -(-(index + 1) * before // after)
    steps = np.arange(int((ends - starts).max()))[:, None]
    inside = steps < ends - starts
    return _Taps(np.minimum(starts + steps, before - 1), (inside / (ends - starts)).astype(np.float32))


INTERPOLATIONS: dict[str, Callable[[int, int], _Taps]] = {
    "NEAREST": _nearest,
    "BILINEAR": _bilinear,
    "AREA": _area,
    "BICUBIC": _bicubic,
}
