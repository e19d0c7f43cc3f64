"""What is done to an image before a model sees it, by the keys and with the defaults of DJL's image translators."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.resampling import INTERPOLATIONS, resize
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import InvalidInputError

#: Height, width and channels in; the same, or channels first, out.
Transform: TypeAlias = Callable[[Array], Array]

MAX_SIDE = 8_192
#: Mean and deviation of ImageNet's red, green and blue.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_RANGES = ("0,1", "-1,1")


def pipeline(arguments: Arguments, width: int, height: int) -> list[Transform]:
    """The transforms that the arguments name, in DJL's order.

    Args:
        arguments: `pad resize resizeShort centerCrop centerFit toTensor normalize range`.
        width: Wanted width.
        height: Wanted height.

    Returns:
        The transforms.

    Raises:
        InvalidModelError: A bad argument.
    """
    found = [_pad(arguments), _resize(arguments, width, height), _resize_short(arguments, width, height)]
    if arguments.flag("centerCrop"):
        found.append(functools.partial(center_crop, width=width, height=height))
    if arguments.flag("centerFit"):
        found.append(functools.partial(center_fit, width=width, height=height))
    if arguments.flag("toTensor", default=True):
        found.append(to_tensor)
    found += [_normalize(arguments), _range(arguments)]
    return [one for one in found if one is not None]


def _pad(arguments: Arguments) -> Transform | None:
    value = arguments.text("pad", "false").lower()
    if value == "false":
        return None
    number = 0.0 if value == "true" else arguments.parsed("pad", value, 0, 255)
    return functools.partial(pad_square, value=number)


def _resize(arguments: Arguments, width: int, height: int) -> Transform | None:
    value = arguments.text("resize", "false").lower()
    if value in ("true", "false"):
        return functools.partial(resize, width=width, height=height) if value == "true" else None
    wide, high, interpolation = _sizes(arguments, "resize", value, 1)
    return functools.partial(resize, width=wide, height=high or wide, interpolation=interpolation)


def _resize_short(arguments: Arguments, width: int, height: int) -> Transform | None:
    value = arguments.text("resizeShort", "false").lower()
    if value in ("true", "false"):
        return functools.partial(resize_short, short=max(width, height)) if value == "true" else None
    short, long, interpolation = _sizes(arguments, "resizeShort", value, -1)
    if short < 1 and not long:
        raise arguments.refusal("resizeShort", f"expected a short edge of at least 1, or a long edge behind it, got {value!r}")
    return functools.partial(resize_short, short=short, long=long, interpolation=interpolation)


def _sizes(arguments: Arguments, key: str, value: str, low: int) -> tuple[int, int, str]:
    """`A`, `A,B` or `A,B,INTERPOLATION`; B is 0 where it is absent."""
    parts = [part.strip() for part in value.split(",")]
    if len(parts) > 3:
        raise arguments.refusal(key, f"expected true, false or up to two numbers and an interpolation, got {value!r}")
    first = int(arguments.parsed(key, parts[0], low, MAX_SIDE))
    second = int(arguments.parsed(key, parts[1], low, MAX_SIDE)) if len(parts) > 1 else 0
    interpolation = parts[2].upper() if len(parts) > 2 else "BILINEAR"
    if interpolation not in INTERPOLATIONS:
        raise arguments.refusal(key, f"expected one of {', '.join(INTERPOLATIONS)}, got {parts[2]!r}")
    return first, max(second, 0), interpolation


def _normalize(arguments: Arguments) -> Transform | None:
    value = arguments.text("normalize", "false").lower()
    if value == "false":
        return None
    if not arguments.flag("toTensor", default=True):
        raise arguments.refusal("normalize", "it needs toTensor=true")
    if value == "true":
        return functools.partial(normalize, mean=_MEAN, deviation=_DEVIATION)
    numbers = [arguments.parsed("normalize", part.strip(), -1e6, 1e6) for part in value.split(",")]
    if len(numbers) != 6 or not all(numbers[3:]):
        expected = "expected true, false, or 3 means and 3 deviations, none of which is 0"
        raise arguments.refusal("normalize", f"{expected}, got {value!r}")
    return functools.partial(normalize, mean=tuple(numbers[:3]), deviation=tuple(numbers[3:]))


def _range(arguments: Arguments) -> Transform | None:
    value = "".join(arguments.text("range").split())
    if not value:
        return None
    if value not in _RANGES:
        raise arguments.refusal("range", f"expected {' or '.join(_RANGES)}, got {value!r}")
    return _to_unit if value == _RANGES[0] else _to_signed


def _to_unit(image: Array) -> Array:
    return image / np.float32(255)


def _to_signed(image: Array) -> Array:
    return image / np.float32(128) - np.float32(1)


def to_tensor(image: Array) -> Array:
    """Channels first, as numbers from 0 to 1."""
    return np.ascontiguousarray((image / np.float32(255)).transpose(2, 0, 1))


def normalize(image: Array, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Array:
    """Subtracts a mean per channel and divides by a deviation."""
    shape = (-1, 1, 1)
    return (image - np.array(mean, np.float32).reshape(shape)) / np.array(deviation, np.float32).reshape(shape)


def pad_square(image: Array, value: float) -> Array:
    """Fills up the right or the bottom until both sides are as long."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest > MAX_SIDE:
        raise InvalidInputError(f"an image of {width} x {height} pixels is too long to be padded; {MAX_SIDE} are the limit")
    return np.pad(image, ((0, longest - height), (0, longest - width), (0, 0)), constant_values=image.dtype.type(value))


def short_edge_size(width: int, height: int, short: int, long: int) -> tuple[int, int]:
    """The size of an image whose short edge becomes `short`, or whose long one becomes `long` where it were longer."""
    least, most = min(width, height), max(width, height)
    new_short, new_long = short, most * short // least
    if short < 1 or 0 < long < new_long:
        new_short, new_long = max(1, least * long // most), long
    return (new_long, new_short) if width > height else (new_short, new_long)


def resize_short(image: Array, short: int, long: int = 0, interpolation: str = "BILINEAR") -> Array:
    """Resizes in proportion until the short edge has a length, or the long one where that would be too long."""
    width, height = short_edge_size(image.shape[1], image.shape[0], short, long)
    return resize(image, min(width, MAX_SIDE), min(height, MAX_SIDE), interpolation)


def center_crop(image: Array, width: int, height: int) -> Array:
    """Cuts out the middle; a side that is shorter stays as it is."""
    top, left = (max(0, math.trunc((have - want) / 2)) for have, want in zip(image.shape[:2], (height, width), strict=True))
    # DJL leaves a side that is longer by one pixel as it is.
    high, wide = (want if start else have for have, want, start in zip(image.shape, (height, width), (top, left), strict=False))
    return image[top : top + high, left : left + wide]


def center_fit(image: Array, width: int, height: int) -> Array:
    """Cuts out the middle of what is longer, and fills what is shorter up with 0 on both sides."""
    before = image.shape
    if before[1] > width or before[0] > height:
        image = center_crop(image, min(before[1], width), min(before[0], height))
    missing = [max(0, want - have) for have, want in zip(before[:2], (height, width), strict=True)]
    return np.pad(image, (*((one // 2, one - one // 2) for one in missing), (0, 0)))
