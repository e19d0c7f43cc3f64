"""How requests without a version are spread: weights, the default version, shadows, turns."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic, Turns, parse_weights
from flowyard.schemas.errors import InvalidRequestError

VERSIONS = {"v1": "one", "v2": "two", "v3": "three"}


@pytest.mark.parametrize(
    ("traffic", "shares"),
    [
        (NO_TRAFFIC, [("one", 1), ("two", 1), ("three", 1)]),
        (Traffic(weights={"v1": 90, "v2": 10}), [("one", 90), ("two", 10)]),
        (Traffic(weights={"v1": 1, "v2": 0}), [("one", 1)]),
        (Traffic(weights={"v1": 90, "v2": 10}, default="v3"), [("one", 90), ("two", 10)]),
        (Traffic(weights={"gone": 1}), []),
        (Traffic(default="v2"), [("two", 1)]),
        (Traffic(default="gone"), []),
        (Traffic(shadows=("v1",)), [("two", 1), ("three", 1)]),
        (Traffic(shadows=("v1",), default="v3"), [("three", 1)]),
    ],
)
def test_who_answers(traffic, shares):
    assert traffic.shares(VERSIONS) == shares


@pytest.mark.parametrize(
    ("traffic", "left"),
    [
        (Traffic(weights={"v1": 90, "v2": 10}), Traffic(weights={"v1": 90})),
        (Traffic(weights={"v1": 0, "v2": 10}), NO_TRAFFIC),
        (Traffic(default="v2"), NO_TRAFFIC),
        (Traffic(default="v1"), Traffic(default="v1")),
        (Traffic(shadows=("v2", "v3")), Traffic(shadows=("v3",))),
    ],
)
def test_a_version_that_goes_leaves_everything_that_was_said_of_it(traffic, left):
    assert traffic.without("v2") == left


def test_only_versions_that_are_there_are_kept():
    traffic = Traffic(weights={"v1": 1, "gone": 9}, default="gone", shadows=("v2", "gone"))
    assert traffic.among(VERSIONS) == Traffic(weights={"v1": 1}, shadows=("v2",))


def test_turns_are_smooth():
    turns = Turns([("a", 5), ("b", 1), ("c", 1)])
    assert "".join(turns.next() for _ in range(7)) == "aabacaa"
    assert "".join(Turns([("a", 1), ("b", 1), ("c", 1)]).next() for _ in range(1)) == "a"


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(1, 3))
def test_turns_are_exact_over_every_round(weights, rounds):
    turns = Turns(list(enumerate(weights)))
    total = sum(weights)
    picked = Counter(turns.next() for _ in range(total * rounds))
    assert picked == {place: weight * rounds for place, weight in enumerate(weights)}


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5), st.integers(1, 400))
def test_nobody_is_far_from_its_share_at_any_time(weights, count):
    turns = Turns(list(enumerate(weights)))
    picked = Counter(turns.next() for _ in range(count))
    for place, weight in enumerate(weights):
        assert abs(picked[place] - count * weight / sum(weights)) < len(weights)


def test_weights_are_read():
    assert parse_weights("v1:90,v2:10") == {"v1": 90, "v2": 10}
    assert parse_weights(" 1.0+cpu:1000 , default:0") == {"1.0+cpu": 1000, "default": 0}
    assert parse_weights("none") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v1", "'v1' is not allowed; allowed is VERSION:WEIGHT"),
        ("v1:", "'v1:'"),
        ("v1:-1", "'v1:-1'"),
        ("v1:1.5", "'v1:1.5'"),
        ("v1:1001", "0 to 1000"),
        ("v1:99999999999", "0 to 1000"),
        ("v1:1,,v2:2", "''"),
        ("v1:1,v1:2", "version v1 is listed twice"),
        ("v1:0,v2:0", "a sum above 0"),
        (":1", "':1'"),
    ],
)
def test_weights_that_are_none(text, says):
    with pytest.raises(InvalidRequestError, match="Parameter weights: ") as refused:
        parse_weights(text)
    assert says in refused.value.message
