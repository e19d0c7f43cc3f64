"""What one call of a model or function usually costs."""

from __future__ import annotations

#: How far a quicker and a slower batch move what is usual, and where it begins. A batch that was held up by whatever else the
#: machine does says little, which is why the slower count less; it takes tens of quick ones until a model counts as quick.
QUICKER_WEIGHT, SLOWER_WEIGHT = 0.05, 0.01
UNKNOWN_S = 0.01


class CallCost:
    """The usual cost of a call.

    Attributes:
        took_s: Seconds that it takes.
        cpu_s: Seconds of the processor, in the thread that computes.
    """

    __slots__ = ("cpu_s", "took_s")

    def __init__(self) -> None:
        self.took_s = UNKNOWN_S
        self.cpu_s = UNKNOWN_S

    def note(self, calls: int, took_s: float, cpu_s: float) -> None:
        """Notes a batch of calls."""
        self.took_s = _moved(self.took_s, took_s / calls)
        self.cpu_s = _moved(self.cpu_s, cpu_s / calls)


def _moved(usual_s: float, seen_s: float) -> float:
    if 0.0 <= seen_s < usual_s:
        return usual_s + QUICKER_WEIGHT * (seen_s - usual_s)
    # In this order, what is no number counts as twice as much as usual.
    return usual_s + SLOWER_WEIGHT * (min(2 * usual_s, abs(seen_s)) - usual_s)
