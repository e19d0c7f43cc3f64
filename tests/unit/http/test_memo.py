"""What is remembered of what clients say."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from flowyard.platform.http.access import need_of
from flowyard.platform.http.bodies import content_type
from flowyard.platform.http.kserve.api import route_of
from flowyard.platform.http.native.targets import target_of_path

LONG = 60_000
CALLS = {
    "need_of": lambda text: need_of(f"/models/{text}", "GET"),
    "target_of_path": lambda text: target_of_path(f"/predictions/{text}".encode()),
    "route_of": lambda text: route_of(f"/v2/models/{text}".encode()),
    "content_type": lambda text: content_type(f"text/{text}"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_long_texts_are_not_kept(call):
    call("warm")
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(200):
            call(f"{number}" + "a" * LONG)
        assert tracemalloc.get_traced_memory()[0] < 10 * LONG
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [1, 500, 513, LONG])
def test_the_answer_is_the_same_whatever_its_length(length):
    name = "n" * length
    assert target_of_path(f"/predictions/{name}/1".encode()) == (name, "1")
    assert need_of(f"/models/{name}/invoke", "POST") == "inference"
    assert need_of(f"/models/{name}", "POST") == "management"


def test_short_texts_are_kept():
    assert target_of_path(b"/predictions/kept/1") is target_of_path(b"/predictions/kept/1")
