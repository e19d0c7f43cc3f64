"""The preparation of images that the default handlers need, with the results of torchvision, which they do not need then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image


class Compose:
    """Several steps, one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    """Scales an image so that its shorter side has a length."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        shorter = min(width, height)
        shape = (int(self.size * width / shorter), int(self.size * height / shorter))
        return image.resize(shape, Image.Resampling.BILINEAR)


class CenterCrop:
    """Cuts a square out of the middle of an image; what is outside of it is black."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))


class ToTensor:
    """Makes a tensor of an image: channels, rows, columns, from 0 to 1."""

    def __call__(self, image: Image.Image) -> Any:
        pixels = np.array(image)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return tensor.to(torch.float32) / 255 if tensor.dtype == torch.uint8 else tensor


class Normalize:
    """Subtracts a mean from each channel and divides by a deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, tensor: Any) -> Any:
        return (tensor - self.mean) / self.std
