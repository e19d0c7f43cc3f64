"""The default handler `image_classifier`."""

from __future__ import annotations

from typing import Any

import torch

from ts.handler_utils import images
from ts.handler_utils.timer import timed
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


class ImageClassifier(VisionHandler):
    """Tells the most probable classes of each image, by label."""

    topk = 5
    image_processing = images.Compose(
        [
            images.Resize(256),
            images.CenterCrop(224),
            images.ToTensor(),
            images.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )

    def set_max_result_classes(self, topk: int) -> None:
        """Sets how many classes are told."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """How many classes are told."""
        return self.topk

    @timed
    def postprocess(self, data: Any) -> Any:
        """Makes probabilities of the model's output."""
        probabilities, classes = torch.topk(torch.softmax(data, dim=1), self.topk, dim=1)
        return map_class_to_label(probabilities.tolist(), self.mapping, classes.tolist())
