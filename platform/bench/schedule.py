"""When the requests of an open loop are due."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

Arrivals = Literal["poisson", "constant"]


def due_times(rate_per_s: float, arrivals: Arrivals, seed: int = 0) -> Iterator[float]:
    """Yields when each request is due.

    Args:
        rate_per_s: Mean number of requests per second, above 0.
        arrivals: `constant` spaces them equally, `poisson` as independent clients would send them.
        seed: Of the Poisson arrivals: the same seed gives the same times.

    Yields:
        Seconds since the start, rising, without end.
    """
    if arrivals == "constant":
        # Multiplied, not summed up: rounding errors would add up to another rate.
        index = 0
        while True:
            yield index / rate_per_s
            index += 1
    source = random.Random(seed)  # noqa: S311 - load, not secrets
    due = source.expovariate(rate_per_s)
    while True:
        yield due
        due += source.expovariate(rate_per_s)
