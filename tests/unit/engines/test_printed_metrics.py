"""Metrics that handlers print."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.engines import printed
from flowyard.schemas.frames import Sample


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("Inference.Milliseconds:311", Sample("Inference", "Milliseconds", "", 311.0)),
        (
            "Disk.Gigabytes:3.5|#Host:a,Model:resnet|1650953744320|g",
            Sample("Disk", "Gigabytes", "gauge", 3.5, (("Host", "a"), ("Model", "resnet"))),
        ),
        ("Calls.Count:1||1650953744320|c", Sample("Calls", "Count", "counter", 1.0)),
        ("Length.Count:-1e2|h", Sample("Length", "Count", "histogram", -100.0)),
        (
            "HandlerTime.ms:12.3|#ModelName:noop,Level:Model|#type:GAUGE|#hostname:h,1650953744,a-b,c-d",
            Sample("HandlerTime", "ms", "gauge", 12.3, (("ModelName", "noop"), ("Level", "Model")), "a-b,c-d"),
        ),
        (
            "Old.Milliseconds:311|#Level:Host,count:time|#hostname:localhost,1650953744320,request_id",
            Sample("Old", "Milliseconds", "", 311.0, (("Level", "Host"), ("count", "time")), "request_id"),
        ),
        ("Two words.any unit:1|#type:STRANGE", Sample("Two words", "any unit", "", 1.0)),
    ],
)
def test_lines_that_are_metrics(line, sample):
    assert printed.parse(line) == sample


@pytest.mark.parametrize(
    "line", ["", "no number", "a.b:", "a:1", "a.b:one", "a.b:1,5", "Failed to update metric with name:x", "a.b:--1"]
)
def test_lines_that_are_none(line):
    assert printed.parse(line) is None


@given(st.text())
def test_no_line_is_an_error(line):
    printed.parse(line)


@contextlib.contextmanager
def listening():
    """Output of its own, for the time of the context; yields what reads it."""
    raw = {name: io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for name in ("stdout", "stderr")}
    with contextlib.redirect_stdout(raw["stdout"]), contextlib.redirect_stderr(raw["stderr"]):
        printed.listen()
        printed.take()
        yield lambda name: raw[name].buffer.getvalue().decode()
    printed.take()


def test_what_is_printed_is_kept_and_still_printed():
    with listening() as output:
        print("[METRICS]A.Count:1|#x:y|c")
        print("before [METRICS]B.Count:2", file=sys.stderr)
        print("[METRICS]nonsense")
        print("nothing")
        assert printed.take() == [Sample("A", "Count", "counter", 1.0, (("x", "y"),)), Sample("B", "Count", "", 2.0)]
        assert printed.take() == []
        assert output("stdout") == "[METRICS]A.Count:1|#x:y|c\n[METRICS]nonsense\nnothing\n"
        assert output("stderr") == "before [METRICS]B.Count:2\n"


def test_what_is_logged_is_kept():
    with listening() as output:
        logger = logging.Logger("of a handler")
        logger.addHandler(logging.StreamHandler(sys.stderr))
        logger.error("[METRICS]A.Count:1\n[METRICS]B.Count:2")
        with printed.unnoticed():
            logger.error("[METRICS]C.Count:3")
        assert [sample.name for sample in printed.take()] == ["A", "B"]
        assert "C.Count:3" in output("stderr")


def test_the_output_stays_what_it_was():
    with listening():
        assert isinstance(sys.stdout, io.TextIOWrapper)
        assert sys.stdout.line_buffering
        before = sys.stdout
        printed.listen()
        assert sys.stdout is before


def test_its_end_leaves_the_output_open():
    with listening() as output:
        del sys.stdout
        sys.stdout = io.TextIOWrapper(io.BytesIO())
        gc.collect()
        assert output("stdout") == ""


def test_what_nobody_takes_is_bounded(monkeypatch):
    monkeypatch.setattr(printed, "MOST_KEPT", 3)
    with listening():
        for number in range(5):
            print(f"[METRICS]A.Count:{number}")
        assert [sample.value for sample in printed.take()] == [0.0, 1.0, 2.0]
