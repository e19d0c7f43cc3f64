"""The default handler `object_detector`."""

from __future__ import annotations

from typing import Any

from ts.handler_utils import images
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


class ObjectDetector(VisionHandler):
    """Tells the objects in each image: box by label, and score."""

    image_processing = images.Compose([images.ToTensor()])
    threshold = 0.5

    def postprocess(self, data: Any) -> Any:
        """Leaves out what is too improbable."""
        return [self._objects(found) for found in data]

    def _objects(self, found: Any) -> list[dict[str, Any]]:
        kept = found["scores"] >= self.threshold
        boxes, labels, scores = (found[key][kept].tolist() for key in ("boxes", "labels", "scores"))
        return [
            map_class_to_label([[box]], self.mapping, [[label]])[0] | {"score": score}
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
