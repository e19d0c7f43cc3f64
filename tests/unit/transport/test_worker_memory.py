"""What the server believes of what a worker says, how long it holds a result, and what goes by reference."""

import gc
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from flowyard.platform.workers.memory import Outbox, Parcel, SharedMemory, locate
from flowyard.schemas import arena
from flowyard.schemas.frames import ARENA_NUMBER, BODY_PLACE, OWN_ARENA, SHARED_FROM_BYTES, BodyReader, FrameError
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import Encoded, decode, encode

SIZE = 1 << 20
LARGE = SHARED_FROM_BYTES


class Pair:
    """An outbox with both of its sides."""

    def __init__(self):
        fd = arena.create("test", SIZE)
        self.outbox = Outbox(arena.reopen_for_reading(fd))
        self.writer = arena.WritableArena(fd)
        os.close(fd)

    def payload(self, array):
        encoded = encode(array)
        offset = self.writer.put(encoded.buffers[0])
        return Payload.from_encoded(Encoded(encoded.tree, (self.outbox.region(offset, len(encoded.buffers[0])),)))


@pytest.fixture
def pair():
    return Pair()


@pytest.fixture
def memory():
    dropped = []
    memory = SharedMemory(SIZE, dropped.append)
    memory.dropped = dropped
    yield memory
    memory.started()
    memory.close()


def numbers(count=LARGE // 8, start=0):
    return np.arange(start, start + count, dtype=np.float64)


def test_a_region_is_held_as_long_as_a_view_of_it_lives(pair):
    payload = pair.payload(numbers())
    part = payload.value()[10:20]
    del payload
    gc.collect()
    assert pair.outbox.used == LARGE
    assert pair.outbox.take_freed() == ()
    assert part.tolist() == list(range(10, 20))
    assert not part.flags.writeable
    del part
    assert pair.outbox.used == 0
    assert pair.outbox.take_freed() == (0,)
    assert pair.outbox.take_freed() == ()


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, SIZE + 64), (SIZE, LARGE), (SIZE - LARGE + 64, LARGE), (-64, LARGE), (32, LARGE), (0, 0), (0, -LARGE), (0, 8),
     (0, 2**63), (2**63, LARGE), (2 * LARGE, LARGE), (3 * LARGE - 64, LARGE), (LARGE + 64, LARGE), (64, SIZE - 64)],
)  # fmt: skip
def test_a_lie_about_a_region_is_a_broken_frame(pair, offset, size):
    held = pair.outbox.region(2 * LARGE, LARGE)
    with pytest.raises(FrameError):
        pair.outbox.region(offset, size)
    assert len(held) == LARGE
    assert pair.outbox.used == LARGE


def test_regions_side_by_side(pair):
    second = pair.outbox.region(LARGE, LARGE)
    first = pair.outbox.region(0, LARGE)
    third = pair.outbox.region(2 * LARGE, LARGE)
    del second
    with pytest.raises(FrameError):
        pair.outbox.region(64, LARGE)
    again = pair.outbox.region(LARGE, LARGE)
    assert pair.outbox.used == 3 * LARGE
    del first, third, again
    assert pair.outbox.used == 0


def test_what_refers_to_a_closed_outbox_keeps_its_bytes(pair):
    payload = pair.payload(numbers())
    pair.outbox.close()
    assert payload.value()[7] == 7


@pytest.mark.parametrize("number", [0, 2, 99])
def test_a_result_in_another_arena_than_its_own_is_a_broken_frame(memory, number):
    with pytest.raises(FrameError):
        memory.view_of(number, 0, LARGE)


