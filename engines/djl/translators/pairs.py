"""Models that compare two texts: rerankers, and classification by classes that the request names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import JSON_TYPE, NamedArray, Reading, content_type, json_answer, sigmoid, softmax
from flowyard.engines.djl.translators.texts import Prompts, TextTranslator, each, field, output_row, text_of
from flowyard.schemas.errors import InvalidInputError, InvalidModelError, NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value, decode_json

#: By either of these names two texts are sent.
_PAIRS = (("text", "text_pair"), ("key", "value"))
_TEMPLATE = "This example is {}."
_MODELS_WITH_TYPES = ("bert", "albert", "xlnet")


class CrossEncoder(TextTranslator):
    """Answers how well two texts fit together, `[score]`; for `{"query", "texts"}` or a list of pairs, a list of those."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._sigmoid = arguments.flag("sigmoid", default=True)

    def prompts(self, message: Message) -> Prompts:
        """Pairs of texts, in JSON or as the fields of a form."""
        if not message.contents:
            raise InvalidInputError("Input data is empty.")
        if content_type(message) != JSON_TYPE:
            return Prompts([_pair_of_fields(message)], listed=False)
        value = decode_json(message.data)
        if isinstance(value, dict) and "query" in value:
            return _ranking(value)
        return Prompts(*each(value, _pair))

    def answer(self, rows: Sequence[NamedArray], place: int, _prompts: Prompts) -> Value:
        """The model's numbers for the pair, from 0 to 1 unless `sigmoid` is false."""
        scores = output_row(rows, place).reshape(-1)
        return sigmoid(scores) if self._sigmoid else scores


def _pair_of_fields(message: Message) -> tuple[str, str]:
    for names in reversed(_PAIRS):
        first, second = (field(message, name) for name in names)
        if first is not None and second is not None:
            return first, second
    raise InvalidInputError("Missing key or value in input.")


def _ranking(value: dict[str, Value]) -> Prompts:
    texts = value.get("texts")
    if not isinstance(texts, list):
        raise InvalidInputError("texts: expected a list of texts to compare with the query")
    query = text_of(value["query"], "query")
    return Prompts([(query, text_of(text, f"texts[{place}]")) for place, text in enumerate(texts)], listed=True)


def _pair(value: Value, name: str) -> tuple[str, str]:
    if isinstance(value, dict):
        for first, second in _PAIRS:
            if first in value and second in value:
                return text_of(value[first], first), text_of(value[second], second)
    raise InvalidInputError(f"{name}: Missing text or text_pair in json.")


class _Question(NamedTuple):
    """What a request asks: which of the candidates a text is."""

    text: str
    candidates: list[str]
    multi_label: bool
    template: str


class ZeroShotClassification(TextTranslator):
    """Answers `{"sequence", "labels", "scores"}`, by a model that says whether one text follows from another."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        config = arguments.config(required=False)
        self._entails, self._contradicts = _numbers(config)
        self._includes_types = _takes_types(config) if config else arguments.flag("tokenTypeId")

    def prompts(self, message: Message) -> Prompts:
        """The text, once with each candidate."""
        question = _question(message)
        return Prompts([(question.text, _filled(question.template, one)) for one in question.candidates], listed=True)

    def answer(self, rows: Sequence[NamedArray], place: int, _prompts: Prompts) -> Value:
        """The model's scores for one candidate."""
        return output_row(rows, place).reshape(-1)

    def write(self, outputs: Sequence[NamedArray], reading: Reading, message: Message) -> Message:
        """Compares the candidates' scores."""
        question, prompts = _question(message), reading.note
        scores = np.stack([self.answer(outputs, place, prompts) for place in range(len(prompts.texts))])
        if scores.shape[1] <= max(self._entails, self._contradicts if scores.shape[1] > 2 else 0):
            raise NodeError(f"the model gives {scores.shape[1]} scores; that for a text that follows should be {self._entails}")
        if not question.multi_label and len(question.candidates) > 1:
            probabilities = softmax(scores[:, self._entails])
        elif scores.shape[1] == 2:
            probabilities = softmax(scores)[:, self._entails]
        else:
            probabilities = softmax(scores[:, [self._contradicts, self._entails]])[:, 1]
        order = np.argsort(-probabilities, kind="stable")
        labels = [question.candidates[place] for place in order]
        return json_answer({"sequence": question.text, "labels": labels, "scores": probabilities[order]})


def _question(message: Message) -> _Question:
    value = decode_json(message.data)
    if not isinstance(value, dict):
        raise InvalidInputError('expected an object with "text" and "candidate_labels"')
    parameters = value.get("parameters") or {}
    # What Hugging Face's clients send has the text as `inputs` and the rest below `parameters`.
    found = value | (parameters if isinstance(parameters, dict) else {})
    candidates = found.get("candidate_labels")
    if not isinstance(candidates, list) or not candidates:
        raise InvalidInputError("Missing candidates in input: candidate_labels is a list of texts")
    text = text_of(found.get("text", found.get("inputs")), "text")
    multi_label = found.get("multi_label", False)
    if not isinstance(multi_label, bool):
        raise InvalidInputError("multi_label: expected true or false")
    template = text_of(found.get("hypothesis_template") or _TEMPLATE, "hypothesis_template")
    labels = [text_of(one, f"candidate_labels[{place}]") for place, one in enumerate(candidates)]
    return _Question(text, labels, multi_label, template)


def _filled(template: str, candidate: str) -> str:
    return template.replace("{}", candidate, 1) if "{}" in template else template + candidate


def _numbers(config: dict[str, object]) -> tuple[int, int]:
    """The numbers of the classes of texts that follow, and that contradict."""
    entails, contradicts = 2, 0
    labels = config.get("label2id")
    for name, number in labels.items() if isinstance(labels, dict) else ():
        if not isinstance(number, int) or number < 0:
            raise InvalidModelError(f'config.json: "label2id" has {number!r} for {name!r}; expected a number from 0 on')
        if name.lower().startswith("entail"):
            entails = number
        elif name.lower().startswith("contra"):
            contradicts = number
    return entails, contradicts


def _takes_types(config: dict[str, object]) -> bool:
    size, kind = config.get("type_vocab_size"), str(config.get("model_type", "")).lower()
    return (isinstance(size, int) and size > 1) or kind in _MODELS_WITH_TYPES or kind.startswith("deberta")
