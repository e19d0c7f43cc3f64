"""What paths of the inference APIs mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.http.torchserve.routes import Call, mms_call, segments_of, torchserve_call


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", ()),
        ("//", ()),
        ("/ping", ("ping",)),
        ("/ping/", ("ping",)),
        ("//ping", ("", "ping")),
        ("/models/x/", ("models", "x")),
        ("/models//x", ("models", "", "x")),
    ],
)
def test_empty_segments_at_the_end_are_dropped(path, segments):
    assert segments_of(path) == segments


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/predictions/m", Call("m", url_path="", explain=False)),
        ("/predictions/m/1.0", Call("m", "1.0", url_path="", explain=False)),
        ("/predictions/m/1.0/v1/chat/completions", Call("m", "1.0", url_path="v1/chat/completions", explain=False)),
        ("/predictions/m/1.0//y", Call("m", "1.0", url_path="/y", explain=False)),
        ("/explanations/m/1.0/p", Call("m", "1.0", url_path="p", explain=True)),
        ("/invocations", Call(None, takes_query=True)),
        ("/models/m/invoke", Call("m", takes_query=True)),
        ("/m/predict", Call("m", takes_query=True)),
        ("/m/1.0/predict", Call("m", "1.0", takes_query=True)),
        ("/v1/models/m:predict", Call("m", explain=False)),
        ("/v1/models/m:explain", Call("m", explain=True)),
        ("/v2/models/m/infer", Call("m", explain=False)),
        ("/v2/models/m:x/infer", Call("m", explain=False)),
        ("/v2/models/m/explain", Call("m", explain=True)),
        ("/wfpredict/w", Call("w", workflow=True)),
        ("/WFPredict/w/ignored", Call("w", workflow=True)),
        ("/predictions", None),
        ("/Predictions/m", None),
        ("/explanations/", None),
        ("/invocations/x", None),
        ("/models/m/other", None),
        ("/models/m", None),
        ("/m/other", None),
        ("/v1/models/m", None),
        ("/v1/models/m:other", None),
        ("/v1/models/m/1.0:predict", None),
        ("/v2/models/m/versions/1/infer", None),
        ("/wfpredict", None),
    ],
)
def test_torchserve(path, call):
    assert torchserve_call(segments_of(path)) == call


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/predictions/m", Call("m")),
        ("/predictions/m/ignored/too", Call("m")),
        ("/m/predict", Call("m", takes_query=True)),
        ("/models/m/invoke", Call("m", takes_query=True)),
        ("/invocations", Call(None, takes_query=True)),
        ("/m/1.0/predict", None),
        ("/explanations/m", None),
        ("/v1/models/m:predict", None),
    ],
)
def test_mms(path, call):
    assert mms_call(segments_of(path)) == call


@given(st.lists(st.text(max_size=5), max_size=6))
def test_any_path_means_something_or_nothing(parts):
    segments = segments_of("/" + "/".join(parts))
    for call in (torchserve_call(segments), mms_call(segments)):
        assert call is None or call.name is None or call.name in "".join(segments)
