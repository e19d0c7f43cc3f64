"""Models that say of each word of a text what it is, such as the name of a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import NamedArray, softmax
from flowyard.engines.djl.translators.texts import Prompts, TextTranslator, output_row, read_prompts, tokens
from flowyard.engines.djl.translators.tokenizer import Encoding
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value

_NOTHING = "O"
_OF_WORDS = ("first", "average", "max")


class _Entity(NamedTuple):
    """A token, or several that belong together; `place` is -1 for several."""

    entity: str
    score: float
    place: int
    word: str
    start: int
    end: int
    ids: tuple[int, ...]
    probabilities: Array

    @property
    def kind(self) -> str:
        """The entity without the mark that says whether it begins here."""
        return self.entity[2:] if self.entity.startswith(("B-", "I-")) else self.entity


class TokenClassification(TextTranslator):
    """Answers `[{"entity", "score", "index", "word", "start", "end"}]`, without tokens that are nothing (`O`)."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self._labels = arguments.labels()
        self._softmax = arguments.flag("softmax", default=True)
        self._strategy = arguments.choice("aggregation_strategy", "none", ("none", "simple", *_OF_WORDS))

    def prompts(self, message: Message) -> Prompts:
        """Texts."""
        return read_prompts(message)

    def answer(self, rows: Sequence[NamedArray], place: int, prompts: Prompts) -> Value:
        """Names the tokens, and puts those together that the aggregation strategy says."""
        scores, encoding = output_row(rows, place), prompts.encodings[place]
        if scores.ndim != 2 or len(scores) < len(encoding.ids) or scores.shape[1] < len(self._labels):
            expected = f"expected {len(encoding.ids)} tokens and {len(self._labels)} classes"
            raise NodeError(f"the model's output for a text is {scores.shape}; {expected}")
        probabilities = softmax(scores, axis=1) if self._softmax else scores
        found = [self._token(encoding, index, probabilities[index]) for index in tokens(encoding)]
        if self._strategy in _OF_WORDS:
            found = self._words(found, str(prompts.texts[place]))
        if self._strategy != "none":
            found = self._groups(found)
        return [
            {"entity": one.entity, "score": one.score, "index": one.place, "word": one.word, "start": one.start, "end": one.end}
            for one in found
            if one.entity != _NOTHING
        ]

    def _token(self, encoding: Encoding, index: int, probabilities: Array) -> _Entity:
        best = int(probabilities[: len(self._labels)].argmax())
        start, end = encoding.offsets[index]
        word, number = encoding.tokens[index], encoding.ids[index]
        return _Entity(self._labels[best], float(probabilities[best]), index, word, start, end, (number,), probabilities)

    def _words(self, found: Sequence[_Entity], text: str) -> list[_Entity]:
        """Puts the parts of a word together: what does not begin at a space belongs to what comes before."""
        words: list[list[_Entity]] = []
        for one in found:
            if words and one.start > 0 and " " not in text[one.start - 1 : one.start + 1]:
                words[-1].append(one)
            else:
                words.append([one])
        return [self._word(parts) for parts in words]

    def _word(self, parts: Sequence[_Entity]) -> _Entity:
        if len(parts) == 1:
            return parts[0]
        entity, score = self._of_word(parts)
        return self._joined(parts, entity, score)

    def _of_word(self, parts: Sequence[_Entity]) -> tuple[str, float]:
        if self._strategy == "average":
            mean = np.stack([one.probabilities for one in parts]).mean(axis=0)
            best = int(mean[: len(self._labels)].argmax())
            return self._labels[best], float(mean[best])
        chosen = parts[0] if self._strategy == "first" else max(parts, key=lambda one: one.score)
        return chosen.entity, chosen.score

    def _groups(self, found: Sequence[_Entity]) -> list[_Entity]:
        """Puts neighbours of one kind together, unless one is marked as a beginning."""
        groups: list[list[_Entity]] = []
        for one in found:
            if groups and one.kind == groups[-1][-1].kind and not one.entity.startswith("B-"):
                groups[-1].append(one)
            else:
                groups.append([one])
        return [self._group(group) for group in groups]

    def _group(self, group: Sequence[_Entity]) -> _Entity:
        entity = group[0].entity
        kind = entity.partition("-")[2] if entity.find("-") > 0 else entity
        return self._joined(group, kind, sum(one.score for one in group) / len(group))

    def _joined(self, parts: Sequence[_Entity], entity: str, score: float) -> _Entity:
        ids = tuple(number for one in parts for number in one.ids)
        last = parts[-1]
        return _Entity(entity, score, -1, self.tokenizer.decode(ids), parts[0].start, last.end, ids, last.probabilities)
