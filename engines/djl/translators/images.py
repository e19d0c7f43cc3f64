"""Models of images: classification and features. What all translators of images share is `ImageTranslator`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import (
    Input,
    NamedArray,
    Reading,
    Translator,
    json_answer,
    only_row,
    softmax,
    top,
)
from flowyard.engines.djl.translators.pictures import decode_image, encode_png, read_image
from flowyard.engines.djl.translators.tensors import BATCHIFIERS
from flowyard.engines.djl.translators.transforms import MAX_SIDE, Transform, pipeline
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import NodeError
from flowyard.schemas.messages import DATA, Message

DEFAULT_SIDE = 224
#: Most classes that are told at once.
MAX_TOP = 100_000


class Sizes(NamedTuple):
    """How large an image was, and how large the model saw it."""

    width: int
    height: int
    processed_width: int
    processed_height: int


class ImageTranslator(Translator):
    """Decodes an image and prepares it as the arguments say."""

    needs = (("PIL", "image"),)

    def __init__(self, arguments: Arguments) -> None:
        self.width = arguments.integer("width", DEFAULT_SIDE, 1, MAX_SIDE)
        self.height = arguments.integer("height", DEFAULT_SIDE, 1, MAX_SIDE)
        self._gray = arguments.choice("flag", "COLOR", ("COLOR", "GRAYSCALE")) == "GRAYSCALE"
        batchifier = arguments.choice("batchifier", "stack", BATCHIFIERS)
        self._has_rows = batchifier != "none"
        self.pads = batchifier == "padding"
        self._transforms: list[Transform] = [*self.first(arguments), *pipeline(arguments, self.width, self.height)]

    def first(self, _arguments: Arguments) -> list[Transform]:
        """What the family does to every image before anything else."""
        return []

    def read(self, message: Message) -> Reading:
        """Makes one array of the image; its sizes are the note."""
        image = decode_image(read_image(message), gray=self._gray)
        height, width = image.shape[:2]
        for transform in self._transforms:
            image = transform(image)
        channels_first = image.shape[0] in (1, 3)
        high, wide = image.shape[1:] if channels_first else image.shape[:2]
        array = np.ascontiguousarray(image[None] if self._has_rows else image)
        return Reading((Input("", array),), note=Sizes(width, height, wide, high))

    def row(self, outputs: Sequence[NamedArray], place: int = 0) -> Array:
        """What an output has for the image."""
        if self._has_rows:
            return only_row(outputs, place)
        if place >= len(outputs):
            raise NodeError(f"the model gives {len(outputs)} outputs; its translator needs {place + 1}")
        return outputs[place].array


class ImageClassification(ImageTranslator):
    """Answers the most probable classes, `[{"className", "probability"}]`."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._classes = class_names(arguments)
        self._top = arguments.integer("topK", 5, 1, MAX_TOP)
        self._softmax = arguments.flag("applySoftmax")

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Sorts the classes."""
        scores = self.row(outputs).reshape(-1)
        return json_answer(top(self._classes, softmax(scores) if self._softmax else scores, self._top))


class ImageFeatures(ImageTranslator):
    """Answers the model's output as a flat list of numbers."""

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Flattens the output."""
        return json_answer(self.row(outputs).astype(np.float32).reshape(-1))


class StyleTransfer(ImageTranslator):
    """Answers an image: the model's output, whose numbers go from -1 to 1, as PNG. No argument changes what the model sees."""

    def read(self, message: Message) -> Reading:
        """Makes one array of the image, channels first, of numbers from 0 to 255."""
        image = decode_image(read_image(message), gray=False)
        return Reading((Input("", image.transpose(2, 0, 1)[None].astype(np.float32)),))

    def write(self, outputs: Sequence[NamedArray], _reading: Reading, _message: Message) -> Message:
        """Writes the image."""
        pixels = np.squeeze(only_row(outputs))
        if pixels.ndim == 3 and pixels.shape[0] == 3:
            pixels = pixels.transpose(1, 2, 0)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise NodeError(f"the model's output is {pixels.shape}; expected an image of three colours")
        body = encode_png(np.clip((pixels + 1) * 128, 0, 255).astype(np.uint8))
        return Message(properties=(("Content-Type", "image/png"),), contents=((DATA, body),))


def class_names(arguments: Arguments) -> tuple[str, ...]:
    """The classes of a model: `synsetFileName`, else `synset`, else synset.txt.

    Raises:
        InvalidModelError: There are none, or `synsetUrl` says that they lie elsewhere.
    """
    if arguments.has("synsetUrl"):
        problem = "classes elsewhere are not fetched: put them into the model's folder and name the file with synsetFileName"
        raise arguments.refusal("synsetUrl", problem)
    if arguments.has("synset") and not arguments.has("synsetFileName"):
        return tuple(arguments.text("synset").split(","))
    return arguments.lines("synsetFileName", "synset.txt")
