"""Metrics of handlers under `/metrics` and `/server/metrics`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from flowyard.platform.telemetry.exposition import OPENMETRICS, TEXT, Exposition
from flowyard.platform.telemetry.measures import Distribution, HandlerMeasures
from flowyard.platform.telemetry.snapshot import EndpointNumbers, HandlerNumbers, ModelNumbers, Snapshot
from flowyard.schemas.frames import Sample

NONE = Distribution((1.0,), (0, 0), 0.0)


def snapshot(handlers: str, *numbers: HandlerNumbers, version: str = "1") -> Snapshot:
    model = ModelNumbers("m", 0, NONE, {}, 0, 0.0, (), handlers, numbers)
    endpoint = EndpointNumbers("m", version, 0, {}, NONE, 0.0, (model,))
    return Snapshot((endpoint,), {}, {}, {}, {"inference": {}, "management": {}}, {}, 0.0, 0, 0)


def metric(name: str, kind: str, value: float = 2.0, count: int = 1, **dimensions: str) -> HandlerNumbers:
    return HandlerNumbers(name, "Milliseconds", kind, tuple(dimensions.items()), count, value, value)


def lines(text: bytes) -> set[str]:
    own = ("#", "flowyard_", "process_", "python_")
    return {line for line in text.decode().splitlines() if not line.startswith(own)}


def test_they_have_their_own_names_with_model_and_version():
    numbers = (
        metric("Seen", "counter", 5.0, Level="Model"),
        metric("Took", "gauge", 1.5),
        metric("Unsaid", "", 3.0),
        metric("Spread", "histogram", 7.0, count=4),
    )
    assert lines(Exposition().ours(snapshot("torchserve", *numbers), TEXT)) == {
        'Seen_total{Level="Model",model="m",version="1"} 5.0',
        'Took{model="m",version="1"} 1.5',
        'Unsaid{model="m",version="1"} 3.0',
        'Spread_count{model="m",version="1"} 4.0',
        'Spread_sum{model="m",version="1"} 7.0',
    }


def test_those_of_djl_are_among_its_servers_metrics():
    numbers = (metric("Inference", "gauge", 311.0, Level="Host"), metric("RequestLatency", "gauge"))
    text = Exposition().djls(snapshot("djl", *numbers), TEXT, ["Inference"])
    assert lines(text) == {'Inference{Level="Host",Model="m"} 311.0'}
    every = Exposition().djls(snapshot("djl", *numbers), TEXT).decode()
    assert every.count("# TYPE RequestLatency ") == 1
    assert lines(Exposition().djls(snapshot("torchserve", *numbers), TEXT, ["Inference"])) == set()


@pytest.mark.parametrize(
    ("numbers", "left"),
    [
        ((metric("X", "gauge"), metric("X", "counter")), 'X{model="m",version="1"} 2.0'),
        ((metric("a.b", "gauge", 1.0), metric("a b", "gauge", 9.0)), 'a_b{model="m",version="1"} 1.0'),
        ((metric("X", "counter"), metric("X_total", "gauge", 9.0)), 'X_total{model="m",version="1"} 2.0'),
        ((metric("X", "gauge", model="other", version="7"),), 'X{model="m",version="1"} 2.0'),
        ((metric("3d", "gauge", **{"a-b": "c", "__x": "y"}),), '_3d{a_b="c",model="m",version="1"} 2.0'),
        ((metric("flowyard_requests", "counter"), metric("X", "gauge")), 'X{model="m",version="1"} 2.0'),
    ],
)
def test_what_cannot_be_beside_another_one_is_left_out(numbers, left):
    assert lines(Exposition().ours(snapshot("torchserve", *numbers), TEXT)) == {left}


words = st.text(max_size=12)


@given(
    st.lists(st.tuples(words, st.sampled_from(["counter", "gauge", "histogram", ""]), st.dictionaries(words, words)), max_size=6)
)
def test_whatever_handlers_say_can_be_read(told):
    numbers = [HandlerNumbers(name, "u", kind, tuple(sorted(labels.items())), 1, 1.0, 1.0) for name, kind, labels in told]
    for media_type, parse in ((TEXT, parse_text), (OPENMETRICS, parse_openmetrics)):
        text = Exposition().ours(snapshot("torchserve", *numbers), media_type).decode()
        found = [(sample.name, tuple(sorted(sample.labels.items()))) for family in parse(text) for sample in family.samples]
        assert len(found) == len(set(found))


@pytest.mark.parametrize(
    "sample",
    [
        Sample("x" * 257, "u", "gauge", 1.0),
        Sample("x", "u" * 257, "gauge", 1.0),
        Sample("x", "u", "gauge", 1.0, (("a", "b" * 257),)),
        Sample("x", "u", "gauge", 1.0, tuple((str(number), "b") for number in range(17))),
    ],
)
def test_what_says_too_much_is_left_out(sample):
    measures = HandlerMeasures()
    measures.take([sample])
    assert measures.metrics == {}
