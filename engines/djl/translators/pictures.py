"""From a request to the pixels of its image. Decoding is Pillow's, with bounds; nothing is fetched from elsewhere."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from typing import Any

import numpy as np

from flowyard.engines.djl.translators.base import JSON_TYPE, content_type
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import decode_json

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
#: What the largest phones' cameras give; in colours these are 150 MB.
MAX_PIXELS = 50_000_000
_NO_IMAGE = "Input is not an Image data type"
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def read_image(message: Message) -> bytes:
    """The image file of a request: its body, or in JSON a data URL as `image_url`.

    Args:
        message: The request.

    Returns:
        The file.

    Raises:
        InvalidInputError: There is none, or it is said to lie elsewhere.
    """
    if content_type(message) != JSON_TYPE:
        if not message.data:
            raise InvalidInputError("Input data is empty.")
        return message.data
    value = decode_json(message.data)
    if not isinstance(value, dict):
        raise InvalidInputError("Invalid JsonObject input.")
    url = value.get("image_url")
    if not isinstance(url, str):
        raise InvalidInputError('Missing "image_url" in json.')
    found = _DATA_URL.match(url)
    if found is None:
        raise InvalidInputError(
            f"image_url: expected data:image/…;base64,…, got {url[:60]!r}; nothing is fetched: send the image itself"
        )
    try:
        return base64.b64decode(url[found.end() :], validate=True)
    except binascii.Error as error:
        raise InvalidInputError(f"image_url: broken base64: {error}") from None


def decode_image(file: bytes, *, gray: bool) -> Array:
    """Reads an image file.

    Args:
        file: The file.
        gray: Whether one channel of gray is wanted, not three of colours.

    Returns:
        Bytes by row, column and channel. Transparency is dropped, as DJL drops it, and the orientation that a camera notes is
        not applied.

    Raises:
        InvalidInputError: It is no image of a known format, broken, or too large.
    """
    from PIL import Image  # noqa: PLC0415 - a server without such models runs without it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(file), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InvalidInputError(f"{_NO_IMAGE}: {image.width} x {image.height} pixels are more than {MAX_PIXELS}")
                return _pixels(image, gray=gray)
        except (InvalidInputError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - decoders raise what they like at a broken file
            known = ", ".join(FORMATS)
            raise InvalidInputError(f"{_NO_IMAGE}: {_reason(error)} (known are {known})") from None


def _reason(error: Exception) -> str:
    # Pillow names the object in memory.
    return "cannot identify the format" if "identify image file" in str(error) else str(error)


def _pixels(image: Any, *, gray: bool) -> Array:
    mode: str = image.mode
    if mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        level = np.clip(wide // 257 if wide.max(initial=0) > 255 else wide, 0, 255).astype(np.uint8)[..., None]
        return level if gray else level.repeat(3, axis=2)
    if mode in ("L", "1") and gray:
        return np.asarray(image.convert("L"))[..., None]
    colours = np.asarray(image.convert("RGB"))
    if not gray:
        return colours
    # The weights of ITU-R BT.601, and Java's rounding.
    return np.floor(colours @ np.array([0.299, 0.587, 0.114], np.float32) + 0.5).astype(np.uint8)[..., None]


def encode_png(pixels: Array) -> bytes:
    """An image of bytes, by row, column and colour, as PNG."""
    from PIL import Image  # noqa: PLC0415 - as above

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
