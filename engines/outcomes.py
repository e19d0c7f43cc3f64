"""What became of the calls of a batch, whatever an engine or user code does."""

from __future__ import annotations

from collections.abc import Sequence

from flowyard.engines.base import Call, LoadedModel, Outcome
from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.schemas import values
from flowyard.schemas.errors import FlowyardError, InternalError, InvalidInputError, NodeError, OutOfMemoryError
from flowyard.schemas.values import Encoded


def outcomes_of(model: LoadedModel, batch: Sequence[Call]) -> Sequence[Outcome]:
    """Computes a batch: one outcome per call, in order."""
    try:
        outcomes = model.predict(batch)
        if len(outcomes) == len(batch):
            return outcomes
        failure: FlowyardError = InternalError(f"the engine gave {len(outcomes)} outcomes for {len(batch)} calls")
    except BaseException as error:  # noqa: BLE001 - an engine's defect fails the batch, not the worker
        log(error)
        failure = OutOfMemoryError(describe(error)) if is_out_of_memory(error) else InternalError(describe(error))
    return [failure for _ in batch]


def encoded(outcome: Outcome) -> Encoded | FlowyardError:
    """The binary form of a result; the error where it is one, or is no value."""
    if isinstance(outcome, FlowyardError):
        return outcome
    try:
        return values.encode(outcome)
    except InvalidInputError as error:
        return NodeError(f"returned a {type(outcome).__name__}: {error.message}")
    except Exception as error:  # noqa: BLE001 - a result is user code's: its methods may raise anything
        log(error)
        return OutOfMemoryError(describe(error)) if is_out_of_memory(error) else NodeError(f"its result: {describe(error)}")
