"""Models that say what each pixel of an image is, or which pixels an object has."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import NamedArray, Reading, json_answer
from flowyard.engines.djl.translators.detection import Detection, best_boxes, corners, detections
from flowyard.engines.djl.translators.images import ImageTranslator, Sizes, class_names
from flowyard.engines.djl.translators.transforms import MAX_SIDE, Transform, resize_short
from flowyard.schemas.errors import NodeError
from flowyard.schemas.messages import Message


class Segmentation(ImageTranslator):
    """What both share: an image is first resized in proportion."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self.classes = class_names(arguments)

    def first(self, arguments: Arguments) -> list[Transform]:
        """Resizes until the short edge has `shortEdge` pixels, or the long one `maxEdge`."""
        short = arguments.integer("shortEdge", 600, 1, MAX_SIDE)
        long = arguments.integer("maxEdge", 1000, 1, MAX_SIDE)
        return [functools.partial(resize_short, short=short, long=long)]


class SemanticSegmentation(Segmentation):
    """Answers `{"classes", "mask"}`: the number of the class of each pixel. The scores are the model's second output."""

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Finds the best class of each pixel."""
        scores = self.row(outputs, 1)
        if scores.ndim != 3 or scores.shape[0] < len(self.classes):
            raise NodeError(f"the model's scores are {scores.shape}; expected {len(self.classes)} classes, height and width")
        return json_answer({"classes": self.classes, "mask": scores[: len(self.classes)].argmax(axis=0)})


class InstanceSegmentation(Segmentation):
    """Answers objects as detectors do, each with the mask of its box. Outputs: classes, probabilities, boxes, masks."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._threshold = arguments.number("threshold", 0.3, 0, 1)

    def write(self, outputs: Sequence[NamedArray], reading: Reading, _message: Message) -> Message:
        """Takes what is over the threshold and no background; boxes become parts of the image's size."""
        numbers, probabilities, boxes = detections(self, outputs)
        masks = self.row(outputs, 3)
        sizes: Sizes = reading.note
        if len(masks) != len(numbers) or numbers.max(initial=0) >= len(self.classes):
            raise NodeError(f"the model gives {len(masks)} masks and classes up to {numbers.max(initial=0)}; expected a mask")
        parts = boxes / np.array([sizes.processed_width, sizes.processed_height] * 2)
        kept = np.flatnonzero((numbers >= 0) & (probabilities > self._threshold))
        ordered = kept[np.argsort(-probabilities[kept], kind="stable")]
        return json_answer(
            [
                {
                    "className": self.classes[numbers[i]],
                    "probability": float(probabilities[i]),
                    "boundingBox": {"rect": corners([*parts[i, :2], *(parts[i, 2:] - parts[i, :2])]), "mask": masks[i]},
                }
                for i in ordered
            ]
        )


class YoloSegmentation(Detection):
    """YOLO's objects with masks: outputs are a column per box, of box, classes and parts of masks, and what masks are made of."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._overlap = arguments.number("nmsThreshold", 0.4, 0, 1)

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Takes the best of the boxes that cover each other; a mask is as large as those of the model, and 0 or 1."""
        columns, prototypes = self.row(outputs), self.row(outputs, 1)
        begin = 4 + len(self.classes)
        if columns.ndim != 2 or prototypes.ndim != 3 or columns.shape[0] != begin + len(prototypes):
            expected = f"expected 4 + {len(self.classes)} + n numbers times boxes, and n prototypes of masks"
            raise NodeError(f"the model's outputs are {columns.shape} and {prototypes.shape}; {expected}")
        rows = columns.T[columns[4:begin].max(axis=0) > self.threshold]
        probabilities = rows[:, 4:begin].max(axis=1)
        boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], axis=1)
        sizes = np.array([self.width, self.height] * 2)
        return json_answer(
            [
                {
                    "className": self.classes[rows[i, 4:begin].argmax()],
                    "probability": float(probabilities[i]),
                    "boundingBox": {
                        "rect": corners(boxes[i] / sizes),
                        "fullImageMask": True,
                        "mask": (np.tensordot(rows[i, begin:], prototypes, 1) > 0).astype(np.float32),
                    },
                }
                for i in best_boxes(boxes, probabilities, self._overlap)
            ]
        )
