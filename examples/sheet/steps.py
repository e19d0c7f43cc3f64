"""The functions of the sheet workflow: an image to cells, and scores of cells to an answer."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 8  # a cell, and what the models see
MAX_CELLS = 1_000
HEADER = re.compile(rb"P5\s+(\d{1,6})\s+(\d{1,6})\s+255\s", re.DOTALL)

Floats = NDArray[np.float32]


def cut(image: Any) -> list[Floats]:
    """Cut a binary PGM image into its cells, row by row; white digits on black, 8x8 pixels each."""
    if not isinstance(image, bytes):
        raise ValueError("a PGM image is expected as the request's body; send it as image/x-portable-graymap")
    header = HEADER.match(image)
    if header is None:
        raise ValueError("a binary PGM image with 256 grey values is expected: `P5 WIDTH HEIGHT 255`, then the pixels")
    width, height = int(header[1]), int(header[2])
    pixels = image[header.end() :]
    if width % SIDE or height % SIDE or not 0 < width * height <= MAX_CELLS * SIDE * SIDE:
        raise ValueError(f"an image of 1 to {MAX_CELLS} cells of {SIDE}x{SIDE} pixels is expected, not {width}x{height} pixels")
    if len(pixels) != width * height:
        raise ValueError(f"the image has {len(pixels)} pixels where {width}x{height} are announced")
    grey = np.frombuffer(pixels, np.uint8).astype(np.float32) / np.float32(255)
    cells = grey.reshape(height // SIDE, SIDE, width // SIDE, SIDE).swapaxes(1, 2).reshape(-1, 1, 1, SIDE, SIDE)
    return list(cells)


def certainty(scores: list[Any]) -> float:
    """How probable the best digit of the least certain cell is."""
    return min(float(np.max(cell)) for cell in scores)


def read(quick: list[Any], careful: list[Any] | None) -> dict[str, Any]:
    """The digits of the sheet in reading order, by one model or by the mean of two."""
    first = np.reshape(np.asarray(quick, np.float64), (-1, 10))
    scores = first if careful is None else (first + np.reshape(np.asarray(careful, np.float64), (-1, 10))) / 2
    return {
        "text": "".join(map(str, scores.argmax(1))),
        "confidence": round(float(scores.max(1).min()), 4),
        "models": 1 if careful is None else 2,
    }
