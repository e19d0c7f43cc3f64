"""TorchServe's `metrics.yaml`."""

from __future__ import annotations

import pytest

from flowyard.platform.torchserve_metrics import Family, read_metric_config
from flowyard.schemas.errors import InvalidRequestError

OWN = """
dimensions:
  - &model_name "ModelName"
  - &level "Level"
ts_metrics:
  counter:
    - name: Requests2XX
      unit: Count
      dimensions: ["Where", "Who"]
  gauge:
model_metrics:
  counter:
    - {name: Seen, unit: count, dimensions: [*model_name, *level]}
  histogram:
    - {name: Took, unit: ms, dimensions: []}
"""


def test_what_it_declares(tmp_path):
    (tmp_path / "metrics.yaml").write_text(OWN)
    declared = read_metric_config(tmp_path / "metrics.yaml")
    assert declared.of_server == {"Requests2XX": Family("counter", "Count", ("Where", "Who"))}
    assert declared.of_models == {
        "Seen": Family("counter", "count", ("ModelName", "Level", "Hostname")),
        "Took": Family("histogram", "ms", ("Hostname",)),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a", "expected are ts_metrics and model_metrics"),
        ("a: [", "is no YAML: "),
        ("model_metrics: [a]", "model_metrics: expected are counter, gauge, histogram"),
        ("model_metrics: {summary: []}", "model_metrics: 'summary' is no kind of metric"),
        ("model_metrics: {gauge: {a: b}}", "model_metrics.gauge: expected is a list of metrics"),
        ("model_metrics: {gauge: [{unit: ms}]}", "model_metrics.gauge[0]: name 'None' is none that a metric can have"),
        ("model_metrics: {gauge: [{name: 'a b', unit: ms}]}", "model_metrics.gauge[0]: name 'a b' is none"),
        ("model_metrics: {gauge: [{name: a}]}", "model_metrics.gauge[0]: a has no unit"),
        ("model_metrics: {gauge: [{name: a, unit: ms, dimensions: x}]}", "the dimensions of a are no list of names"),
        ("model_metrics: {gauge: [{name: a, unit: ms, dimensions: [x, x]}]}", "the dimensions of a are none that labels"),
        ("model_metrics: {gauge: [{name: a, unit: ms, dimensions: ['x y']}]}", "the dimensions of a are none that labels"),
        (
            "ts_metrics: {counter: [{name: Requests2XX, unit: Count, dimensions: [Level]}]}",
            "ts_metrics: Requests2XX has the dimensions Level, Hostname",
        ),
    ],
)
def test_what_it_cannot_declare(tmp_path, text, told):
    file = tmp_path / "metrics.yaml"
    file.write_text(text)
    with pytest.raises(InvalidRequestError) as refused:
        read_metric_config(file)
    assert str(refused.value).startswith(f"metrics_config {file}")
    assert told in str(refused.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidRequestError, match="cannot be read: No such file"):
        read_metric_config(tmp_path / "none")
