"""Sequences and versions: a sequence goes on where it began, and new ones are spread as requests are."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.sequences import SequenceTurns
from flowyard.schemas.errors import NotReadyError
from flowyard.schemas.models import ModelSpec

HEADER = "x-session"


class Version:
    """A version that runs, and the sequences it keeps; without a header it knows of none."""

    answers_whole = False

    def __init__(self, name, *kept, header=HEADER):
        self.version = name
        self.sequence_header = header
        self.kept = set(kept)

    def keeps(self, sequence):
        return sequence in self.kept


@pytest.fixture
def endpoints():
    """Versions v1 and v2 of m, which keep sequences, and v3, which keeps none."""
    made = Endpoints()
    for version in (Version("v1"), Version("v2"), Version("v3", header="")):
        record = Record(name="m", version=version.version, kind="model", url="m", digest="", spec=ModelSpec(), created="")
        entry = Entry(record)
        made.add(entry)
        made.ready(entry, version)
    return made


def of(sequence):
    return {HEADER: sequence}


def running(endpoints, version):
    return endpoints.get("m", version).deployment


def route(endpoints, sequence=""):
    return endpoints.route("m", None, of(sequence)).version


def test_requests_of_no_sequence_take_turns(endpoints):
    assert [route(endpoints) for _ in range(4)] == ["v1", "v2", "v3", "v1"]
    assert [endpoints.route("m").version for _ in range(2)] == ["v2", "v3"]


def test_a_sequence_goes_on_where_it_is_kept_whatever_is_said_of_the_versions(endpoints):
    running(endpoints, "v2").kept.add("a")
    assert {route(endpoints, "a") for _ in range(5)} == {"v2"}
    endpoints.set_weights("m", {"v1": 9, "v3": 1})
    assert {route(endpoints, "a") for _ in range(5)} == {"v2"}
    assert Counter(route(endpoints) for _ in range(10)) == {"v1": 9, "v3": 1}
    endpoints.set_weights("m", {})
    endpoints.set_default("m", "v1")
    assert {route(endpoints, "a") for _ in range(5)} == {"v2"}
    # A request that names a version goes there.
    assert endpoints.route("m", "v1", of("a")).version == "v1"


def test_where_its_version_is_gone_or_a_shadow_it_goes_to_another(endpoints):
    running(endpoints, "v2").kept.add("a")
    endpoints.set_shadow("m", "v2", on=True)
    assert route(endpoints, "a") in ("v1", "v3")
    endpoints.set_shadow("m", "v2", on=False)
    assert route(endpoints, "a") == "v2"
    endpoints.remove(endpoints.get("m", "v2"))
    assert route(endpoints, "a") in ("v1", "v3")


def test_one_version_or_none_that_keeps_sequences_is_asked_nothing(endpoints):
    assert set(endpoints.of_sequences) == {"m"}
    endpoints.remove(endpoints.get("m", "v1"))
    assert set(endpoints.of_sequences) == {"m"}
    endpoints.remove(endpoints.get("m", "v3"))
    assert not endpoints.of_sequences
    assert route(endpoints, "a") == "v2"
    endpoints.remove(endpoints.get("m", "v2"))
    with pytest.raises(Exception, match="not found"):
        route(endpoints, "a")


def test_a_default_that_does_not_run_answers_nothing(endpoints):
    record = Record(name="m", version="v4", kind="model", url="m", digest="", spec=ModelSpec(), created="")
    endpoints.add(Entry(record))
    endpoints.set_default("m", "v4")
    with pytest.raises(NotReadyError):
        route(endpoints, "a")


@given(st.text(max_size=20), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_new_sequence_goes_to_the_same_version_however_often_it_is_asked(name, weights):
    versions = [Version(f"v{number}") for number in range(len(weights))]
    turns = SequenceTurns(list(zip(versions, weights, strict=True)), versions)
    chosen = turns.next(of(name))
    if name:
        assert [turns.next(of(name)) for _ in range(3)] == [chosen] * 3


def test_named_sequences_are_spread_by_the_shares():
    versions = [Version("v1"), Version("v2")]
    turns = SequenceTurns([(versions[0], 3), (versions[1], 1)], versions)
    found = Counter(turns.next(of(f"session-{number}")).version for number in range(4000))
    assert 2850 < found["v1"] < 3150
