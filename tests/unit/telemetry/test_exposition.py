"""A snapshot's text: read back by Prometheus' own parsers it gives the snapshot's numbers."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.telemetry import SNAPSHOT

from flowyard.platform.telemetry.exposition import OPENMETRICS, TEXT, Exposition
from flowyard.platform.telemetry.snapshot import Snapshot

EMPTY = Snapshot((), {}, {}, {}, {"inference": {}, "management": {}}, {}, 0.0, 0, 0)


def samples(text: bytes, parse=parse_text) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in parse(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"told twice: {key}"
            found[key] = sample.value
    return found


def value(found, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.mark.parametrize(("media_type", "parse"), [(TEXT, parse_text), (OPENMETRICS, parse_openmetrics)])
@pytest.mark.parametrize("snapshot", [SNAPSHOT, EMPTY], ids=["busy", "empty"])
def test_both_formats_can_be_read(media_type, parse, snapshot):
    exposition = Exposition()
    for tell in (exposition.ours, exposition.djls):
        assert samples(tell(snapshot, media_type), parse)


def test_ours():
    found = samples(Exposition().ours(SNAPSHOT, TEXT))
    a = {"model": "a", "version": ""}
    assert value(found, "flowyard_requests_total", **a, code="200") == 9
    assert value(found, "flowyard_requests_total", model="", version="", code="404") == 3
    assert value(found, "flowyard_request_duration_seconds_bucket", **a, le="0.025") == 1
    assert value(found, "flowyard_request_duration_seconds_bucket", **a, le="+Inf") == 2
    assert value(found, "flowyard_request_duration_seconds_sum", **a) == pytest.approx(0.22)
    b2 = {"model": "b", "version": "2"}
    assert value(found, "flowyard_request_duration_seconds_bucket", **b2, le="300.0") == 1
    assert value(found, "flowyard_request_duration_seconds_count", **b2) == 2
    assert value(found, "flowyard_requests_in_flight", **a) == 2
    assert value(found, "flowyard_queue_length", **a) == 5
    reasons = {"queue_full": 6, "node_error": 1, "deadline": 0, "cancelled": 0}
    for reason, count in reasons.items():
        assert value(found, "flowyard_call_failures_total", **a, reason=reason) == count
    assert value(found, "flowyard_batch_rows_bucket", **a, device="gpu0", le="4.0") == 1
    assert value(found, "flowyard_batch_rows_sum", **a, device="gpu0") == 12
    assert value(found, "flowyard_workers", **a, device="gpu0", state="busy") == 2
    assert value(found, "flowyard_worker_restarts_total", **a, device="gpu0") == 3
    assert value(found, "flowyard_registrations_total", outcome="refused") == 2
    assert value(found, "flowyard_registered", status="FAILED") == 1
    assert value(found, "flowyard_http_responses_total", api="management", code="200") == 5
    assert value(found, "flowyard_log_lines_dropped_total") == 8
    assert value(found, "flowyard_held_bytes") == 9
    assert value(found, "process_open_fds") > 0


def test_djls():
    (host,) = {
        labels["Host"] for labels in (dict(key[1]) for key in samples(Exposition().djls(SNAPSHOT, TEXT))) if "Host" in labels
    }
    found = samples(Exposition().djls(SNAPSHOT, TEXT))
    assert value(found, "StartupLatency", Host=host) == 1.5e6
    counts = {"Response_2XX": 9, "Response_4XX": 5, "Response_5XX": 6, "WlmError": 3, "ServerError": 3}
    for name, count in counts.items():
        assert value(found, f"{name}_total", Host=host) == count
    assert value(found, "ModelLoadingError_total", Model="c") == 1
    assert value(found, "RegisterWorkflow", Model="b") == 5e5
    assert value(found, "LoadModel", Model="a") == 2.5e5
    # DJL knows no label for the version: both of "b" are told together.
    assert value(found, "RequestLatency_bucket", Model="b", le="25000.0") == 2
    assert value(found, "RequestLatency_count", Model="b") == 3
    assert value(found, "QueueTime_sum", Model="a") == pytest.approx(220_000)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("flowyard_workers", "flowyard_workers"),
        ("flowyard_requests", "flowyard_requests"),
        ("flowyard_requests_total", "flowyard_requests"),
        ("flowyard_batch_rows_sum", "flowyard_batch_rows"),
        ("process_cpu_seconds_total", "process_cpu_seconds"),
    ],
)
def test_one_metric_alone(name, family):
    """It is named as a whole or by one of its samples."""
    text = Exposition().ours(SNAPSHOT, TEXT, {name}).decode()
    assert [metric.name for metric in parse_text(text)] == [family]


def test_a_name_that_is_none_gives_nothing():
    assert Exposition().ours(SNAPSHOT, TEXT, {"nothing"}) == b""
    assert Exposition().ours(SNAPSHOT, OPENMETRICS, {"nothing"}) == b"# EOF\n"
