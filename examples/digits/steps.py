"""The two functions of the digits workflow: a PNG to the models' input, and their scores to the answer.

Only numpy and the standard library are needed. `decode` reads every PNG that is not interlaced.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 8  # the models see 8x8 pixels
MAX_SIDE = 4096
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
BAND = 256  # rows unfiltered at a time, which bounds the memory for large images

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Header(NamedTuple):
    """What the IHDR chunk says."""

    width: int
    height: int
    depth: int
    colour: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, without the filter byte in front of it."""
        return (self.width * self.depth * CHANNELS[self.colour] + 7) // 8

    @property
    def pixel_bytes(self) -> int:
        """The distance in bytes from a byte to its left neighbour, as the filters count it."""
        return max(1, self.depth * CHANNELS[self.colour] // 8)


# --- The functions that workflow.yaml names ---


def decode(image: bytes) -> Floats:
    """Turn a PNG, white digit on black, into the models' input: float32 [1, 1, 8, 8] between 0 and 1.

    Colours become luma, transparent pixels black, and an image of another size is averaged down to 8x8.

    Raises:
        ValueError: the request's body is not a PNG, or one that is broken, too large or interlaced.
    """
    if not isinstance(image, bytes | bytearray | memoryview):
        raise ValueError(f"a PNG image is expected as the request's body, not {_described(image)}; send it as image/png")
    pixels = _resized(read_png(bytes(image)))
    return pixels.astype(np.float32).reshape(1, 1, SIDE, SIDE)


def label(scores: Any, cnn: Any = None, mlp: Any = None) -> dict[str, Any]:
    """Name the most probable digit, and show what each model said on its own where their scores are given."""
    answer = _ranked(scores)
    models = {name: _ranked(own) for name, own in (("cnn", cnn), ("mlp", mlp)) if own is not None}
    return {**answer, "models": models} if models else answer


def _ranked(scores: Any) -> dict[str, Any]:
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    if values.size != 10:
        raise ValueError(f"ten scores are expected, one per digit, not {values.size}")
    best = int(values.argmax())
    rounded = [round(float(value), 6) for value in values]
    return {"label": best, "confidence": rounded[best], "scores": {str(digit): score for digit, score in enumerate(rounded)}}


def _described(value: Any) -> str:
    if value is None:
        return "an empty body"
    if isinstance(value, str):
        return "text"
    return "a JSON value or a form"


# --- Reading a PNG ---


def read_png(body: bytes) -> Floats:
    """Decode a PNG into its brightness: float32 [height, width] between 0 and 1.

    Raises:
        ValueError: with a sentence that says what is wrong with the image.
    """
    if not body:
        raise ValueError("a PNG image is expected as the request's body, which is empty")
    if not body.startswith(SIGNATURE):
        raise ValueError("a PNG image is expected as the request's body: it does not start with the PNG signature")
    header, palette, transparency, packed = _parts(body)
    rows = _unfiltered(_inflated(packed, header), header)
    samples = _samples(rows, header)
    return _brightness(samples, header, palette, transparency)


def _chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, data) of each chunk up to IEND, checking lengths and checksums."""
    position = len(SIGNATURE)
    while position + 12 <= len(body):
        length, kind = struct.unpack_from(">I4s", body, position)
        end = position + 12 + length
        name = kind.decode("ascii", "backslashreplace")
        if end > len(body):
            raise ValueError(f"the PNG is cut off: its {name} chunk of {length} bytes runs past the end")
        data = body[position + 8 : end - 4]
        if zlib.crc32(kind + data) != int.from_bytes(body[end - 4 : end], "big"):
            raise ValueError(f"the PNG is broken: the checksum of its {name} chunk does not match")
        if kind == b"IEND":
            return
        yield kind, data
        position = end
    raise ValueError("the PNG is cut off: its IEND chunk is missing")


def _parts(body: bytes) -> tuple[Header, bytes, bytes, bytes]:
    """Split the file into its header, palette, transparency and compressed pixels."""
    chunks = _chunks(body)
    kind, data = next(chunks, (b"", b""))
    if kind != b"IHDR":
        raise ValueError("the PNG is broken: its first chunk is not IHDR")
    header = _header(data)
    found: dict[bytes, list[bytes]] = {b"PLTE": [], b"tRNS": [], b"IDAT": []}
    for kind, data in chunks:
        if kind in found:
            found[kind].append(data)
        elif not kind[0] & 0x20:  # an upper-case first letter: not to be skipped
            raise ValueError(f"the PNG has a chunk that cannot be read: {kind.decode('ascii', 'backslashreplace')}")
    if not found[b"IDAT"]:
        raise ValueError("the PNG is broken: it has no IDAT chunk")
    if len(found[b"PLTE"]) > 1 or len(found[b"tRNS"]) > 1:
        raise ValueError("the PNG is broken: it has more than one PLTE or tRNS chunk")
    return header, b"".join(found[b"PLTE"]), b"".join(found[b"tRNS"]), b"".join(found[b"IDAT"])


def _header(data: bytes) -> Header:
    if len(data) != 13:
        raise ValueError(f"the PNG is broken: its IHDR chunk has {len(data)} bytes, not 13")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", data)
    if not width or not height:
        raise ValueError(f"the PNG is broken: its size is {width}x{height}")
    if width > MAX_SIDE or height > MAX_SIDE:
        raise ValueError(f"the PNG is too large: {width}x{height}, at most {MAX_SIDE}x{MAX_SIDE} is read")
    if depth not in DEPTHS.get(colour, ()):
        raise ValueError(f"the PNG is broken: there is no colour type {colour} of {depth} bits")
    if compression or filtering or interlace > 1:
        raise ValueError("the PNG is broken: its compression, filter or interlace method is unknown")
    if interlace:
        raise ValueError("the PNG is interlaced, which is not read here: save it without interlacing")
    return Header(width, height, depth, colour)


def _inflated(packed: bytes, header: Header) -> Bytes:
    """Decompress the pixels, never beyond the size the header announces: uint8 [height, 1 + row bytes]."""
    expected = header.height * (1 + header.row_bytes)
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(packed, expected + 1)
    except zlib.error as error:
        raise ValueError(f"the PNG is broken: its pixels cannot be decompressed ({error})") from None
    if len(raw) != expected or not stream.eof:
        amount = "more" if len(raw) > expected else "less"
        raise ValueError(f"the PNG is broken: its pixels are {amount} than {header.width}x{header.height} needs")
    return np.frombuffer(raw, np.uint8).reshape(header.height, -1)


def _unfiltered(lines: Bytes, header: Header) -> Bytes:
    """Undo the row filters: uint8 [height, row bytes]."""
    filters, rows = lines[:, 0], lines[:, 1:]
    if filters.max() > 4:
        raise ValueError(f"the PNG is broken: there is no row filter {filters.max()}")
    if not filters.any():
        return rows
    pixels = rows.reshape(header.height, -1, header.pixel_bytes)
    done = np.empty_like(pixels)
    above = np.zeros_like(pixels[0])
    for start in range(0, header.height, BAND):
        band = slice(start, start + BAND)
        done[band] = _unfiltered_band(filters[band], pixels[band], above)
        above = done[band][-1]
    return done.reshape(rows.shape)


def _unfiltered_band(filters: Bytes, pixels: Bytes, above: Bytes) -> Bytes:
    """Undo the filters of some rows, one diagonal at a time: a pixel needs only its left, upper and upper left neighbours.

    Pixel (y, x) lies at `slanted[x + y + 2, y + 1]`, so a diagonal is one row of it; row -1 is `above`, column -1 is zero.
    """
    height, width, depth = pixels.shape
    slanted = np.zeros((width + height + 1, height + 1, depth), np.int16)
    slanted[1 : width + 1, 0] = above
    for y in range(height):
        slanted[y + 2 : y + 2 + width, y + 1] = pixels[y]
    for diagonal in range(width + height - 1):
        low, high = max(0, diagonal - width + 1), min(height, diagonal + 1)
        here = slanted[diagonal + 2, low + 1 : high + 1]
        left, up = slanted[diagonal + 1, low + 1 : high + 1], slanted[diagonal + 1, low:high]
        here += _predicted(filters[low:high, None], left, up, slanted[diagonal, low:high])
        here &= 255
    done = np.empty_like(pixels)
    for y in range(height):
        done[y] = slanted[y + 2 : y + 2 + width, y + 1]
    return done


def _predicted(filters: Bytes, left: Any, up: Any, corner: Any) -> Any:
    """What the filters None, Sub, Up, Average and Paeth (0 to 4) have subtracted from each byte."""
    to_left, to_up = np.abs(up - corner), np.abs(left - corner)
    to_corner = np.abs(left + up - 2 * corner)
    paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
    return np.choose(filters, (np.int16(0), left, up, (left + up) >> 1, paeth))


def _samples(rows: Bytes, header: Header) -> NDArray[np.uint8 | np.uint16]:
    """Take rows of bytes apart into the samples they hold: [height, width, channels]."""
    shape = (header.height, header.width, CHANNELS[header.colour])
    if header.depth == 16:
        return np.ascontiguousarray(rows).view(">u2").astype(np.uint16).reshape(shape)
    if header.depth == 8:
        return rows.reshape(shape)
    shifts = np.arange(8 - header.depth, -1, -header.depth, dtype=np.uint8)
    split = (rows[:, :, None] >> shifts) & (2**header.depth - 1)
    return split.reshape(header.height, -1)[:, : header.width].reshape(shape)


# --- From samples to brightness ---


def _brightness(samples: Any, header: Header, palette: bytes, transparency: bytes) -> Floats:
    """Mix the channels into one between 0 and 1, a transparent pixel counting as black."""
    if header.colour == PALETTE:
        return _palette_brightness(palette, transparency)[_checked_indices(samples[:, :, 0], palette)]
    scale = np.float32(2**header.depth - 1)
    colours = 3 if header.colour in {RGB, RGBA} else 1
    grey = samples[:, :, :colours] @ (LUMA if colours == 3 else np.ones(1, np.float32)) / scale
    if header.colour in {GREY_ALPHA, RGBA}:
        return grey * (samples[:, :, -1] / scale)
    if transparency:
        grey[(samples == _transparent_colour(transparency, colours)).all(axis=2)] = 0
    return grey


def _palette_brightness(palette: bytes, transparency: bytes) -> Floats:
    count, rest = divmod(len(palette), 3)
    if rest or not 1 <= count <= 256:
        raise ValueError(f"the PNG is broken: its palette has {len(palette)} bytes")
    if len(transparency) > count:
        raise ValueError("the PNG is broken: its tRNS chunk is longer than its palette")
    grey = np.frombuffer(palette, np.uint8).reshape(count, 3) @ LUMA / np.float32(255)
    grey[: len(transparency)] *= np.frombuffer(transparency, np.uint8) / np.float32(255)
    return grey


def _checked_indices(indices: Any, palette: bytes) -> Any:
    if indices.max() >= len(palette) // 3:
        raise ValueError(f"the PNG is broken: a pixel names colour {indices.max()} of a palette of {len(palette) // 3}")
    return indices


def _transparent_colour(transparency: bytes, colours: int) -> Any:
    if len(transparency) != 2 * colours:
        raise ValueError(f"the PNG is broken: its tRNS chunk has {len(transparency)} bytes, not {2 * colours}")
    return np.frombuffer(transparency, ">u2")


def _resized(pixels: Floats) -> Floats:
    """Average boxes of the image down to 8x8; a pixel on the border of two boxes is shared in proportion."""
    height, width = pixels.shape
    if height == width == SIDE:
        return pixels
    return (_box_weights(height) @ pixels @ _box_weights(width).T).clip(0, 1)


def _box_weights(size: int) -> Floats:
    """The share of each of `size` pixels in each of the 8 boxes: [8, size], every row adding up to 1."""
    edges = np.arange(SIDE + 1) * size / SIDE
    starts = np.arange(size)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return (overlap.clip(0) * SIDE / size).astype(np.float32)
