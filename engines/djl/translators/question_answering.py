"""Models that find the answer to a question in a paragraph."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import JSON_TYPE, NamedArray, content_type, softmax
from flowyard.engines.djl.translators.texts import Prompts, TextTranslator, each, field, output_row, text_of
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import InvalidInputError, NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value, decode_json

_NO_ANSWER = "No valid answer span found in context. Ensure the paragraph/context contains relevant information."


class QuestionAnswering(TextTranslator):
    """Answers `{"answer"}` for `{"question", "paragraph"}`, which may be called `context` and stand below `inputs`."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._detail = arguments.flag("detail")

    def prompts(self, message: Message) -> Prompts:
        """Pairs of question and paragraph, in JSON or as the fields of a form."""
        if not message.contents:
            raise InvalidInputError("Input data is empty.")
        if content_type(message) == JSON_TYPE:
            value = decode_json(message.data)
            if isinstance(value, dict) and "question" not in value:
                value = value.get("inputs", value)
            return Prompts(*each(value, _pair))
        question, paragraph = field(message, "question"), field(message, "context", "paragraph")
        if question is None or paragraph is None:
            raise InvalidInputError("Missing question or context in input.")
        return Prompts([(question, paragraph)], listed=False)

    def answer(self, rows: Sequence[NamedArray], place: int, prompts: Prompts) -> Value:
        """Takes the paragraph's tokens from the most probable start to the most probable end."""
        encoding = prompts.encodings[place]
        of_paragraph = np.array([one == 1 for one in encoding.sequence_ids])
        if not of_paragraph.any():
            raise InvalidInputError(_NO_ANSWER)
        starts, ends = (_scores(output_row(rows, place, output), of_paragraph) for output in (0, 1))
        start, end = sorted((int(starts.argmax()), int(ends.argmax())))
        answer = self.tokenizer.decode(encoding.ids[start : end + 1]).strip()
        if not self._detail:
            return {"answer": answer}
        score = float(softmax(starts).max() * softmax(ends).max())
        # DJL has it as a text in the answer.
        detail = {"score": score, "start": start, "end": end, "answer": answer}
        return {"answer": msgspec.json.encode(detail).decode()}


def _pair(value: Value, name: str) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise InvalidInputError(f'{name}: expected an object with "question" and "paragraph"')
    paragraph = value.get("paragraph", value.get("context"))
    if value.get("question") is None or paragraph is None:
        raise InvalidInputError("Missing question or context in json.")
    return text_of(value["question"], "question"), text_of(paragraph, "paragraph")


def _scores(row: Array, of_paragraph: Array) -> Array:
    """The scores of the paragraph's tokens; those of all others count as nothing."""
    flat = row.reshape(-1)
    if len(flat) < len(of_paragraph):
        raise NodeError(f"the model gives {len(flat)} scores for {len(of_paragraph)} tokens")
    return np.where(of_paragraph, flat[: len(of_paragraph)], np.float32(-100_000))
