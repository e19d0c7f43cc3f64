"""Percentiles are those of the recorded latencies, to a tenth of a percent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.bench.histogram import HIGHEST_S, LOWEST_S, Histogram
from flowyard.platform.bench.result import Latency


def of(latencies):
    histogram = Histogram()
    for latency in latencies:
        histogram.record(latency)
    return histogram


def test_an_empty_one_is_all_zeros():
    histogram = Histogram()
    assert histogram.count == 0
    assert histogram.mean_s() == 0
    assert histogram.percentile_s(99) == 0
    assert Latency.of(histogram) == Latency(0, 0, 0, 0, 0, 0, 0)


def test_one_latency_is_every_percentile_exactly():
    histogram = of([0.0123])
    assert [histogram.percentile_s(percent) for percent in (0.1, 50, 99.9, 100)] == [0.0123] * 4


def test_nearest_rank():
    histogram = of(n / 1000 for n in range(1, 1001))
    for percent, exact in ((50, 0.5), (90, 0.9), (99, 0.99), (99.9, 0.999), (100, 1.0)):
        assert histogram.percentile_s(percent) == pytest.approx(exact, rel=1e-3)


@given(
    latencies=st.lists(st.floats(LOWEST_S, HIGHEST_S), min_size=1, max_size=200),
    percent=st.one_of(st.floats(0.01, 100), st.sampled_from([50, 90, 99, 99.9, 100])),
)
def test_percentiles_are_those_of_the_sorted_latencies(latencies, percent):
    exact = sorted(latencies)[math.ceil(round(percent / 100 * len(latencies), 9)) - 1]
    histogram = of(latencies)
    assert histogram.percentile_s(percent) == pytest.approx(exact, rel=1.1e-3)
    assert histogram.count == len(latencies)
    assert histogram.max_s == max(latencies)
    assert histogram.min_s == min(latencies)
    assert histogram.mean_s() == pytest.approx(sum(latencies) / len(latencies))


@pytest.mark.parametrize("latency", [0.0, 1e-9, 1e6])
def test_what_is_out_of_range_is_counted_all_the_same(latency):
    histogram = of([latency, latency])
    assert histogram.count == 2
    assert histogram.percentile_s(50) == latency


def test_a_summary_is_in_milliseconds():
    summary = Latency.of(of([0.001] * 98 + [0.5, 2.0]))
    assert summary.min_ms == 1
    assert summary.p50_ms == pytest.approx(1, rel=1e-3)
    assert summary.p99_ms == pytest.approx(500, rel=1e-3)
    assert summary.max_ms == 2000
    assert summary.mean_ms == pytest.approx(25.98)
