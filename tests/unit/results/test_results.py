"""Results that wait to be fetched: what is kept, for how long, and in how much memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowyard.platform.results import FOREVER, ITEM_BYTES, Head, Limits, Page, Results
from flowyard.schemas.errors import ResultsFullError

HEAD = Head(200, [(b"a", b"b")])
BAD = Head(424, [])


def make(count=3, items=10, ttl_s=60.0):
    """Room for so many items of ten bytes."""
    return Results(Limits(count=count, size_bytes=items * (ITEM_BYTES + 10), ttl_s=ttl_s))


def filled(results, token, items, now=0.0):
    results.open(token)
    results.begin(token, HEAD)
    return [results.add(token, b"0123456789", now) for _ in range(items)]


class TestReading:
    def test_nothing_has_come(self):
        results = make()
        results.open("a")
        assert results.read("a", 0, 9, 0) == Page(None, next=0)

    def test_items_come_in_pages_as_often_as_wanted(self):
        results = make()
        results.open("a")
        results.begin("a", HEAD)
        for item in (b"x", b"y", b"z"):
            results.add("a", item, 0)
        assert results.read("a", 0, 1, 0) == Page(HEAD, b"x", 1)
        assert results.read("a", 1, 9, 0) == Page(HEAD, b"yz", 3)
        assert results.read("a", 3, 9, 0) == Page(HEAD, b"", 3)
        results.end("a", 0)
        assert results.read("a", 3, 9, 0) == Page(HEAD, b"", None)
        assert results.read("a", 0, 2, 0) == Page(HEAD, b"xy", 2)
        # Nothing is left of earlier pages.
        assert results.read("a", 0, 9, 0) == Page(HEAD, b"xyz", None)

    def test_what_went_wrong_is_told_to_whoever_has_read_all_that_came_before(self):
        results = make()
        filled(results, "a", 2)
        results.end("a", 0, (BAD, b"why"))
        assert results.read("a", 0, 9, 0) == Page(HEAD, b"01234567890123456789", 2)
        assert results.read("a", 2, 9, 0) == Page(BAD, b"why", None)

    def test_one_that_failed_at_once(self):
        results = make()
        results.open("a")
        results.end("a", 0, (BAD, b"why"))
        assert results.read("a", 0, 9, 0) == Page(BAD, b"why", None)

    def test_items_that_cannot_be(self):
        results = make()
        filled(results, "a", 2)
        assert results.read("a", 3, 9, 0) is None
        assert results.read("b", 0, 9, 0) is None


class TestLimits:
    def test_as_many_as_may(self):
        results = make(count=2)
        results.open("a")
        results.open("b")
        with pytest.raises(ResultsFullError):
            results.open("c")
        results.remove("a")
        results.open("c")

    def test_a_result_waits_for_room_that_others_take(self):
        results = make(items=4)
        assert filled(results, "a", 3) == ["kept"] * 3
        assert filled(results, "b", 2) == ["kept", "no room"]
        assert results.remove("a")
        assert results.add("b", b"0123456789", 1) == "kept"

    def test_one_that_never_fits_is_told_so(self):
        results = make(items=2)
        assert filled(results, "a", 3) == ["kept", "kept", "too large"]

    def test_removed_ones_are_ignored(self):
        results = make()
        filled(results, "a", 1)
        assert results.remove("a") is True
        assert results.add("a", b"x", 0) == "kept"
        results.begin("a", HEAD)
        results.end("a", 0)
        assert (len(results), results.size_bytes, results.wake_at) == (0, 0, FOREVER)
        assert results.remove("a") is False


class TestTimeToLive:
    def test_it_counts_from_the_end_and_anew_from_each_reading(self):
        results = make(ttl_s=60)
        filled(results, "a", 1)
        assert (results.expire(1000), results.wake_at) == ([], FOREVER)
        results.end("a", 1000)
        assert results.wake_at == 1060
        results.read("a", 0, 1, 1050)
        assert (results.expire(1109), results.wake_at) == ([], 1110)
        assert results.expire(1110) == ["a"]
        assert results.read("a", 0, 1, 1110) is None

    def test_one_that_waits_for_room_does_not_wait_for_ever(self):
        results = make(items=1, ttl_s=60)
        filled(results, "a", 1)
        results.open("b")
        assert [results.add("b", b"x", now) for now in (5, 30)] == ["no room", "no room"]
        assert results.wake_at == 65
        assert results.expire(65) == ["b"]

    def test_the_oldest_goes_first(self):
        results = make(ttl_s=60)
        for now, token in enumerate("abc"):
            results.open(token)
            results.end(token, now)
        assert results.expire(61) == ["a", "b"]
        assert results.wake_at == 62


ACTIONS = st.tuples(
    st.sampled_from(["open", "add", "add", "add", "end", "fail", "read", "remove", "expire"]),
    st.integers(0, 3),
    st.integers(0, 60),
    st.sampled_from([0.0, 0.5, 3.0]),
)


def read_all(results, token, count, now):
    """All items of a result, read in pages, and the last page."""
    read, start = b"", 0
    while True:
        page = results.read(token, start, count, now)
        if page.head is not BAD:
            read += page.body
        if page.next in (None, start):
            return read, page
        start = page.next


@settings(max_examples=2_000, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_whatever_happens_it_is_bounded_and_nothing_is_lost_or_told_twice(actions):
    results = Results(Limits(count=2, size_bytes=4 * ITEM_BYTES, ttl_s=2))
    kept: dict[str, list[bytes]] = {}
    ended: dict[str, bool] = {}
    now = 0.0
    for kind, which, size, pause_s in actions:
        now += pause_s
        token = "abcd"[which]
        if kind == "open" and token not in kept:
            if len(kept) < 2:
                results.open(token)
                results.begin(token, HEAD)
                kept[token] = []
            else:
                with pytest.raises(ResultsFullError):
                    results.open(token)
        elif kind == "add" and token in kept and token not in ended:
            item = bytes([size]) * size
            if results.add(token, item, now) == "kept":
                kept[token].append(item)
        elif kind in ("end", "fail") and token in kept and token not in ended:
            results.end(token, now, (BAD, b"why") if kind == "fail" else None)
            ended[token] = kind == "end"
        elif kind == "read" and token in kept:
            read, last = read_all(results, token, 1 + which, now)
            assert read == b"".join(kept[token])
            assert (last.next is None) == (token in ended)
            assert (last.head is BAD) == (ended.get(token) is False)
        elif kind == "remove":
            assert results.remove(token) == (token in kept and token not in ended)
            kept.pop(token, None)
            ended.pop(token, None)
        elif kind == "expire":
            for gone in results.expire(now):
                del kept[gone]
                ended.pop(gone, None)
        assert len(results) == len(kept) <= 2
        assert results.size_bytes == sum(len(item) + ITEM_BYTES for items in kept.values() for item in items)
        assert results.size_bytes <= results.limits.size_bytes
        assert results.wake_at == FOREVER or results.wake_at <= now + 2
