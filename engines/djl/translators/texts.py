"""What translators of text share: reading prompts, and encoding them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from flowyard.engines.djl.translators.arguments import Arguments
from flowyard.engines.djl.translators.base import (
    JSON_TYPE,
    NamedArray,
    Reading,
    Translator,
    content_type,
    json_answer,
    only_row,
)
from flowyard.engines.djl.translators.tensors import BATCHIFIERS
from flowyard.engines.djl.translators.tokenizer import Encoding, Text, Tokenizer
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import InvalidInputError, NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import Value, decode_json

T = TypeVar("T")


class Prompts(NamedTuple):
    """The texts of a request.

    Attributes:
        texts: Each a text or a pair.
        listed: Whether the request sent a list, and gets one.
        encodings: Each as the model takes it, in the same order; empty before.
    """

    texts: Sequence[Text]
    listed: bool
    encodings: Sequence[Encoding] = ()


class TextTranslator(Translator):
    """Encodes texts, and answers for each, in a list where the request had one."""

    needs = (("tokenizers", "text"),)

    def __init__(self, arguments: Arguments) -> None:
        self.tokenizer = Tokenizer(arguments)
        self._includes_types = arguments.flag("includeTokenTypes")
        self.pads = arguments.choice("batchifier", "stack", BATCHIFIERS) == "padding"

    def prepare(self) -> None:
        """Loads the tokenizer."""
        self.tokenizer.load()

    @abc.abstractmethod
    def prompts(self, message: Message) -> Prompts:
        """Finds the texts of a request.

        Raises:
            InvalidInputError: There are none.
        """

    @abc.abstractmethod
    def answer(self, rows: Sequence[NamedArray], place: int, prompts: Prompts) -> Value:
        """What is answered for one text.

        Args:
            rows: The outputs, all of them with as many rows as there are texts.
            place: Which row is that of the text.
            prompts: The texts.

        Returns:
            A value for JSON.
        """

    def read(self, message: Message) -> Reading:
        """Encodes the texts; a model gets types of tokens if it asks for them or `includeTokenTypes` says so."""
        prompts = self.prompts(message)
        prompts = prompts._replace(encodings=self.tokenizer.encode(prompts.texts))
        ids, mask, types = self.tokenizer.inputs(prompts.encodings)
        inputs, spare = ((ids, mask, types), ()) if self._includes_types else ((ids, mask), (types,))
        return Reading(inputs, spare, prompts)

    def write(self, outputs: Sequence[NamedArray], reading: Reading, _message: Message) -> Message:
        """Answers for each text."""
        prompts: Prompts = reading.note
        count = len(prompts.texts)
        if any(not array.ndim or len(array) != count for _, array in outputs):
            shapes = ", ".join(str(array.shape) for _, array in outputs)
            raise NodeError(f"the model's outputs are {shapes}; expected a row for each of {count} texts")
        answers = [self.answer(outputs, place, prompts) for place in range(count)]
        return json_answer(answers if prompts.listed else answers[0])


def output_row(rows: Sequence[NamedArray], place: int, output: int = 0) -> Array:
    """What an output has for one text.

    Raises:
        NodeError: There is no such output.
    """
    return only_row([NamedArray(name, array[place:]) for name, array in rows], output)


def read_prompts(message: Message) -> Prompts:
    """Texts as DJL takes them: the body, or JSON: a text, a list of them, or either as `inputs`.

    Raises:
        InvalidInputError: There is none.
    """
    if not message.contents:
        raise InvalidInputError("Input data is empty.")
    if content_type(message) != JSON_TYPE:
        return Prompts([_decoded(message.data)], listed=False)
    value = decode_json(message.data)
    if isinstance(value, dict):
        value = value.get("inputs")
    if value is None:
        raise InvalidInputError('Missing "inputs" in json.')
    if isinstance(value, list):
        return Prompts([text_of(item, f"inputs[{place}]") for place, item in enumerate(value)], listed=True)
    return Prompts([text_of(value, "inputs")], listed=False)


def text_of(value: Value, name: str) -> str:
    """A text of JSON; a number or truth value counts as its text, as in DJL.

    Raises:
        InvalidInputError: It is none.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        raise InvalidInputError(f"{name}: expected a text, got {'null' if value is None else type(value).__name__}")
    return str(value)


def field(message: Message, *names: str) -> str | None:
    """The text of a form field or query parameter, by the first of several names that there is."""
    for name in names:
        content = message.content(name)
        if content is not None:
            return _decoded(content)
    return None


def each(value: Value, read: Callable[[Value, str], T]) -> tuple[list[T], bool]:
    """Reads one item, or each of a list; and whether it was a list."""
    if isinstance(value, list):
        return [read(item, f"[{place}]") for place, item in enumerate(value)], True
    return [read(value, "the body")], False


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"the text is not UTF-8: byte {error.start}") from None


def tokens(encoding: Encoding) -> Iterator[int]:
    """The places of the tokens that are of the text: neither special nor added to fill it up."""
    return (place for place, special in enumerate(encoding.special_tokens_mask) if not special)
