"""Models that say what a text is, or which word is missing in it."""

from __future__ import annotations

from collections.abc import Sequence

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import NamedArray, Reading, sigmoid, softmax, top
from flowyard.engines.djl.translators.texts import Prompts, TextTranslator, output_row, read_prompts
from flowyard.schemas.errors import InvalidInputError, InvalidModelError, NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value

#: How many classes DJL tells of a text.
_TOLD = 5
_MULTI_LABEL = "multi_label_classification"


class TextClassification(TextTranslator):
    """Answers the five most probable classes of a text; they are those of config.json."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._labels = arguments.labels()
        independent = arguments.config().get("problem_type") == _MULTI_LABEL or len(self._labels) == 1
        self._probabilities = sigmoid if independent else softmax

    def prompts(self, message: Message) -> Prompts:
        """Texts."""
        return read_prompts(message)

    def answer(self, rows: Sequence[NamedArray], place: int, _prompts: Prompts) -> Value:
        """Sorts the classes."""
        return top(self._labels, self._probabilities(output_row(rows, place).reshape(-1)), _TOLD)


class FillMask(TextTranslator):
    """Answers what most probably stands in the place of the mask."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._mask = arguments.text("maskToken", "[MASK]")
        self._top = arguments.integer("topK", 5, 1, 10_000)
        self._mask_id: int | None = None

    def prepare(self) -> None:
        """Loads the tokenizer and looks the mask up."""
        super().prepare()
        self._mask_id = self.tokenizer.id_of(self._mask)
        if self._mask_id is None:
            raise InvalidModelError(f"maskToken {self._mask!r} is no token of the tokenizer")

    def prompts(self, message: Message) -> Prompts:
        """Texts, each with one mask."""
        return read_prompts(message)

    def read(self, message: Message) -> Reading:
        """Encodes the texts and looks for their masks."""
        reading = super().read(message)
        for encoding in reading.note.encodings:
            if self._mask_id not in encoding.ids:
                raise InvalidInputError(f"Mask token {self._mask} not found.")
            if encoding.ids.count(self._mask_id) > 1:
                raise InvalidInputError("Only one mask supported.")
        return reading

    def answer(self, rows: Sequence[NamedArray], place: int, prompts: Prompts) -> Value:
        """Decodes the most probable tokens one by one."""
        ids = prompts.encodings[place].ids
        scores = output_row(rows, place)
        if scores.ndim != 2 or len(scores) < len(ids):
            raise NodeError(f"the model's output for a text is {scores.shape}; expected {len(ids)} tokens and the vocabulary")
        probabilities = softmax(scores[ids.index(self._mask_id)])
        best = probabilities.argsort(kind="stable")[::-1][: self._top]
        return [
            {"className": self.tokenizer.decode([int(one)]).strip(), "probability": float(probabilities[one])} for one in best
        ]
