"""What requests that come in sequences ask of the registry: the version where theirs began, and nodes that do not remember.

Pure: versions say themselves which sequences they keep.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from flowyard.platform.registry.traffic import Turns
from flowyard.schemas.errors import Problem
from flowyard.workflows.plan import Plan, Step


class KeepsSequences(Protocol):
    """A version.

    Attributes:
        sequence_header: The header, in lower case, that names the sequence of a request to it; empty where it keeps none.
    """

    sequence_header: str

    def keeps(self, sequence: str) -> bool:
        """Whether a sequence began there and is not over, or its state was lost there a short time ago."""


V = TypeVar("V", bound=KeepsSequences)


class SequenceTurns(Generic[V]):
    """Whose turn it is among versions of which some keep sequences.

    A request of a sequence that a version keeps goes there, whatever its share is now. The first one of a sequence that its
    client has named goes where the name says, so that two that come at the same time meet; names are spread by the shares. All
    others take turns.

    Args:
        shares: At least one, each with its weight above 0.
        versions: All that run, also those without a share.
    """

    __slots__ = ("_header", "_shares", "_together", "_turns", "_versions")

    def __init__(self, shares: Sequence[tuple[V, int]], versions: Iterable[V]) -> None:
        self._turns = Turns(shares)
        self._shares = shares
        self._together = sum(weight for _, weight in shares)
        self._versions = [version for version in versions if version.sequence_header]
        self._header = self._versions[0].sequence_header

    def next(self, headers: Mapping[str, str]) -> V:
        """Whose turn it is.

        Args:
            headers: Of the request, names in lower case.
        """
        sequence = headers.get(self._header)
        if not sequence:
            return self._turns.next()
        return self.keeper(headers) or self._named(sequence)

    def keeper(self, headers: Mapping[str, str]) -> V | None:
        """The version that keeps the sequence of a request, if one does."""
        sequence = headers.get(self._header)
        if not sequence:
            return None
        return next((version for version in self._versions if version.keeps(sequence)), None)

    def _named(self, sequence: str) -> V:
        place = zlib.crc32(sequence.encode("utf-8", "surrogatepass")) % self._together
        for version, weight in self._shares:
            place -= weight
            if place < 0:
                return version
        raise AssertionError("the shares make up the sum")


def cache_problems(plan: Plan, keeps_sequences: Callable[[str], bool], file: str = "") -> list[Problem]:
    """Nodes that would answer from what they remember where a model has to see every request.

    Args:
        plan: The workflow.
        keeps_sequences: Whether a model of the workflow, by its name there, keeps sequences.
        file: What to call the workflow file.

    Returns:
        A problem for each.
    """
    cached = [step for step in plan.steps if step.cache is not None]
    called = [(step, [callee.name for callee in step.callees if callee.kind == "model"]) for step in cached]
    return [_cached(step, file) for step, names in called if any(map(keeps_sequences, names))]


def _cached(step: Step, file: str) -> Problem:
    return Problem(
        message=f'node "{step.name}" keeps its results, but its model keeps the state of sequences and has to see every request',
        file=file,
        line=step.line,
        column=step.column,
        name=step.name,
        fix="take `cache` out",
    )
