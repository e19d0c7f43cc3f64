"""Models that find the joints of people in images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import NamedArray, Reading, json_answer
from flowyard.engines.djl.translators.detection import best_boxes
from flowyard.engines.djl.translators.images import ImageTranslator
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value

#: Most people that are told of.
MAX_PEOPLE = 300


class SimplePose(ImageTranslator):
    """One person: a map per joint of how probably it is where. Answers `{"joints": [{"x", "y", "confidence"}]}`."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._threshold = arguments.number("threshold", 0.2, 0, 1)

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Takes the most probable place of each joint, as part of the image's size."""
        maps = self.row(outputs)
        if maps.ndim != 3 or not maps.size:
            raise NodeError(f"the model's output is {maps.shape}; expected joints, height and width")
        count, height, width = maps.shape
        flat = maps.reshape(count, -1)
        best = flat.argmax(axis=1)
        probabilities = flat[np.arange(count), best]
        rows = np.stack([best % width / width, best // width / height, probabilities], axis=1)
        return json_answer(_joints(rows[probabilities > self._threshold]))


class YoloPose(ImageTranslator):
    """Several people: a column per box, of its centre and size, how sure it is, and place and probability of each joint."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._threshold = arguments.number("threshold", 0.25, 0, 1)
        self._overlap = arguments.number("nmsThreshold", 0.7, 0, 1)

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Takes the best of the boxes that cover each other, and tells the joints in each."""
        columns = self.row(outputs)
        if columns.ndim != 2 or columns.shape[0] < 8 or (columns.shape[0] - 5) % 3:
            raise NodeError(f"the model's output is {columns.shape}; expected 5 numbers and 3 for each joint, times boxes")
        rows = columns.T[columns[4] > self._threshold]
        boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], axis=1)
        best = best_boxes(boxes, rows[:, 4], self._overlap)[:MAX_PEOPLE]
        sizes = np.array([self.width, self.height, 1])
        return json_answer([_joints(rows[place, 5:].reshape(-1, 3) / sizes) for place in best])


def _joints(rows: Array) -> dict[str, Value]:
    return {"joints": [{"x": x, "y": y, "confidence": confidence} for x, y, confidence in rows.tolist()]}
