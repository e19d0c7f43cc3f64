"""How requests that name no version are spread over the versions of a name: pure data and arithmetic.

Weights go before the default version, the default before turns. A shadow version gets copies of such requests and answers none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from flowyard.schemas.errors import InvalidRequestError

T = TypeVar("T")

#: Addresses the version of `set-default`; without one, the entry that was registered without a version (DJL §1.3).
DEFAULT = "default"
MAX_WEIGHT = 1000
#: What takes the weights of a name back.
NO_WEIGHTS = "none"
_WEIGHT = re.compile(r"([^:,\s]+):([0-9]{1,4})")


class Traffic(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the operator has said about the versions of one name. The version without a name is the empty text.

    Attributes:
        weights: Share of each version; one that is not listed gets nothing. Empty when no weights are set.
        default: The version that answers, `None` when none is chosen.
        shadows: Versions that get copies of the requests.
    """

    weights: dict[str, int] = {}
    default: str | None = None
    shadows: tuple[str, ...] = ()

    def without(self, version: str) -> Traffic:
        """What is left when a version is unregistered: it goes out of everything that was said about it.

        Weights that would leave nobody to answer are dropped, and the name is back to its default version or to turns.
        """
        weights = {name: weight for name, weight in self.weights.items() if name != version}
        return Traffic(
            weights if any(weights.values()) else {},
            None if self.default == version else self.default,
            tuple(shadow for shadow in self.shadows if shadow != version),
        )

    def among(self, versions: Mapping[str, object]) -> Traffic:
        """The same, for the versions that there are."""
        traffic = self
        for version in {*self.weights, *self.shadows, *(() if self.default is None else (self.default,))} - set(versions):
            traffic = traffic.without(version)
        return traffic

    def shares(self, versions: Mapping[str, T]) -> list[tuple[T, int]]:
        """Who answers requests without a version, and with what share.

        Args:
            versions: What can answer now, by version.

        Returns:
            Those with a share above 0.
        """
        answering = {version: what for version, what in versions.items() if version not in self.shadows}
        if self.weights:
            weighed = [(what, self.weights.get(version, 0)) for version, what in answering.items()]
            return [(what, weight) for what, weight in weighed if weight]
        if self.default is not None:
            return [(answering[self.default], 1)] if self.default in answering else []
        return [(what, 1) for what in answering.values()]


NO_TRAFFIC = Traffic()


class Turns(Generic[T]):
    """Smooth weighted round robin: exact over every round of the weights' sum, and no two runs differ.

    With weights 3 and 1 the order is `a a b a`, not `a a a b`. The first round is worked out on its way; then it is repeated.

    Args:
        shares: At least one, each with its weight above 0.
    """

    __slots__ = ("_at", "_credits", "_length", "_round", "_weights", "_what")

    def __init__(self, shares: Sequence[tuple[T, int]]) -> None:
        divisor = math.gcd(*(weight for _, weight in shares))
        self._what = [what for what, _ in shares]
        self._weights = [weight // divisor for _, weight in shares]
        self._length = sum(self._weights)
        self._credits = [0] * len(shares)
        self._round: list[T] = []
        self._at = 0

    def next(self) -> T:
        """Whose turn it is."""
        at = self._at
        self._at = at + 1 if at + 1 < self._length else 0
        if at == len(self._round):
            self._round.append(self._choose())
        return self._round[at]

    def _choose(self) -> T:
        held = [credit + weight for credit, weight in zip(self._credits, self._weights, strict=True)]
        chosen = held.index(max(held))
        held[chosen] -= self._length
        self._credits = held
        return self._what[chosen]


def parse_weights(text: str) -> dict[str, int]:
    """Reads `v1:90,v2:10`, or `none` for no weights.

    Raises:
        InvalidRequestError: It is no such list, a version is listed twice, a weight is over 1,000, or all are 0.
    """
    if text == NO_WEIGHTS:
        return {}
    weights: dict[str, int] = {}
    for item in text.split(","):
        found = _WEIGHT.fullmatch(item.strip())
        if found is None or int(found[2]) > MAX_WEIGHT:
            allowed = f"VERSION:WEIGHT with a whole number from 0 to {MAX_WEIGHT}, separated by commas, or {NO_WEIGHTS}"
            raise InvalidRequestError(f"Parameter weights: {item.strip()[:100]!r} is not allowed; allowed is {allowed}.")
        if found[1] in weights:
            raise InvalidRequestError(f"Parameter weights: version {found[1]} is listed twice.")
        weights[found[1]] = int(found[2])
    if not any(weights.values()):
        raise InvalidRequestError(f"Parameter weights: {text[:100]!r} leaves no version to answer; allowed is a sum above 0.")
    return weights


def shown_weights(weights: Mapping[str, int]) -> str:
    """Weights as `parse_weights` reads them."""
    return ",".join(f"{version or DEFAULT}:{weight}" for version, weight in weights.items()) or NO_WEIGHTS
