"""A model of tensors with a translator around it: messages in, messages out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowyard.engines.base import Call, LoadedModel, Outcome
from flowyard.engines.djl.translators.base import Input, NamedArray, Reading, Translator
from flowyard.engines.failures import of_user_code
from flowyard.engines.inputs import Array
from flowyard.schemas.errors import FlowyardError, InvalidInputError, NodeError
from flowyard.schemas.messages import Message
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Value


class _Request(NamedTuple):
    place: int
    message: Message
    reading: Reading


class TranslatedModel:
    """Satisfies `LoadedModel`. Requests whose inputs have one shape go to the model together, as its adapter joins their rows."""

    def __init__(self, model: LoadedModel, translator: Translator) -> None:
        """Takes over a loaded model.

        Args:
            model: The model, as its engine loaded it.
            translator: What reads requests for it and writes its answers.
        """
        self._model = model
        self._translator = translator
        signature = model.signature
        self._input_names = [spec.name for spec in signature.inputs] if signature else []
        self._output_names = [spec.name for spec in signature.outputs] if signature else []
        #: Requests that are no tensors have none.
        self.signature: Signature | None = signature if translator.is_plain else None

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch of calls, each with one message.

        Args:
            batch: The calls.

        Returns:
            For each its answer, or the error that fails it and only it.
        """
        outcomes: list[Outcome] = [None] * len(batch)
        requests = []
        for place, call in enumerate(batch):
            request = self._read(place, call)
            if isinstance(request, _Request):
                requests.append(request)
            else:
                outcomes[place] = request
        if self._translator.pads:
            requests = _padded(requests)
        if requests:
            calls = [Call("", self._arguments(request.reading), batch[request.place].context) for request in requests]
            for request, outcome in zip(requests, self._model.predict(calls), strict=True):
                outcomes[request.place] = self._write(request, outcome)
        return outcomes

    def unload(self) -> None:
        """Frees the model."""
        self._model.unload()

    def _read(self, place: int, call: Call) -> _Request | FlowyardError:
        message = call.args[0] if len(call.args) == 1 else None
        if not isinstance(message, Message):
            return InvalidInputError(f"expected one request, got {len(call.args)} arguments")
        try:
            return _Request(place, message, self._translator.read(message))
        except FlowyardError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one request's failure is not the batch's
            return of_user_code(error)

    def _arguments(self, reading: Reading) -> list[Value]:
        """The inputs by name where the model asks for just what there is, else in order."""
        known = {one.name: one.array for one in (*reading.inputs, *reading.spare) if one.name}
        wanted = self._input_names
        if len(wanted) > 1 and known.keys() >= set(wanted):
            return [{name: known[name] for name in wanted}]
        return [one.array for one in reading.inputs]

    def _write(self, request: _Request, outcome: Outcome) -> Outcome:
        if isinstance(outcome, FlowyardError):
            return outcome
        try:
            return self._translator.write(self._outputs(outcome), request.reading, request.message)
        except FlowyardError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one request's failure is not the batch's
            return of_user_code(error)

    def _outputs(self, value: Value) -> list[NamedArray]:
        """The outputs with the names that the model, not its adapter, gave them."""
        if not isinstance(value, dict):
            return [NamedArray(self._output_names[0] if len(self._output_names) == 1 else "", _array(value))]
        made_up = not self._output_names and list(value) == [f"output{place}" for place in range(len(value))]
        return [NamedArray("" if made_up else name, _array(item)) for name, item in value.items()]


def _array(output: Value) -> Array:
    """An output as an array; of a list of mappings, as converted classifiers of scikit-learn give it, their values."""
    if isinstance(output, list) and output and all(isinstance(row, dict) for row in output):
        output = [list(row.values()) for row in output]
        return np.array(output, np.float32)
    if isinstance(output, np.ndarray):
        return output
    if isinstance(output, (bool, int, float)):
        return np.array(output)
    raise NodeError(f"the model gives a {type(output).__name__}, expected tensors")


def _padded(requests: Sequence[_Request]) -> list[_Request]:
    """Fills the inputs of all requests up to the longest, where they have as many axes; each keeps its rows."""
    shapes: dict[tuple[tuple[int, ...], ...], list[_Request]] = {}
    for request in requests:
        shapes.setdefault(tuple((one.array.ndim,) for one in request.reading.inputs), []).append(request)
    return sorted((one for group in shapes.values() for one in _padded_alike(group)), key=lambda one: one.place)


def _padded_alike(requests: Sequence[_Request]) -> list[_Request]:
    readings = [request.reading for request in requests]
    sizes = [np.max([one.array.shape[1:] for one in column], axis=0) for column in zip(*map(_columns, readings), strict=True)]
    return [request._replace(reading=_filled(request.reading, sizes)) for request in requests]


def _columns(reading: Reading) -> tuple[Input, ...]:
    return (*reading.inputs, *reading.spare)


def _filled(reading: Reading, sizes: Sequence[Array]) -> Reading:
    filled = [_fill(one, size) for one, size in zip(_columns(reading), sizes, strict=True)]
    count = len(reading.inputs)
    return reading._replace(inputs=tuple(filled[:count]), spare=tuple(filled[count:]))


def _fill(one: Input, size: Array) -> Input:
    shape = one.array.shape
    missing = [(0, 0), *((0, int(want) - have) for want, have in zip(size, shape[1:], strict=True))]
    return one._replace(array=np.pad(one.array, missing, constant_values=one.pad))
