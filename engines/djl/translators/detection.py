"""Models that find objects in images: SSD and the families of YOLO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import NamedArray, Reading, json_answer
from flowyard.engines.djl.translators.images import ImageTranslator, Sizes, class_names
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value

MAX_BOXES = 1_000_000


class Detection(ImageTranslator):
    """What all detectors share: classes, a threshold, and answers `[{"className", "probability", "boundingBox"}]`."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self.classes = class_names(arguments)
        self.threshold = arguments.number("threshold", 0.2, 0, 1)
        self.apply_ratio = arguments.flag("applyRatio") or arguments.flag("optApplyRatio")

    def answer(self, found: Sequence[tuple[int, float, Array]]) -> Message:
        """Writes class, probability, and left, top, width and height of each object, the most probable first."""
        ordered = sorted(found, key=lambda one: -one[1])
        return json_answer([self._object(number, probability, box) for number, probability, box in ordered])

    def _object(self, number: int, probability: float, box: Array) -> Value:
        return {"className": self.class_name(number), "probability": probability, "boundingBox": {"rect": corners(box)}}

    def class_name(self, number: int) -> str:
        """The name of a class.

        Raises:
            NodeError: There is none of that number.
        """
        if number >= len(self.classes):
            raise NodeError(f"the model found an object of class {number}; there are {len(self.classes)} classes")
        return self.classes[number]

    def scaled(self, box: Array) -> Array:
        """A box as part of the wanted size, where that is asked for."""
        return box / self._size() if self.apply_ratio else box

    def _size(self) -> Array:
        return np.array([self.width, self.height] * 2, np.float64)


class SingleShotDetection(Detection):
    """SSD: outputs are classes, probabilities, and corners of boxes."""

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Takes what is over the threshold and no background."""
        numbers, probabilities, boxes = detections(self, outputs)
        kept = np.flatnonzero((numbers >= 0) & (probabilities > self.threshold))
        return self.answer([(int(numbers[i]), float(probabilities[i]), self.scaled(_measured(boxes[i]))) for i in kept])


class Yolo(Detection):
    """YOLO v3 as GluonCV exports it: outputs like those of SSD, boxes in pixels of the wanted size."""

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Takes what is not under the threshold, cut off at the edges of the image."""
        numbers, probabilities, boxes = detections(self, outputs)
        kept = np.flatnonzero((numbers >= 0) & (probabilities >= self.threshold))
        clipped = np.clip(boxes, 0, self._size()) / self._size()
        return self.answer([(int(numbers[i]), float(probabilities[i]), self.scaled(_measured(clipped[i]))) for i in kept])


