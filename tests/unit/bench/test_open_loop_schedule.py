"""When requests of an open loop are due depends on the rate alone, never on answers."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from flowyard.platform.bench.schedule import due_times


def test_constant_arrivals_are_equally_spaced_and_do_not_drift():
    due = list(islice(due_times(300, "constant"), 30_001))
    assert due[0] == 0
    assert due[1] == pytest.approx(1 / 300)
    assert due[30_000] == pytest.approx(100, rel=1e-12)


def test_poisson_arrivals_keep_the_rate():
    due = list(islice(due_times(1000, "poisson", seed=3), 20_000))
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] == pytest.approx(20, rel=0.05)
    gaps = [after - before for before, after in pairwise(due)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance**0.5 == pytest.approx(mean, rel=0.05)


def test_the_same_seed_gives_the_same_times():
    first, second, other = (list(islice(due_times(50, "poisson", seed), 20)) for seed in (1, 1, 2))
    assert first == second
    assert first != other