def test_a_buffer_is_found_through_views_and_new_values(pair):
    payload = pair.payload(numbers(2 * LARGE // 8).reshape(2, -1))
    offset = locate(payload.encoded().buffers[0])[1]
    row = encode(payload.value()[1])
    region, second = locate(row.buffers[0])
    assert (offset, second) == (0, LARGE)
    assert region.outbox is pair.outbox
    assert locate(bytes(10)) is None
    assert locate(encode(numbers()).buffers[0]) is None


def test_arguments_go_through_the_inbox_until_it_is_full(memory):
    array = numbers()
    parcel = Parcel(memory)
    fitting = SIZE // LARGE
    wire = [parcel.add(encode([array + number, b"x"])) for number in range(fitting + 1)]
    assert [value.places for value in wire[:fitting]] == [((OWN_ARENA, LARGE * number),) for number in range(fitting)]
    assert wire[fitting].places == (BODY_PLACE,)
    assert len(parcel.buffers) == 1
    small = parcel.add(encode(numbers(100)))
    assert (small.sizes, small.places) == ((800,), ())
    memory.sent(5, parcel)
    assert memory.used == fitting * LARGE
    memory.answered(4)
    memory.answered(5)
    memory.answered(5)
    assert memory.used == 0


def test_a_result_of_another_worker_goes_by_reference(memory, pair):
    descriptors = socket.socket(fileno=os.dup(memory.inherited[2]))
    payload = pair.payload(numbers())
    parcel = Parcel(memory)
    for _ in range(2):
        value = parcel.add(payload.encoded())
        assert value.places == ((pair.outbox.number, 0),)
    assert (parcel.buffers, parcel.offsets) == ([], [])
    message, fds, _, _ = socket.recv_fds(descriptors, 100, 2)
    assert message == ARENA_NUMBER.pack(pair.outbox.number)
    mapped = memoryview(arena.map_for_reading(fds[0]))
    with pytest.raises(OSError, match=r"denied|permitted"):
        arena.WritableArena(fds[0])
    view_of = lambda number, offset, size: mapped[offset : offset + size]  # noqa: E731
    np.testing.assert_array_equal(decode(BodyReader(b"").take(value.tree, value.sizes, value.places, view_of)), numbers())

    memory.sent(1, parcel)
    del payload, parcel
    assert pair.outbox.used == LARGE, "the batch that reads it is not answered"
    memory.answered(1)
    assert pair.outbox.used == 0

    descriptors.setblocking(False)
    with pytest.raises(BlockingIOError):
        descriptors.recv(1)
    os.close(fds[0])
    descriptors.close()


def test_when_a_worker_is_gone_its_readers_are_told_and_its_results_are_copied(memory, pair):
    payload = pair.payload(numbers())
    Parcel(memory).add(payload.encoded())
    pair.outbox.close()
    assert memory.dropped == [pair.outbox.number]
    parcel = Parcel(memory)
    assert parcel.add(payload.encoded()).places == ((OWN_ARENA, 0),)


@pytest.mark.parametrize("places", [((1, 0), (1, 0)), ((1, 0),)])
def test_places_without_memory_or_without_buffers_are_a_broken_frame(places):
    with pytest.raises(FrameError):
        BodyReader(b"").take(b"\xc0", (5,), places, None if len(places) == 1 else lambda *_: b"")


def test_nothing_is_left_open():
    def count():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    memory = SharedMemory(SIZE, lambda number: None)
    memory.started()
    memory.close()
    assert count() == before


def test_a_full_arena_gives_its_pages_back(monkeypatch):
    monkeypatch.setattr(arena, "KEEP_BYTES", 1 << 16)
    fd = arena.create("test", SIZE)
    writer = arena.WritableArena(fd)
    first, second = writer.put(bytes(SIZE // 2)), writer.put(bytes(SIZE // 2))
    assert writer.put(b"x") is None
    writer.free(first)
    assert os.fstat(fd).st_blocks * 512 == SIZE
    writer.free(second)
    assert os.fstat(fd).st_blocks * 512 == 1 << 16
    with pytest.raises(OSError, match="permitted"):
        os.ftruncate(fd, 0)
    writer.close()
    os.close(fd)