class YoloV5(Detection):
    """YOLO v5: one row per box, of its centre, size, how sure it is, and a score per class."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._overlap = arguments.number("nmsThreshold", 0.4, 0, 1)
        self._remove_padding = arguments.flag("centerFit")
        if arguments.choice("outputType", "AUTO", ("AUTO", "BOX", "DETECT")) == "DETECT":
            raise arguments.refusal("outputType", "expected AUTO or BOX: export the model so that it gives boxes")

    def write(self, outputs: Sequence[NamedArray], reading: Reading, _message: Message) -> Message:
        """Takes the best of the boxes that cover each other."""
        numbers, probabilities, rows = self.candidates(self.row(outputs))
        kept = np.flatnonzero(probabilities > self.threshold)
        boxes = _from_centres(rows[kept])
        found = []
        for number in np.unique(numbers[kept]):
            places = kept[numbers[kept] == number]
            of_class = boxes[numbers[kept] == number]
            for place in best_boxes(of_class, probabilities[places], self._overlap):
                box = self._placed(of_class[place], reading.note)
                found.append((int(number), float(probabilities[places[place]]), box))
        return self.answer(found)

    def candidates(self, rows: Array) -> tuple[Array, Array, Array]:
        """Class, probability, and centre and size of each box."""
        width = 5 + len(self.classes)
        if rows.size % width:
            raise NodeError(f"the model's output of {rows.shape} numbers has no rows of 5 + {len(self.classes)} classes")
        rows = rows.reshape(-1, width)
        numbers = rows[:, 5:].argmax(axis=1)
        return numbers, rows[np.arange(len(rows)), 5 + numbers] * rows[:, 4], rows[:, :4]

    def _placed(self, box: Array, sizes: Sizes) -> Array:
        if not self._remove_padding:
            return self.scaled(box)
        before = np.array([sizes.width, sizes.height])
        # Whole pixels, cut off towards zero, as DJL computes them.
        padding = np.trunc((np.array([self.width, self.height]) - before) / 2)
        return np.concatenate([(box[:2] - padding) / before, box[2:] / before])


class YoloV8(YoloV5):
    """YOLO v8: one column per box, of its centre and size and a probability per class."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._most = arguments.integer("maxBox", 8400, 1, MAX_BOXES)

    def candidates(self, rows: Array) -> tuple[Array, Array, Array]:
        """Class, probability, and centre and size of the last boxes, of which there are at most `maxBox`."""
        if rows.ndim != 2 or rows.shape[0] - len(self.classes) not in (0, 4) or rows.shape[0] < 5:
            raise NodeError(f"the model's output is {rows.shape}; expected 4 + {len(self.classes)} classes times boxes")
        # Names may be given to the four numbers of a box too, as DJL allows.
        skipped = 4 - (rows.shape[0] - len(self.classes))
        columns = rows.T[-self._most :]
        numbers = columns[:, 4:].argmax(axis=1)
        return numbers + skipped, columns[np.arange(len(columns)), 4 + numbers], columns[:, :4]


def detections(translator: ImageTranslator, outputs: Sequence[NamedArray]) -> tuple[Array, Array, Array]:
    """Classes, probabilities and boxes of outputs that are those three.

    Raises:
        NodeError: They are not as many as each other, or boxes have no four numbers.
    """
    numbers, probabilities, boxes = (translator.row(outputs, place) for place in range(3))
    if boxes.size != 4 * numbers.size or probabilities.size != numbers.size:
        shapes = f"{numbers.shape}, {probabilities.shape} and {boxes.shape}"
        raise NodeError(f"the model's outputs are {shapes}; expected classes, probabilities, and four numbers of each box")
    return numbers.reshape(-1).astype(np.int64), probabilities.reshape(-1), boxes.reshape(-1, 4).astype(np.float64)


def corners(box: Iterable[float]) -> list[float]:
    """Left, top, right and bottom of a box that has left, top, width and height."""
    left, top, width, height = (float(number) for number in box)
    return [left, top, left + width, top + height]


def best_boxes(boxes: Array, probabilities: Array, overlap: float) -> list[int]:
    """The boxes that are left when of those that cover each other only the most probable stays.

    Args:
        boxes: Left, top, width and height of each.
        probabilities: How probable each is.
        overlap: From which part of their union on two cover each other.

    Returns:
        Places in `boxes`, the most probable first.
    """
    left = np.argsort(-probabilities, kind="stable")
    ends, areas = boxes[:, :2] + boxes[:, 2:], boxes[:, 2] * boxes[:, 3]
    best: list[int] = []
    while left.size:
        first, left = left[0], left[1:]
        best.append(int(first))
        common = np.minimum(ends[first], ends[left]) - np.maximum(boxes[first, :2], boxes[left, :2])
        shared = np.where((common < 0).any(axis=1), 0, common.prod(axis=1))
        union = areas[first] + areas[left] - shared
        left = left[shared < overlap * union]
    return best


def _measured(box: Array) -> Array:
    """Left, top, width and height of a box that has two corners."""
    return np.concatenate([box[:2], box[2:] - box[:2]])


def _from_centres(rows: Array) -> Array:
    sizes = rows[:, 2:4].astype(np.float64)
    return np.concatenate([np.maximum(0, rows[:, :2] - sizes / 2), sizes], axis=1)
