"""The default handler `image_segmenter`."""

from __future__ import annotations

from typing import Any

import torch

from ts.handler_utils import images
from ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """Tells the most probable class of each pixel, and its probability."""

    image_processing = images.Compose(
        [
            images.Resize(256),
            images.CenterCrop(224),
            images.ToTensor(),
            images.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def postprocess(self, data: Any) -> Any:
        """Makes `[class, probability]` per pixel of the model's `out`."""
        best = torch.max(torch.softmax(data["out"], dim=1), dim=1)
        return torch.stack([best.indices.type(best.values.dtype), best.values], dim=3).tolist()
