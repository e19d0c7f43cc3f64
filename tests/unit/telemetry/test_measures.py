"""Histograms that are counted by hand hold what Prometheus expects of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.telemetry.measures import (
    MOST_HANDLER_METRICS,
    SECONDS,
    HandlerMeasures,
    Histogram,
    PoolMeasures,
    RequestMeasures,
)
from flowyard.schemas.frames import Sample

VALUES = st.lists(st.one_of(st.sampled_from(SECONDS), st.floats(0, 1000)))


@given(VALUES)
def test_a_bucket_holds_what_is_at_most_its_bound(values):
    histogram = Histogram(SECONDS)
    for value in values[:2]:
        histogram.observe(value)
    histogram.observe_all(values[2:])
    read = histogram.read()
    for place, bound in enumerate(SECONDS):
        assert sum(read.counts[: place + 1]) == sum(value <= bound for value in values)
    assert read.count == len(values)
    assert read.total == pytest.approx(sum(values))


def test_what_was_read_does_not_change():
    histogram = Histogram((1.0,))
    before = histogram.read()
    histogram.observe(0.5)
    assert (before.counts, histogram.read().counts) == ((0, 0), (1, 0))


def test_requests_are_counted_by_status():
    requests = RequestMeasures()
    requests.in_flight += 3
    for status in (200, 503, 200):
        requests.end(status, 0.01)
    assert (requests.in_flight, requests.codes, requests.latency.read().count) == (0, {200: 2, 503: 1}, 3)


def test_a_device_that_comes_later_is_measured_too():
    measures = PoolMeasures(["cpu"])
    measures.on("gpu0").rows.observe(4)
    assert {name: device.rows.read().count for name, device in measures.devices.items()} == {"cpu": 0, "gpu0": 1}


def test_metrics_of_handlers_are_kept_by_name_and_dimensions():
    measures = HandlerMeasures()
    level = (("Level", "Model"),)
    measures.take([Sample("Seen", "Count", "counter", 2.0, level), Sample("Seen", "Count", "counter", 3.0, level)])
    measures.take([Sample("Seen", "Count", "counter", 1.0)])
    metric = measures.metrics["Seen", "Count", "counter", level]
    assert (metric.count, metric.total, metric.last) == (2, 5.0, 3.0)
    assert len(measures.metrics) == 2


def test_metrics_of_handlers_are_bounded():
    measures = HandlerMeasures()
    measures.take(Sample(f"m{number}", "unit", "gauge", 1.0) for number in range(MOST_HANDLER_METRICS + 5))
    measures.take([Sample("m0", "unit", "gauge", 7.0)])
    assert len(measures.metrics) == MOST_HANDLER_METRICS
    assert measures.metrics["m0", "unit", "gauge", ()].last == 7.0
