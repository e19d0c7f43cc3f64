"""What a translator is, and what all of them do alike: inputs, answers in JSON, files of the model's folder."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np

from flowyard.engines.inputs import Array
from flowyard.schemas.codecs.content import media_type
from flowyard.schemas.errors import NodeError
from flowyard.schemas.messages import DATA, Message
from flowyard.schemas.values import Value, to_jsonable

JSON_TYPE = "application/json"


class Input(NamedTuple):
    """One array for the model.

    Attributes:
        name: What models usually call it; empty where it only has a place.
        array: The array, its first axis the rows of the request.
        pad: What it is filled up with where requests of several lengths are computed together.
    """

    name: str
    array: Array
    pad: int = 0


class NamedArray(NamedTuple):
    """One output of a model; the name is empty where the engine knows none."""

    name: str
    array: Array


class Reading(NamedTuple):
    """One request as the model takes it.

    Attributes:
        inputs: The arrays in the order in which a model takes them that does not say how it calls them.
        spare: More that a model gets if it asks for them by name.
        note: What the translator needs of the request to write the answer.
    """

    inputs: tuple[Input, ...]
    spare: tuple[Input, ...] = ()
    note: Any = None


class Translator(abc.ABC):
    """Makes a model's inputs of a request, and an answer of its outputs.

    It is made twice: in the server process, where that checks what the user wrote, and in the worker, where `prepare` follows.

    Attributes:
        needs: Modules that `prepare` imports, and the extra that brings each.
        pads: Whether requests of several lengths are filled up and computed together (DJL's batchifier `padding`).
        is_plain: Whether a request brings the model's own inputs, and gets its outputs.
    """

    needs: ClassVar[Sequence[tuple[str, str]]] = ()
    pads: bool = False
    is_plain: bool = False

    def prepare(self) -> None:  # noqa: B027 - most need nothing
        """Loads what reading requests needs. Runs in a worker process.

        Raises:
            InvalidModelError: A file of the model is broken.
        """

    @abc.abstractmethod
    def read(self, message: Message) -> Reading:
        """Makes the model's inputs of a request.

        Args:
            message: The request.

        Returns:
            The inputs.

        Raises:
            InvalidInputError: The request is not what the translator takes.
        """

    @abc.abstractmethod
    def write(self, outputs: Sequence[NamedArray], reading: Reading, message: Message) -> Message:
        """Makes the answer.

        Args:
            outputs: What the model made of the request's inputs; never empty.
            reading: What `read` made of the request.
            message: The request.

        Returns:
            The answer.

        Raises:
            NodeError: The outputs are not those of a model of this kind.
        """


def json_answer(value: Value) -> Message:
    """An answer in JSON. NaN and infinity, which JSON does not have, become null."""
    return Message(properties=(("Content-Type", JSON_TYPE),), contents=((DATA, json_bytes(value)),))


def json_bytes(value: Value) -> bytes:
    """A value as JSON; arrays as nested lists."""
    return msgspec.json.encode(to_jsonable(value))


def content_type(message: Message) -> str:
    """The media type of the body, in lower case and without parameters."""
    return media_type(message.get("Content-Type"))


def only_row(outputs: Sequence[NamedArray], place: int = 0) -> Array:
    """An output of a request that has one row, without the axis of the rows.

    Raises:
        NodeError: There is no such output, or it has no row.
    """
    if place >= len(outputs):
        raise NodeError(f"the model gives {len(outputs)} outputs; its translator needs {place + 1}")
    array = outputs[place].array
    if not array.ndim or not array.shape[0]:
        raise NodeError(f"output {place} of the model has the shape {array.shape}, which has no rows")
    row: Array = array[0]
    return row


def softmax(scores: Array, axis: int = -1) -> Array:
    """Scores as probabilities, of which one is true."""
    exp = np.exp(_floats(scores) - scores.max(axis=axis, keepdims=True))
    normed: Array = exp / exp.sum(axis=axis, keepdims=True)
    return normed


def sigmoid(scores: Array) -> Array:
    """Scores as probabilities, each on its own."""
    # By way of tanh, which does not overflow.
    probabilities: Array = 0.5 * (1 + np.tanh(0.5 * _floats(scores)))
    return probabilities


def _floats(scores: Array) -> Array:
    return scores if scores.dtype.kind == "f" else scores.astype(np.float32)


def top(names: Sequence[str], probabilities: Array, count: int) -> list[dict[str, Value]]:
    """The most probable classes as DJL writes them: `className` and `probability`.

    Raises:
        NodeError: There are fewer probabilities than names.
    """
    flat = probabilities.reshape(-1)
    if len(flat) < len(names):
        raise NodeError(f"the model gives {len(flat)} scores for {len(names)} classes")
    order = np.argsort(-flat[: len(names)], kind="stable")[:count]
    return [{"className": names[place], "probability": float(flat[place])} for place in order]
