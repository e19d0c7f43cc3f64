"""However the bytes arrive, both ends cut the same frames out of them."""

import socket
import threading

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from flowyard.engines.connection import REUSED_BYTES, SCRATCH_BYTES, Connection
from flowyard.platform.workers.channel import WorkerChannel
from flowyard.schemas.frames import (
    BodyReader,
    Context,
    FrameError,
    Heartbeat,
    Load,
    Predict,
    Results,
    WireCall,
    WireResult,
    WireValue,
    pack,
    unpack_to_server,
    unpack_to_worker,
)
from flowyard.schemas.values import ALIGNMENT_BYTES, Encoded

#: Sizes around those where something changes: nothing, padding, a small body, the scratch buffers.
SIZES = st.one_of(
    st.sampled_from([0, 1, 63, 64, 65, 2048, 2049, SCRATCH_BYTES, SCRATCH_BYTES + 1, 300_000]), st.integers(0, 5000)
)
FRAMES = st.lists(st.lists(SIZES, max_size=3), min_size=1, max_size=6)
TREES = st.sampled_from([b"", b"t" * 100, b"t" * 70_000, b"t" * 300_000])


def buffers_of(number, sizes):
    return [bytes([(number + index) % 256]) * size for index, size in enumerate(sizes)]


class Transport:
    aborted = False

    def abort(self):
        self.aborted = True


class Listener:
    def __init__(self):
        self.frames = []
        self.ends = []
        self.channel = WorkerChannel(self.on_frame, self.ends.append, lambda reason: self.ends.append(f"broken: {reason}"))
        self.channel.connection_made(Transport())

    def on_frame(self, message, body):
        if isinstance(message, Heartbeat):
            self.frames.append("alive")
            return
        (result,) = message.outcomes
        self.frames.append((message.batch_id, result.tree, [bytes(one) for one in taken(body, result).buffers]))

    def feed(self, data, pieces):
        start = 0
        while start < len(data):
            room = self.channel.get_buffer(-1)
            assert len(room) > 0
            size = min(len(room), len(data) - start, next(pieces))
            room[:size] = data[start : start + size]
            start += size
            self.channel.buffer_updated(size)


def taken(body, result):
    encoded = body.take(result.tree, result.sizes, result.places)
    assert isinstance(encoded, Encoded)
    return encoded


@settings(deadline=None, max_examples=60)
@given(FRAMES, TREES, st.lists(st.sampled_from([1, 7, 12, 64, 4096, 1 << 20]), min_size=1, max_size=5))
def test_the_server_cuts_frames_out_of_any_pieces(frames, tree, pieces):
    data, expected = b"", []
    for number, sizes in enumerate(frames):
        buffers = buffers_of(number, sizes)
        data += b"".join(pack(Results(number, (WireResult(tree, tuple(sizes)),), 0.0), buffers)) + b"".join(pack(Heartbeat()))
        expected += [(number, tree, buffers), "alive"]
    listener = Listener()
    small = iter(piece for _ in range(500) for piece in pieces)
    listener.feed(data, iter(lambda: next(small, 1 << 20), 0))
    assert listener.frames == expected
    assert listener.ends == []


@settings(deadline=None, max_examples=60)
@given(FRAMES, TREES, st.integers(1, 1 << 20), st.booleans())
def test_the_worker_cuts_frames_out_of_any_pieces(frames, tree, piece, reuses_memory):
    data, expected = b"", []
    for number, sizes in enumerate(frames):
        buffers = buffers_of(number, sizes)
        value = WireValue(tree, tuple(sizes))
        data += b"".join(pack(Predict(number, (WireCall("", (value,), Context()),)), buffers))
        expected.append((number, tree, buffers))
    piece = max(piece, len(data) // 200)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=lambda: [ours.sendall(data[at : at + piece]) for at in range(0, len(data), piece)])
        sender.start()
        connection = Connection(theirs)
        connection.reuses_memory = reuses_memory
        for number, wanted_tree, buffers in expected:
            message, body = connection.receive()
            value = message.calls[0].args[0]
            assert (message.batch_id, value.tree) == (number, wanted_tree)
            assert [bytes(one) for one in taken(BodyReader(body), value).buffers] == buffers
        sender.join()
        ours.close()
        assert connection.receive() is None


def test_bodies_are_aligned_and_their_memory_is_never_used_again():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(theirs)
        kept = []
        for number in range(200):
            content = bytes([number]) * (30 * number % 5000 + 1)
            ours.sendall(b"".join(pack(Predict(number, ()), [content])))
            kept.append((connection.receive()[1], content))
        for body, content in kept:
            assert bytes(body[: len(content)]) == content
            assert address(body) % ALIGNMENT_BYTES == 0


def address(view):
    import numpy as np

    return np.frombuffer(view, np.uint8).ctypes.data


@pytest.mark.parametrize("data", [b"\xff" * 12, b"".join(pack(Load("e", "/", "p", "cpu", None)))])
def test_what_is_no_frame_is_reported_once(data):
    listener = Listener()
    listener.feed(data, iter([len(data)]))
    listener.channel.connection_lost(None)
    assert len(listener.ends) == 1
    assert listener.ends[0].startswith("broken: broken frame")


def test_the_end_of_the_connection_is_reported_once():
    listener = Listener()
    listener.channel.connection_lost(None)
    listener.channel.connection_lost(OSError("gone"))
    assert listener.ends == ["the connection ended"]


@pytest.mark.parametrize("sizes", [(-1,), (65,), (1, 1), (1 << 70,)])
def test_sizes_that_reach_past_the_body_are_a_broken_frame(sizes):
    with pytest.raises(FrameError):
        BodyReader(bytes(64)).take(b"", sizes)


@pytest.mark.parametrize(
    "head",
    [b"", b"\xc1", b"\x94\xa7result\xff\x01\x90\xca\0\0\0\0", b"\x91" * 100_000, b"\x91\xa4what"],
    ids=["nothing", "no msgpack", "no UTF-8", "nested", "unknown"],
)
def test_a_head_that_cannot_be_read_is_a_broken_frame(head):
    for unpack in (unpack_to_server, unpack_to_worker):
        with pytest.raises(FrameError):
            unpack(head)


def test_bodies_share_their_memory_where_nobody_keeps_them():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(theirs)
        connection.reuses_memory = True
        places = set()
        for size in (100_000, 100, 50_000, REUSED_BYTES + 1, 10):
            content = bytes([size % 251]) * size
            sender = threading.Thread(target=ours.sendall, args=(b"".join(pack(Predict(1, ()), [content])),))
            sender.start()
            _, body = connection.receive()
            sender.join()
            assert bytes(body[:size]) == content
            assert address(body) % ALIGNMENT_BYTES == 0
            if size <= REUSED_BYTES:
                places.add(address(body))
        assert len(places) == 1


def test_many_threads_send_whole_frames():
    ours, theirs = socket.socketpair()
    listener = Listener()
    with ours, theirs:
        connection = Connection(theirs)
        big = [bytes(5000)] * 1500

        def send(number):
            connection.send(Results(number, (WireResult(b"", tuple(map(len, big))),), 0.0), big)
            connection.send(Heartbeat())

        threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(listener.frames) < 8:
            room = listener.channel.get_buffer(-1)
            listener.channel.buffer_updated(ours.recv_into(room))
        for thread in threads:
            thread.join()
    assert listener.frames.count("alive") == 4
    assert sorted(frame[0] for frame in listener.frames if frame != "alive") == [0, 1, 2, 3]
    assert listener.ends == []
