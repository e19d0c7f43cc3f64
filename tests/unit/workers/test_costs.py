"""What a call usually costs, as batches tell it."""

from __future__ import annotations

import pytest

from flowyard.platform.workers.costs import UNKNOWN_S, CallCost


def noted(cost: CallCost, took_s: float, batches: int) -> float:
    for _ in range(batches):
        cost.note(8, 8 * took_s, 4 * took_s)
    return cost.took_s


def test_nothing_counts_as_quick_before_many_batches_were() -> None:
    cost = CallCost()
    assert (cost.took_s, cost.cpu_s) == (UNKNOWN_S, UNKNOWN_S)
    assert noted(cost, 10e-6, 50) > 100e-6
    assert noted(cost, 10e-6, 150) == pytest.approx(10e-6, rel=0.1)
    assert cost.cpu_s == pytest.approx(5e-6, rel=0.2)


def test_a_batch_that_was_held_up_says_little_and_many_say_all() -> None:
    cost = CallCost()
    noted(cost, 10e-6, 400)
    assert noted(cost, 5.0, 1) < 11e-6
    assert noted(cost, 1e-3, 900) > 900e-6


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1.0])
def test_nonsense_never_makes_a_call_look_dear_for_ever(nonsense: float) -> None:
    cost = CallCost()
    noted(cost, 10e-6, 300)
    noted(cost, nonsense, 1)
    assert noted(cost, 10e-6, 300) == pytest.approx(10e-6, rel=0.1)
