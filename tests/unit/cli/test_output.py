"""What commands print and read: tables, timelines, names, sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.cli.failures import USAGE, CommandError
from flowyard.platform.cli.output import aligned, printable, show_table
from flowyard.platform.cli.server_timing import bar, draw_server_timing
from flowyard.platform.cli.sources import (
    name_and_version,
    parameters_of,
    registered_name,
    source_of,
    weights_of,
)
from flowyard.platform.client import Span
from flowyard.platform.client.timing import spans_of


def test_columns_are_aligned():
    assert aligned([["NAME", "STATUS"], ["a", "READY"], ["longer", ""]]) == ["NAME    STATUS", "a       READY", "longer"]


def test_a_table_of_nothing_has_its_head(capsys):
    show_table(("name", "status"), [])
    assert capsys.readouterr().out == "NAME  STATUS\n"


def test_names_from_elsewhere_cannot_steer_a_terminal(capsys):
    show_table(("name",), [("a\x1b[2Jb\nc\x9b",)])
    assert capsys.readouterr().out == "NAME\na\\x1b[2Jb c\\x9b\n"
    assert printable("tab\tline\nü") == "tab\tline\nü"


def test_a_timeline_shows_when_steps_were():
    lines = draw_server_timing(spans_of("a;start=0;dur=5, b;start=5;dur=5"), 10, 40)
    assert [line.split()[0] for line in lines] == ["a", "b", "total"]
    assert lines[0].index("█") < lines[1].index("█")
    assert lines[0].endswith("5.00 ms")
    assert lines[2].endswith("10.00 ms")


def test_a_timeline_without_starts_says_so():
    lines = draw_server_timing((Span("a", 5.0), Span("b", 1.0)), 10, 40)
    assert "not when it began" in lines[-1]
    assert lines[0].index("█") == lines[1].index("█")


def test_a_timeline_of_nothing():
    assert "does not say" in draw_server_timing((), 3, 40)[-1]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(10, 200))
def test_a_bar_stays_in_its_room(start, duration, scale, room):
    assert len(bar(start, duration, max(scale, start + duration), room)) <= room


@pytest.mark.parametrize("header", ["", ",", ";;", "a", "a;dur", "a;dur=x", "a;dur=-1", "a;dur=inf", ";dur=1", "a;dur=nan, ;"])
def test_timings_that_say_nothing(header):
    assert spans_of(header) == ()


@pytest.mark.parametrize(("text", "expected"), [("m", ("m", None)), ("m:v1", ("m", "v1")), ("m:1.0+cu12", ("m", "1.0+cu12"))])
def test_names(text, expected):
    assert name_and_version(text) == expected


@pytest.mark.parametrize("text", ["", ":", ":v1", "m:"])
def test_what_is_no_name(text):
    with pytest.raises(CommandError) as caught:
        name_and_version(text)
    assert caught.value.status == USAGE


def test_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.onnx").touch()
    assert source_of("here.onnx", remote=False) == Path("here.onnx")
    for text, remote in [
        ("here.onnx", True),
        ("there.onnx", False),
        ("https://x/y.zip", False),
        ("file:/y", False),
        ("a\0b", False),
    ]:
        assert source_of(text, remote=remote) == text
    with pytest.raises(CommandError, match="no such file"):
        source_of("./there.onnx", remote=False)


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        (("v1:90", "v2:10"), {"v1": 90, "v2": 10}),
        (("v1=90,v2=10",), {"v1": 90, "v2": 10}),
        (("1.0:0",), {"1.0": 0}),
    ],
)
def test_weights(words, weights):
    assert weights_of(words) == weights


@pytest.mark.parametrize(
    "words", [(), ("v1",), ("v1:",), (":1",), ("v1:-1",), ("v1:x",), ("v1:1", "v1:2"), ("v1:²",), ("v1:1,",)]
)
def test_what_are_no_weights(words):
    with pytest.raises(CommandError, match="VERSION:SHARE"):
        weights_of(words)


def test_parameters():
    assert parameters_of(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    assert parameters_of(None) == {}
    with pytest.raises(CommandError, match="KEY=VALUE"):
        parameters_of(["a"])


def test_the_name_in_an_answer():
    assert registered_name('Model "mlp" registration scheduled.') == "mlp"
    assert registered_name("done") is None
