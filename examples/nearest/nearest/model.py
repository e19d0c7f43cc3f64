"""A DJL Serving handler: which digit an 8x8 image is nearest to, on the average. It runs unchanged there and here."""

import functools
from pathlib import Path

import numpy as np

from djl_python import Input, Output


@functools.cache
def centroids() -> np.ndarray:
    """The mean image of each digit, [10, 64]."""
    return np.load(Path(__file__).with_name("centroids.npy"))


def handle(inputs: Input) -> Output | None:
    """Answer a batch of requests; the first call, without contents, is the time to load."""
    if inputs.is_empty():
        centroids()
        return None
    output = Output()
    for index, request in enumerate(inputs.get_batches()):
        output.add_as_json(nearest(request.get_as_json()), batch_index=index)
    return output


def nearest(pixels: list[float]) -> dict[str, float]:
    """The digit whose mean image is nearest to 64 grey values from 0 to 255, and how far it is."""
    image = np.asarray(pixels, np.float32).reshape(64)
    distances = np.linalg.norm(centroids() - image, axis=1)
    best = int(distances.argmin())
    return {"label": best, "distance": round(float(distances[best]), 3)}
