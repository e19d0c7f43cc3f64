"""Names and versions: what is registered, and who answers."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowyard.platform.registry.endpoints import Endpoints
from flowyard.platform.registry.entries import Entry
from flowyard.platform.registry.records import Record
from flowyard.platform.registry.traffic import NO_TRAFFIC, Traffic
from flowyard.schemas.errors import ConflictError, InvalidRequestError, ModelNotFoundError, NotReadyError
from flowyard.schemas.models import ModelSpec


def pending(version="", name="m"):
    return Entry(Record(name=name, version=version, kind="model", url="m.onnx", digest="", spec=ModelSpec(), created=""))


def register(endpoints, version="", *, answers_whole=True):
    entry = pending(version)
    endpoints.add(entry)
    endpoints.ready(entry, SimpleNamespace(version=version, answers_whole=answers_whole, sequence_header=""))
    return entry


@pytest.fixture
def endpoints():
    """Versions v1, v2 and v3 of m, all ready."""
    made = Endpoints()
    for version in ("v1", "v2", "v3"):
        register(made, version)
    return made


def answering(endpoints, count=12):
    return Counter(endpoints.route("m").version for _ in range(count))


def test_versions_take_turns(endpoints):
    assert [endpoints.route("m").version for _ in range(4)] == ["v1", "v2", "v3", "v1"]


def test_a_name_answers_whole_where_all_do_whose_turn_comes_and_nobody_listens(endpoints):
    assert endpoints.whole == {"m"}
    endpoints.set_shadow("m", "v3", on=True)
    assert not endpoints.whole
    endpoints.set_shadow("m", "v3", on=False)
    register(endpoints, "v4", answers_whole=False)
    assert not endpoints.whole
    endpoints.set_weights("m", {"v1": 1})
    assert endpoints.whole == {"m"}


def test_weights_go_before_the_default_and_the_default_before_turns(endpoints):
    endpoints.set_default("m", "v3")
    assert answering(endpoints) == {"v3": 12}
    endpoints.set_weights("m", {"v1": 2, "v2": 1})
    assert answering(endpoints) == {"v1": 8, "v2": 4}
    endpoints.set_weights("m", {})
    assert answering(endpoints) == {"v3": 12}
    endpoints.clear_default("m", "v3")
    assert answering(endpoints) == {"v1": 4, "v2": 4, "v3": 4}


def test_a_new_version_gets_nothing_where_there_are_weights_or_a_default(endpoints):
    endpoints.set_weights("m", {"v1": 1})
    register(endpoints, "v4")
    assert answering(endpoints) == {"v1": 12}
    assert endpoints.route("m", "v4").version == "v4"


def test_what_is_said_of_a_version_goes_with_it(endpoints):
    endpoints.set_weights("m", {"v1": 3, "v2": 1})
    endpoints.set_default("m", "v2")
    endpoints.remove(endpoints.get("m", "v2"))
    assert endpoints.traffic("m") == Traffic(weights={"v1": 3})
    register(endpoints, "v2")
    assert answering(endpoints) == {"v1": 12}
    endpoints.remove(endpoints.get("m", "v1"))
    assert endpoints.traffic("m") == NO_TRAFFIC
    assert answering(endpoints) == {"v3": 6, "v2": 6}


def test_one_that_failed_and_is_registered_again_keeps_its_place_and_its_share(endpoints):
    failed = pending("v4")
    endpoints.add(failed)
    endpoints.set_weights("m", {"v1": 1, "v4": 1})
    assert answering(endpoints) == {"v1": 12}
    failed.failed("no reason")
    assert endpoints.add(pending("v4")) is failed
    endpoints.ready(endpoints.get("m", "v4"), SimpleNamespace(version="v4", answers_whole=True, sequence_header=""))
    assert answering(endpoints) == {"v1": 6, "v4": 6}


def test_a_shadow_answers_nothing_unless_it_is_named(endpoints):
    endpoints.set_shadow("m", "v2", on=True)
    assert answering(endpoints) == {"v1": 6, "v3": 6}
    assert endpoints.route("m", "v2").version == "v2"
    assert [entry.record.version for entry in endpoints.shadows["m"]] == ["v2"]
    endpoints.set_shadow("m", "v2", on=False)
    assert answering(endpoints) == {"v1": 4, "v2": 4, "v3": 4}
    assert endpoints.shadows == {}


def test_a_name_of_shadows_is_not_ready(endpoints):
    endpoints.set_shadow("m", "v2", on=True)
    for version in ("v1", "v3"):
        endpoints.remove(endpoints.get("m", version))
    with pytest.raises(NotReadyError, match="Model is not ready: m"):
        endpoints.route("m")


def test_the_default_version_that_does_not_run_answers_nothing(endpoints):
    endpoints.add(pending("v4"))
    endpoints.set_default("m", "v4")
    with pytest.raises(NotReadyError):
        endpoints.route("m")


def test_default_is_the_unversioned_one_until_another_is_chosen():
    endpoints = Endpoints()
    register(endpoints, "")
    register(endpoints, "v1")
    assert endpoints.route("m", "default").version == ""
    endpoints.set_default("m", "v1")
    assert endpoints.route("m", "default").version == "v1"
    endpoints.clear_default("m", "default")
    endpoints.set_weights("m", {"default": 1, "v1": 3})
    assert endpoints.traffic("m").weights == {"": 1, "v1": 3}


def test_a_version_called_default_is_that_version():
    endpoints = Endpoints()
    register(endpoints, "default")
    register(endpoints, "v1")
    endpoints.set_default("m", "v1")
    assert endpoints.route("m", "default").version == "default"


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [("", "", "m"), ("v1", "v1", "m:v1"), ("v1", "", "m"), ("", "default", "m:default")],
)
def test_what_is_taken_is_a_conflict(first, second, shown):
    endpoints = Endpoints()
    register(endpoints, first)
    with pytest.raises(ConflictError, match=f"^Workflow {shown} is already registered.$"):
        endpoints.add(pending(second))


MISTAKES = {
    "weights of a name that is not there": (lambda e: e.set_weights("n", {"v1": 1}), ModelNotFoundError, "not found: n"),
    "weights of a version that is not there": (
        lambda e: e.set_weights("m", {"v9": 1}),
        InvalidRequestError,
        "no version v9 of m; it has v1, v2, v3.",
    ),
    "a default that is not there": (lambda e: e.set_default("m", "v9"), ModelNotFoundError, "not found: m"),
    "a default of a name that is not there": (lambda e: e.set_default("n", "v1"), ModelNotFoundError, "not found: n"),
    "taking back what is not the default": (lambda e: e.clear_default("m", "v1"), ModelNotFoundError, "v1 is not the default"),
    "a shadow that is not there": (lambda e: e.set_shadow("m", "v9", on=True), ModelNotFoundError, "not found: m"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_change_nothing(endpoints, case):
    change, error, says = MISTAKES[case]
    with pytest.raises(error) as refused:
        change(endpoints)
    assert says in refused.value.message
    assert endpoints.traffic("m") == NO_TRAFFIC


def test_a_shadow_can_be_neither_default_nor_weighed_nor_the_last_one(endpoints):
    endpoints.set_weights("m", {"v1": 5, "v2": 0})
    endpoints.set_default("m", "v3")
    for version, says in (("v1", "has weight 5"), ("v3", "is the default version")):
        with pytest.raises(ConflictError, match=says):
            endpoints.set_shadow("m", version, on=True)
    endpoints.set_shadow("m", "v2", on=True)
    with pytest.raises(InvalidRequestError, match="v2 of m is a shadow"):
        endpoints.set_weights("m", {"v2": 1})
    with pytest.raises(ConflictError, match="v2 of m is a shadow"):
        endpoints.set_default("m", "v2")
    endpoints.restore_traffic("m", Traffic(shadows=("v1", "v2")))
    with pytest.raises(ConflictError, match="v3 is the only one of m that answers"):
        endpoints.set_shadow("m", "v3", on=True)


class Sequences(RuleBasedStateMachine):
    """Whatever is registered, removed and said, in whatever order: those answer that should, in the right shares."""

    def __init__(self):
        super().__init__()
        self.endpoints = Endpoints()
        self.ready: dict[str, Entry] = {}
        self.known: dict[str, Entry] = {}

    versions = st.sampled_from(["", "v1", "v2", "v3", "default"])

    @rule(version=versions, comes_up=st.booleans())
    def add(self, version, comes_up):
        entry = pending(version)
        allowed = version not in self.known and (version or not self.known) and not (version == "default" and "" in self.known)
        if not allowed:
            with pytest.raises(ConflictError):
                self.endpoints.add(entry)
            return
        assert self.endpoints.add(entry) is None
        self.known[version] = entry
        if comes_up:
            self.endpoints.ready(entry, SimpleNamespace(version=version, answers_whole=True, sequence_header=""))
            self.ready[version] = entry

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def remove(self, data):
        version = data.draw(st.sampled_from(sorted(self.known)))
        self.endpoints.remove(self.known.pop(version))
        self.ready.pop(version, None)

    @rule(weights=st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.integers(0, 4), max_size=3))
    def weigh(self, weights):
        self.attempt(lambda: self.endpoints.set_weights("m", weights if any(weights.values()) else {}))

    @rule(version=versions)
    def choose(self, version):
        self.attempt(lambda: self.endpoints.set_default("m", version))

    @rule(version=versions, on=st.booleans())
    def shadow(self, version, on):
        self.attempt(lambda: self.endpoints.set_shadow("m", version, on=on))

    def attempt(self, change):
        before = self.endpoints.traffic("m")
        try:
            change()
        except (ConflictError, InvalidRequestError, ModelNotFoundError):
            assert self.endpoints.traffic("m") == before

    @invariant()
    def nothing_is_said_of_what_is_not_there(self):
        traffic = self.endpoints.traffic("m")
        assert {*traffic.weights, *traffic.shadows} <= set(self.known)
        assert traffic.default is None or traffic.default in self.known
        assert traffic.default not in traffic.shadows
        assert not any(traffic.weights.get(shadow) for shadow in traffic.shadows)
        if not self.known:
            assert (traffic, self.endpoints.names(), self.endpoints.shadows) == (NO_TRAFFIC, [], {})

    @invariant()
    def shadows_are_those_that_run(self):
        shadows = self.endpoints.shadows.get("m", ())
        assert {entry.record.version for entry in shadows} == set(self.endpoints.traffic("m").shadows) & set(self.ready)

    @invariant()
    def who_answers_is_who_should(self):
        traffic = self.endpoints.traffic("m")
        if traffic.weights:
            shares = {version: traffic.weights.get(version, 0) for version in self.ready}
        elif traffic.default is not None:
            shares = {version: int(version == traffic.default) for version in self.ready}
        else:
            shares = {version: int(version not in traffic.shadows) for version in self.ready}
        shares = {version: share for version, share in shares.items() if share}
        if not self.known:
            with pytest.raises(ModelNotFoundError):
                self.endpoints.route("m")
        elif not shares:
            with pytest.raises(NotReadyError):
                self.endpoints.route("m")
        else:
            rounds = 2 * sum(shares.values())
            assert answering(self.endpoints, rounds) == {version: 2 * share for version, share in shares.items()}

    @invariant()
    def every_version_is_found_by_its_name(self):
        for version in filter(None, self.known):
            if version in self.ready:
                assert self.endpoints.route("m", version).version == version
            else:
                with pytest.raises(NotReadyError):
                    self.endpoints.route("m", version)


TestSequences = Sequences.TestCase
TestSequences.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_nobody_takes_the_place_of_what_may_have_to_come_back(endpoints):
    entry = endpoints.get("m", "v2")
    before = endpoints.taken_out([entry])
    with endpoints.places_kept(before), pytest.raises(ConflictError):
        endpoints.add(pending("v2"))
    endpoints.put_back(before)
    assert endpoints.holds(entry)
    endpoints.remove(entry)
    endpoints.add(pending("v2"))
