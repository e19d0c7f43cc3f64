"""What is done about a difference, and that there is none where nothing is different."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.platform.client.answers import AdapterState, NameState, VersionState
from flowyard.platform.desired.changes import compare
from flowyard.platform.desired.documents import NameDocument, VersionDocument, Wanted, exported
from flowyard.platform.http.native.parameters import RegisterModel
from flowyard.platform.http.native.parameters import read as read_parameters
from flowyard.schemas.adapters import AdapterSpec


def version(name="v1", url="a.zip", status="READY", **given):
    return VersionState(version=name, url=url, status=status, **given)


def wanted(*versions, folder=Path(), **said):
    return Wanted(NameDocument(name="m", versions=versions, **said), "m.yaml, document 1", folder)


def lines(document, *versions, prune=False, **said):
    state = [NameState(name="m", versions=versions, **said)] if versions else []
    found = compare([document], state, prune=prune)
    assert not found.impossible
    return [(str(change), change.call.method, change.call.path, dict(change.call.query)) for change in found.changes]


def test_what_is_not_there_is_registered():
    document = wanted(VersionDocument(version="v1", url="a.zip", batch_size=4, min_worker=1, sha256="A" * 64))
    query = {"url": "a.zip", "batch_size": "4", "model_name": "m", "model_version": "v1", "sha256": "a" * 64, "min_worker": "1"}
    assert lines(document) == [("+ m:v1  a.zip", "POST", "/models", query)]


@pytest.mark.parametrize(
    ("asked", "present", "told"),
    [
        ({}, {"parameters": {"batch_size": 4}}, "~ m:v1  batch_size 4 -> none"),
        ({"timeout": 5}, {}, "~ m:v1  timeout none -> 5.0"),
        ({"trusted": True}, {}, "~ m:v1  trusted none -> true"),
        ({}, {"status": "FAILED"}, "~ m:v1  it has failed"),
        ({"sha256": "b" * 64}, {"digest": "a" * 64}, "~ m:v1  sha256"),
        ({"handler": "h.py"}, {}, "~ m:v1  handler none -> h.py"),
        ({"decode_input_request": False}, {}, "~ m:v1  decode_input_request none -> false"),
        ({}, {"parameters": {"options": {"service_envelope": "json"}}}, "~ m:v1  service_envelope json -> none"),
    ],
)
def test_what_differs_is_replaced(asked, present, told):
    document = wanted(VersionDocument(version="v1", url="a.zip", **{"timeout": None} | asked))
    ((line, method, path, query),) = lines(document, version(**present))
    assert (line.replace(" 5 ", " 5.0 ").rstrip(), method, path, query["replace"]) == (line, "POST", "/models", "true")
    assert line.split("->")[0] == told.split("->")[0]


def test_what_is_said_to_handlers_is_said_in_the_registration_and_then_there():
    said = {"handler": "h.py:f", "service_envelope": "kserve", "decode_input_request": False, "startup_timeout": 7.5}
    document = wanted(VersionDocument(version="v1", url="a.mar", **said))
    ((_, _, _, query),) = lines(document)
    parameters = read_parameters(RegisterModel, {name: query[name] for name in said}, text=True)
    options = parameters.spec().options
    assert options == {**said, "decode_input_request": "false", "startup_timeout": "7.5"}
    # Workers and the like of TorchServe's API are options, too; a document says them in its own words.
    present = version(url="a.mar", parameters={"options": options | {"initial_workers": "2"}})
    assert lines(document, present) == []
    assert exported(NameState(name="m", versions=(present,))).versions[0] == document.document.versions[0]
    none = version(parameters={"options": {"startup_timeout": "0"}})
    assert exported(NameState(name="m", versions=(none,))).versions[0].startup_timeout is None


def test_another_url_is_another_archive():
    ((line, _, _, query),) = lines(wanted(VersionDocument(version="v1", url="b.zip")), version())
    assert line == "~ m:v1  url a.zip -> b.zip"
    assert query["url"] == "b.zip"


@pytest.mark.parametrize(
    ("asked", "present", "query"),
    [
        ({"max_worker": 3}, {"parameters": {"max_worker": 2}}, {"max_worker": "3"}),
        ({"min_worker": 1, "max_worker": 3}, {"workers": {"m": {"cpu": (1, 2)}}}, {"min_worker": "1", "max_worker": "3"}),
        (
            {"workers": {"x": {"cpu": (1, 2)}, "y": {"cpu": (2, 2)}}},
            {"workers": {"x": {"cpu": (1, 2)}, "y": {"cpu": (1, 2)}}},
            {"min_worker": "2", "max_worker": "2", "device": "cpu", "model": "y"},
        ),
    ],
)
def test_other_numbers_of_workers_are_scaled(asked, present, query):
    ((_, method, path, told),) = lines(wanted(VersionDocument(version="v1", url="a.zip", **asked)), version(**present))
    assert (method, path, told) == ("PUT", "/models/m/v1", query)


def spec(name, **given):
    return AdapterSpec(name=name, src=f"/data/{name}", **given)


def told(name, **given):
    return AdapterState(name=name, src=f"/data/{name}", **given)


@pytest.mark.parametrize(
    ("asked", "present"),
    [
        ({"m": (spec("a"),)}, {}),
        ({"m": ()}, {}),
        ({"m": (spec("a"),)}, {"m": (told("b"),)}),
        ({"m": (spec("a"),)}, {"m": (told("a"), told("b"))}),
        ({"m": (spec("a", options={"rank": 8}),)}, {"m": (told("a", options={"rank": "4"}),)}),
        ({"m": (spec("a", alias="x"),)}, {"m": (told("a"),)}),
    ],
)
def test_other_adapters_are_set(asked, present):
    document = wanted(VersionDocument(version="v1", url="a.zip", adapters=asked))
    ((line, method, path, query),) = lines(document, version(adapters=present))
    names = ", ".join(adapter.name for adapter in asked["m"]) or "none"
    assert (line, method, path, query) == (f"~ m:v1  adapters of m: {names}", "PUT", "/models/m/v1/adapters", {})


@pytest.mark.parametrize(
    ("asked", "present"),
    [
        ({}, {"m": (told("a"),)}),
        ({"m": ()}, {"m": ()}),
        ({"m": (spec("a"), spec("b"))}, {"m": (told("b"), told("a"))}),
        ({"m": (spec("a", options={"rank": 8, "pin": True}),)}, {"m": (told("a", options={"rank": "8", "pin": "true"}),)}),
        ({"m": (spec("a", alias="a"),)}, {"m": (told("a"),), "n": (told("b"),)}),
    ],
)
def test_adapters_that_are_not_said_or_there_already_stay(asked, present):
    document = wanted(VersionDocument(version="v1", url="a.zip", adapters=asked))
    assert lines(document, version(adapters=present)) == []


def test_adapters_follow_their_registration():
    document = wanted(VersionDocument(version="v1", url="b.zip", adapters={"m": (spec("a", options={"rank": 8}),)}))
    for present in ((), (version(adapters={"m": (told("a", options={"rank": "8"}),)}),)):
        found = compare([document], [NameState(name="m", versions=present)] if present else [], prune=False)
        assert [(change.call.method, change.call.path) for change in found.changes] == [
            ("POST", "/models"),
            ("PUT", "/models/m/v1/adapters"),
        ]
    body = json.loads(found.changes[-1].call.body)
    assert body == {"model": "m", "adapters": [{"name": "a", "src": "/data/a", "options": {"rank": 8}}]}


def test_numbers_that_are_not_said_stay():
    document = wanted(VersionDocument(version="v1", url="a.zip"))
    assert lines(document, version(workers={"m": {"cpu": (1, 9)}})) == []


def test_the_order_lets_somebody_answer_all_the_time():
    document = wanted(
        VersionDocument(version="v2", url="b.zip"), VersionDocument(version="v3", url="c.zip"), default="v2", shadows=("v3",)
    )
    told = [line for line, *_ in lines(document, version("v1"), default="v1")]
    assert told == ["+ m:v2  b.zip", "+ m:v3  c.zip", "~ m:v2  is the default version", "~ m:v3  is a shadow", "- m:v1"]


def test_what_is_not_said_is_taken_back():
    document = wanted(VersionDocument(version="v1", url="a.zip"), VersionDocument(version="v2", url="a.zip"))
    said = {"weights": {"v1": 1}, "default": "v1", "shadows": ("v2",)}
    told = [(line, method, query) for line, method, _, query in lines(document, version("v1"), version("v2"), **said)]
    assert told == [
        ("~ m:v2  is no shadow", "PUT", {"shadow": "false"}),
        ("~ m:v1  is no longer the default version", "DELETE", {}),
        ("~ m  weights none", "PUT", {"weights": "none"}),
    ]


def test_names_in_no_document_stay_unless_they_are_to_go():
    state = [NameState(name="other", versions=(version(),))]
    found = compare([], state, prune=False)
    assert (found.changes, found.unlisted) == ((), ("other",))
    pruned = compare([], state, prune=True)
    assert ([str(change) for change in pruned.changes], pruned.unlisted) == (["- other"], ())


def test_files_are_compared_by_what_they_hold(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"one")
    document = wanted(VersionDocument(version="v1", file="a.zip"), folder=tmp_path)
    ((_, _, _, query),) = lines(document)
    present = version(url="upload:sha256:x", sha256=query["sha256"])
    assert lines(document, present) == []
    (tmp_path / "a.zip").write_bytes(b"two")
    ((line, *_),) = lines(document, present)
    assert line == "~ m:v1  the file"


@pytest.mark.parametrize(
    ("document", "present", "words"),
    [
        (VersionDocument(version="v1", url="upload:sha256:x"), None, "was uploaded and is not here"),
        (
            VersionDocument(version="v1", url="upload:sha256:x", batch_size=3),
            version(url="upload:sha256:x"),
            "batch_size none -> 3",
        ),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is(document, present, words):
    state = [NameState(name="m", versions=(present,))] if present is not None else []
    found = compare([wanted(document)], state, prune=False)
    assert not found.changes
    assert words in found.impossible[0]


def test_a_version_that_no_call_can_mean_is_told():
    document = wanted(VersionDocument(url="a.zip"), VersionDocument(version="v1", url="a.zip"), default="v1")
    found = compare([document], [], prune=False)
    assert "give all versions a name" in found.impossible[0]


numbers = st.tuples(st.integers(0, 2), st.integers(2, 4))
states = st.builds(
    lambda versions, weights, default: NameState(
        name="m",
        versions=tuple(versions),
        weights={item.version: weights[index] for index, item in enumerate(versions) if weights[0]} if weights[0] else {},
        default=versions[0].version if default else None,
    ),
    st.lists(
        st.builds(
            version,
            st.sampled_from(["v1", "v2", "v3"]),
            st.sampled_from(["a.zip", "upload:sha256:x"]),
            parameters=st.fixed_dictionaries(
                {}, optional={"batch_size": st.integers(1, 9), "engine": st.just("Python"), "min_worker": st.integers(0, 2)}
            ),
            workers=st.dictionaries(
                st.sampled_from(["x", "y"]), st.dictionaries(st.sampled_from(["cpu", "gpu0"]), numbers, min_size=1)
            ),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda item: item.version,
    ),
    st.lists(st.integers(0, 5), min_size=3, max_size=3),
    st.booleans(),
)


@given(states)
def test_what_is_exported_is_what_is_there(state):
    document = Wanted(exported(state), "exported", Path())
    found = compare([document], [state], prune=True)
    assert ([str(change) for change in found.changes], found.impossible) == ([], ())
