"""The cache of nodes: keys, bounds, and what a run takes from it and puts into it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.schemas.errors import NodeError, WorkerDiedError
from flowyard.schemas.payload import Payload
from flowyard.workflows.cache import ENTRY_BYTES, NodeCache, key_of, make_caches
from flowyard.workflows.check import compile_workflow
from flowyard.workflows.plan import CachePolicy

Drive = Callable[..., Any]
NODES = "out: {call: [m, in], cache: true}"


def key(*values: Any) -> bytes:
    return key_of(tuple(Payload.of(value) for value in values))


def test_equal_content_is_an_equal_key() -> None:
    assert key([1, "a"], np.arange(3)) == key([1, "a"], np.arange(3))
    assert key_of((Payload.from_json(b'{"a": 1}'),)) == key_of((Payload.from_json(b'{"a": 1}'),))
    assert key_of((Payload.from_json(b'{"a": 1}'),)) != key_of((Payload.from_json(b'{"a":1}'),))


def test_other_content_type_shape_or_division_is_another_key() -> None:
    values = [[1, 2], [[1, 2]], ["1", "2"], [np.zeros(2, "f4")], [np.zeros(1, "f8")], [np.zeros((2, 1), "f4")],
              [np.zeros((1, 2), "f4")], [b"x" * 2000], ["x" * 2000], [b"x" * 1000, b"x" * 1000],
              [np.zeros(1, "f4"), np.zeros(1, "f4")],
              [np.zeros(1, "i4"), np.zeros(1, "f4")], []]  # fmt: skip
    assert len({key(*args) for args in values}) == len(values)


@given(st.lists(st.binary(max_size=40).map(lambda data: data * 100), max_size=4), st.lists(st.binary(max_size=40), max_size=4))
def test_only_equal_arguments_share_a_key(some: list[bytes], others: list[bytes]) -> None:
    assert (key(*some) == key(*others)) == (some == others)


def test_the_result_not_used_for_the_longest_time_goes_first() -> None:
    cache = NodeCache(CachePolicy(max_entries=2))
    cache.put(b"a", Payload.of(1), 0.0)
    cache.put(b"b", Payload.of(2), 0.0)
    assert cache.get(b"a", 1.0) is not None
    cache.put(b"c", Payload.of(3), 2.0)
    assert [cache.get(name, 3.0) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_a_result_is_forgotten_when_its_time_is_over() -> None:
    cache = NodeCache(CachePolicy(ttl_s=60.0))
    cache.put(b"a", Payload.of(1), 10.0)
    assert cache.get(b"a", 69.9) is not None
    assert cache.get(b"a", 70.0) is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_bytes_are_bounded_and_a_result_that_never_fits_is_not_kept() -> None:
    cache = NodeCache(CachePolicy(), limit_bytes=2 * (ENTRY_BYTES + 1100))
    for name in (b"a", b"b", b"c"):
        cache.put(name, Payload.of(b"x" * 1024), 0.0)
    assert (cache.get(b"a", 0.0), len(cache)) == (None, 2)
    cache.put(b"b", Payload.of(b"x" * 10_000), 0.0)
    assert len(cache) == 1, "the old result of a key does not outlive the new one"
    cache.put(b"d", Payload.of(object()), 0.0)
    assert len(cache) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3000), st.integers(0, 30)), max_size=40))
def test_the_bounds_hold_whatever_is_put_in(puts: list[tuple[int, int, int]]) -> None:
    cache = NodeCache(CachePolicy(ttl_s=20.0, max_entries=3), limit_bytes=5000)
    for name, size, now in puts:
        cache.put(bytes([name]), Payload.of(b"x" * size), now)
        assert len(cache) <= 3
        assert len(cache) * ENTRY_BYTES <= cache.size_bytes <= 5000
        found = cache.get(bytes([name]), now)
        assert found is None or found.value() == b"x" * size


def test_a_kept_tensor_does_not_keep_the_frame_it_came_in() -> None:
    frame = bytearray(np.arange(1000, dtype="i8").tobytes())
    value = np.frombuffer(frame, "i8")
    cache = NodeCache(CachePolicy())
    cache.put(b"a", Payload.of(value), 0.0)
    frame[:8] = b"\xff" * 8
    found = cache.get(b"a", 0.0)
    assert found is not None
    assert found.value()[0] == 0
    assert found.value().flags.writeable is False


def test_the_nodes_of_a_plan_share_its_bytes() -> None:
    text = b"name: w\nmodels: {m: m.pt}\nworkflow: {a: {call: [m, in], cache: 1m}, out: {call: [m, a], cache: {max_entries: 5}}}"
    plan = compile_workflow(text, "w", None)
    assert [step.cache for step in plan.steps] == [CachePolicy(ttl_s=60.0), CachePolicy(max_entries=5)]
    caches = make_caches(plan, limit_bytes=4000)
    caches[0].put(b"a", Payload.of(b"x" * 1900), 0.0)
    assert (list(caches), len(caches[0])) == ([0, 1], 0)


def test_a_second_run_with_equal_arguments_makes_no_call(drive: Drive) -> None:
    first = drive(NODES, {"x": 1})
    caches = make_caches(first.plan)
    first = drive(NODES, {"x": 1}, caches=caches)
    first.start()
    first.done("out:m", 5)
    again = drive(NODES, {"x": 1}, caches=caches)
    assert again.start() == [{"answer": 5}]
    assert again.states() == {"out": "cached"}
    assert drive(NODES, {"x": 2}, caches=caches).start() == [("out:m", {"x": 2})]
    assert drive(NODES, {"x": 1}).start() == [("out:m", {"x": 1})]


def test_a_hit_sets_no_timer_and_lets_the_others_go_on(drive: Drive) -> None:
    nodes = "a: {call: [m, in], cache: 1s, timeout: 1s}\nout: [n, a]"
    caches = make_caches(drive(nodes).plan)
    run = drive(nodes, 1, caches=caches)
    run.start()
    run.done("a:m", 2, now=0.5)
    assert drive(nodes, 1, caches=caches).start(1.4) == [("out:n", 2)]
    assert drive(nodes, 1, caches=caches).start(1.5) == ["wake at 2.5", ("a:m", 1)]


def test_the_results_of_a_map_are_kept_as_one(drive: Drive) -> None:
    nodes = "out: {call: [map, m, in], cache: true}"
    caches = make_caches(drive(nodes).plan)
    run = drive(nodes, [1, 2], caches=caches)
    run.start()
    run.done("out:m", "a")
    run.done("out:m+", "b")
    assert drive(nodes, [1, 2], caches=caches).start() == [{"answer": ["a", "b"]}]


def test_a_retry_that_succeeds_is_kept(drive: Drive) -> None:
    nodes = "out: {call: [m, in], cache: true, retries: 1}"
    caches = make_caches(drive(nodes).plan)
    run = drive(nodes, 1, caches=caches)
    run.start()
    run.fail("out:m", WorkerDiedError("died"))
    run.done("out:m", 2)
    assert drive(nodes, 1, caches=caches).start() == [{"answer": 2}]


@pytest.mark.parametrize(
    ("nodes", "body"),
    [
        ("out: {call: [m, in.x], cache: true, fallback: in.x}", {"x": 1}),
        ("out: {call: [m, in.x], cache: true, when: in.x, else: in.x}", {"x": 1}),
        ("a: {call: [m, in.x], cache: true}\nout: [id, a]", {"x": 1}),
    ],
)
def test_what_takes_the_place_of_a_failed_call_is_not_kept(drive: Drive, nodes: str, body: Any) -> None:
    caches = make_caches(drive(nodes).plan)
    run = drive(nodes, body, caches=caches, top="on_error: pass\n")
    (started,) = run.start()
    run.fail(started[0], NodeError("bad"))
    assert run.run.finished
    assert drive(nodes, body, caches=caches).start() == [started]


def test_a_skipped_node_neither_asks_nor_keeps(drive: Drive) -> None:
    nodes = "out: {call: [m, in.x], cache: true, when: in.go}"
    caches = make_caches(drive(nodes).plan)
    assert drive(nodes, {"x": 1}, caches=caches).start() == [{"answer": None}]
    assert drive(nodes, {"x": 1, "go": 1}, caches=caches).start() == [("out:m", 1)]
