"""When an entry of a followed folder is taken for complete."""

from __future__ import annotations

from flowyard.platform.registry.watching import Watched, fingerprints

ONE, TWO = (1, 1, 1), (2, 2, 2)


def test_what_comes_is_told_once_when_it_is_quiet():
    watched = Watched(quiet_s=1.0)
    assert watched.seen({"a": ONE}, 0.0) == []
    assert watched.is_busy
    assert watched.seen({"a": ONE}, 0.9) == []
    assert watched.seen({"a": ONE}, 1.0) == ["a"]
    assert not watched.is_busy
    assert watched.seen({"a": ONE}, 9.0) == []


def test_what_still_grows_is_waited_for():
    watched = Watched(quiet_s=1.0)
    assert [watched.seen({"a": (size, size, 1)}, size * 0.8) for size in range(4)] == [[]] * 4
    assert watched.seen({"a": (3, 3, 1)}, 3.5) == ["a"]


def test_changes_and_losses_are_told_too():
    watched = Watched(quiet_s=1.0)
    watched.seen({"a": ONE, "b": ONE}, 0.0)
    assert watched.seen({"a": ONE, "b": ONE}, 1.0) == ["a", "b"]
    assert watched.seen({"a": TWO}, 2.0) == []
    assert watched.seen({"a": TWO}, 3.0) == ["a", "b"]


def test_what_is_as_it_was_is_not_told():
    watched = Watched(quiet_s=1.0)
    watched.seen({"a": ONE}, 0.0)
    watched.seen({"a": ONE}, 1.0)
    watched.seen({"a": TWO}, 2.0)
    assert watched.seen({"a": ONE}, 2.5) == []
    assert not watched.is_busy
    watched.seen({"a": ONE, "b": ONE}, 3.0)
    assert watched.seen({"a": ONE}, 3.5) == []
    assert watched.seen({"a": ONE}, 9.0) == []


def test_a_change_deep_in_a_folder_is_seen_and_what_is_hidden_is_not(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / ".partial").write_bytes(b"x")
    file = tmp_path / "model" / "deep" / "weights"
    file.write_bytes(b"1")
    before = fingerprints(tmp_path)
    file.write_bytes(b"12")
    after = fingerprints(tmp_path)
    assert before.keys() == after.keys() == {"model"}
    assert before != after
    assert fingerprints(tmp_path / "nowhere") == {}
