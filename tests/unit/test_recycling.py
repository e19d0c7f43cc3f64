"""Memory that is used again."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from flowyard.platform.recycling import LARGEST_BYTES, SMALLEST_BYTES, Recycler
from flowyard.schemas.values import ALIGNMENT_BYTES


def address(memory):
    return np.frombuffer(memory, np.uint8).__array_interface__["data"][0]


@pytest.mark.parametrize("size", [0, 1, SMALLEST_BYTES - 1, SMALLEST_BYTES, 600_128, LARGEST_BYTES, LARGEST_BYTES + 1])
def test_memory_is_as_large_as_asked_for_and_aligned(size):
    memory = Recycler().memory(size)
    assert (len(memory), memory.format, memory.readonly) == (size, "B", False)
    if size:
        assert address(memory) % ALIGNMENT_BYTES == 0


def test_memory_comes_back_when_nothing_refers_to_it():
    recycler = Recycler()
    memory = recycler.memory(600_000)
    place = address(memory)
    array = np.frombuffer(memory[128:], np.float32, 100)
    readonly = memory.toreadonly()[5:9]
    del memory
    gc.collect()
    assert recycler.kept_bytes == 0
    assert address(recycler.memory(600_000)) != place
    del array
    assert recycler.kept_bytes == 1 << 20
    del readonly
    assert recycler.kept_bytes == 2 << 20
    # Of another size, as long as it is of that order.
    assert address(recycler.memory(700_000)) == place


def test_memory_may_come_back_while_memory_is_taken():
    recycler = Recycler()
    memory = [recycler.memory(600_000)]
    # As the garbage collector does, which comes in the middle of anything.
    with recycler._lock:
        memory.clear()
    assert recycler.kept_bytes == 1 << 20


def test_no_more_is_kept_than_was_said():
    recycler = Recycler(3 << 20)
    lent = [recycler.memory(1_000_000) for _ in range(5)]
    assert recycler.kept_bytes == 0
    lent.clear()
    assert recycler.kept_bytes == 3 << 20


def test_memory_may_be_let_go_of_in_any_thread():
    recycler = Recycler(64 << 20)

    def use():
        for size in range(100_000, 1_000_000, 9_999):
            recycler.memory(size)[-1] = 1

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    kept = sum(1 << (size - 1).bit_length() for size in (100_000, 200_000, 400_000, 800_000))
    assert kept <= recycler.kept_bytes <= 4 * kept
