"""The real worker process at the other end of a socket."""

import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from support.server import wait_until

from flowyard.schemas import arena, frames
from flowyard.schemas.devices import CPU
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.payload import Payload
from flowyard.schemas.values import decode

CODE = """
import os, pathlib, signal, sys, time
print("loading")

def echo(x): print("to stdout"); return x
def fail(x): raise ValueError(x)
def strange(x): return object()
def surrogate(x): raise ValueError("\\udcff" * 9000)
kept = []
def keep(x): kept.append(x); return float(kept[0].sum())
def cwd(x): return [os.getcwd(), sys.path[0], os.environ["OMP_NUM_THREADS"]]
def many(x): return [x] * 3000
def wait(x):
    while not os.path.exists("go"): time.sleep(0.01)
def fork(x):
    child = os.fork()
    if not child:
        os.close(1), os.close(2)
        signal.pause()
    pathlib.Path("child").write_text(str(child))
    return "forked"
"""
FUNCTIONS = {name: f"steps:{name}" for name in ("echo", "fail", "strange", "surrogate", "cwd", "many", "fork", "keep")}


class Worker:
    def __init__(self, root, shared=()):
        self.root = root
        self.socket, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            command = [sys.executable, "-m", "flowyard.engines.worker", "--fd", str(theirs.fileno())]
            if shared:
                command += ["--shared", *map(str, shared)]
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno(), *shared], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        self.socket.settimeout(60)

    def load(self, engine="Python", path="", functions=None, spec=None):
        self.send(frames.Load(engine, str(self.root), path, CPU, spec or ModelSpec(), functions or {}, 1))
        return self.receive()[0]

    def predict(self, *calls, batch_id=1):
        payloads = [[Payload.of(arg) if not isinstance(arg, Payload) else arg for arg in args] for _, *args in calls]
        encoded = [[payload.encoded() for payload in args] for args in payloads]
        wire = tuple(
            frames.WireCall(
                callee, tuple(frames.WireValue(one.tree, tuple(map(len, one.buffers))) for one in args), frames.Context()
            )
            for (callee, *_), args in zip(calls, encoded, strict=True)
        )
        self.send(frames.Predict(batch_id, wire), [buffer for args in encoded for one in args for buffer in one.buffers])
        message, body = self.receive()
        assert message.batch_id == batch_id
        reader = frames.BodyReader(body)
        return [
            decode(reader.take(one.tree, one.sizes)) if isinstance(one, frames.WireResult) else (one.code, one.message)
            for one in message.outcomes
        ]

    def send(self, message, buffers=()):
        for chunk in frames.pack(message, buffers):
            self.socket.sendall(chunk)

    def receive(self):
        """The next frame that is more than a sign of life."""
        while True:
            message, body = self.receive_any()
            if not isinstance(message, frames.Heartbeat):
                return message, body

    def receive_any(self):
        head, body = frames.read_prefix(self.exactly(frames.PREFIX_BYTES))
        return frames.unpack_to_server(self.exactly(head)), self.exactly(body)

    def exactly(self, size):
        data = bytearray()
        while len(data) < size:
            part = self.socket.recv(min(size - len(data), 1 << 20))
            assert part, "the worker closed the socket"
            data += part
        return bytes(data)

    def end(self):
        self.socket.close()
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "steps.py").write_text(CODE)
    worker = Worker(tmp_path)
    yield worker
    worker.socket.close()
    worker.process.kill()
    worker.process.communicate(timeout=60)


def test_results_errors_and_the_end_of_the_socket(worker):
    ready = worker.load(functions=FUNCTIONS)
    assert isinstance(ready, frames.Ready)
    assert ready.load_s > 0
    array = np.arange(100_000, dtype=np.float64)
    outcomes = worker.predict(
        ("echo", array), ("fail", "why"), ("echo", Payload.from_json(b'{"a": ')), ("echo", Payload.from_json(b'{"a": [1]}')),
        ("strange", 1), ("surrogate", 1), ("echo", b"x" * 5000), batch_id=7,
    )  # fmt: skip
    np.testing.assert_array_equal(outcomes[0], array)
    assert outcomes[1] == ("node_error", "ValueError: why")
    assert outcomes[2][0] == "invalid_input"
    assert "not valid JSON" in outcomes[2][1]
    assert outcomes[3] == {"a": [1]}
    assert outcomes[4][0] == "node_error"
    assert "object" in outcomes[4][1]
    assert outcomes[5][0] == "node_error"
    assert len(outcomes[5][1]) <= 6 * 4000
    assert outcomes[6] == b"x" * 5000
    assert worker.predict(("cwd", 1)) == [[str(worker.root), str(worker.root), "1"]]
    code, out, err = worker.end()
    assert (code, out) == (0, "")
    assert "loading" in err
    assert "to stdout" in err


def test_a_result_of_thousands_of_buffers_and_interrupts(worker):
    worker.load(functions=FUNCTIONS)
    os.kill(worker.process.pid, signal.SIGINT)
    (arrays,) = worker.predict(("many", np.ones(300)))
    assert len(arrays) == 3000
    assert all(array.sum() == 300 for array in arrays)


@pytest.mark.parametrize(
    ("engine", "path", "code", "says"),
    [
        ("Python", "gone:f", "invalid_model", "gone"),
        ("Nothing", "x", "invalid_request", "unknown engine"),
        ("OnnxRuntime", "absent.onnx", "invalid_model", "absent.onnx"),
    ],
)
def test_load_failures(worker, engine, path, code, says):
    failed = worker.load(engine, path)
    assert isinstance(failed, frames.LoadFailed)
    assert failed.code == code
    assert says in failed.message
    assert worker.process.wait(timeout=60) == 3


def test_a_tensor_model(build_model):
    made = build_model("onnx")
    worker = Worker(made.root)
    ready = worker.load("onnx", made.path)
    assert ready.signature.inputs[0].shape == (-1, 3)
    outcomes = worker.predict(("", [1, 0, 2]), ("", Payload.from_json(b'{"inputs": [[1, 0, 2]]}')), ("", "text"))
    assert outcomes[0].tolist() == [11, 14]
    assert outcomes[1].tolist() == [[11, 14]]
    assert outcomes[2] == ("invalid_input", 'input "x": expected float32[?, 3], got string[]')
    assert worker.end() == (0, "", "")


def test_torchscript_is_quiet(build_model):
    made = build_model("torchscript")
    worker = Worker(made.root)
    assert isinstance(worker.load("pytorch", made.path), frames.Ready)
    assert worker.predict(("", np.array([[1, 0, 2]], dtype=np.float32)))[0].tolist() == [[11, 14]]
    assert worker.end() == (0, "", "")


@pytest.mark.parametrize("frame", [struct.pack("<IQ", 1 << 31, 0), struct.pack("<IQ", 3, 0) + b"abc"])
def test_what_is_no_frame_ends_the_worker(worker, frame):
    worker.load(functions=FUNCTIONS)
    worker.socket.sendall(frame)
    assert worker.process.wait(timeout=60) == 4


def test_a_process_that_user_code_forked_does_not_keep_the_socket(worker):
    worker.load(functions=FUNCTIONS)
    assert worker.predict(("fork", 1)) == ["forked"]
    worker.process.kill()
    assert worker.socket.recv(1) == b""
    os.kill(int((worker.root / "child").read_text()), signal.SIGKILL)


class Shared:
    """The server's side of the shared memory, by hand."""

    def __init__(self, arena_bytes=1 << 20):
        fds = [arena.create(name, arena_bytes) for name in ("inbox", "outbox")]
        self.inbox, self.outbox = arena.WritableArena(fds[0]), memoryview(arena.map_for_reading(fds[1]))
        self.descriptors, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.inherited = (*fds, theirs.detach())

    def started(self):
        for fd in self.inherited:
            os.close(fd)

    def view_of(self, number, offset, size):
        assert number == frames.OWN_ARENA
        return self.outbox[offset : offset + size]


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "steps.py").write_text(CODE)
    memory = Shared()
    worker = Worker(tmp_path, memory.inherited)
    memory.started()
    assert isinstance(worker.load(functions=FUNCTIONS), frames.Ready)
    worker.memory = memory
    yield worker
    worker.socket.close()
    memory.descriptors.close()
    worker.process.kill()
    worker.process.communicate(timeout=60)


def call(worker, callee, tree, size, place, freed=()):
    """One call with one buffer at a place; the result and its places."""
    wire = frames.WireCall(callee, (frames.WireValue(tree, (size,), (place,)),), frames.Context())
    worker.send(frames.Predict(1, (wire,), freed))
    message, body = worker.receive()
    (result,) = message.outcomes
    taken = frames.BodyReader(body).take(result.tree, result.sizes, result.places, worker.memory.view_of)
    return decode(taken), result.places


def test_large_values_go_through_shared_memory_and_small_ones_do_not(shared):
    array = np.arange(frames.SHARED_FROM_BYTES // 8, dtype=np.float64)
    encoded = Payload.of(array).encoded()
    size = len(encoded.buffers[0])
    offset = shared.memory.inbox.put(encoded.buffers[0])
    seen = []
    for _ in range(12):
        value, places = call(shared, "echo", encoded.tree, size, (frames.OWN_ARENA, offset))
        np.testing.assert_array_equal(value, array)
        seen.append(places)
    room = (1 << 20) // size
    assert seen == [((1, size * number),) for number in range(room)] + [()] * (12 - room), "then it is full"
    assert call(shared, "echo", encoded.tree, size, (frames.OWN_ARENA, offset), (size,))[1] == ((1, size),)
    assert shared.predict(("echo", np.ones(5)))[0].tolist() == [1] * 5


def test_user_code_may_keep_an_array_that_came_through_shared_memory(shared):
    ones = Payload.of(np.ones(100_000)).encoded()
    offset = shared.memory.inbox.put(ones.buffers[0])
    assert call(shared, "keep", ones.tree, 800_000, (1, offset))[0] == 100_000
    shared.memory.inbox.free(offset)
    assert shared.memory.inbox.put(bytes(800_000)) == offset
    assert call(shared, "keep", ones.tree, 800_000, (1, offset))[0] == 100_000


def test_an_arena_of_another_worker_comes_with_its_descriptor_and_is_dropped(shared):
    array = np.arange(50_000, dtype=np.float64)
    encoded = Payload.of(array).encoded()
    for number in (7, 8):
        fd = arena.create("other", 1 << 20)
        other = arena.WritableArena(fd)
        other.put(bytes(640))
        offset = other.put(encoded.buffers[0])
        socket.send_fds(shared.memory.descriptors, [frames.ARENA_NUMBER.pack(number)], [fd])
        os.close(fd)
    for number in (8, 7, 8):
        value, _ = call(shared, "echo", encoded.tree, 400_000, (number, offset))
        np.testing.assert_array_equal(value, array)

    def mapped():
        return Path(f"/proc/{shared.process.pid}/maps").read_text().count("memfd:other")

    assert mapped() == 2
    shared.send(frames.Drop((7, 9)))
    wait_until(lambda: mapped() == 1)
    shared.send(frames.Drop((8,)))
    wait_until(lambda: mapped() == 0)


@pytest.mark.parametrize("place", [(1, 1 << 20), (1, -64), (1, (1 << 20) - 64)])
def test_a_place_outside_of_the_arena_ends_the_worker(shared, place):
    wire = frames.WireCall("echo", (frames.WireValue(b"\xc0", (128,), (place,)),), frames.Context())
    shared.send(frames.Predict(1, (wire,)))
    assert shared.process.wait(timeout=60) == 4


def test_a_freed_region_that_is_not_in_use_ends_the_worker(shared):
    shared.send(frames.Predict(1, (), (64,)))
    assert shared.process.wait(timeout=60) == 4


def test_signs_of_life_come_while_it_computes(worker):
    worker.load(functions=FUNCTIONS | {"wait": "steps:wait"})
    worker.send(frames.Predict(1, (frames.WireCall("wait", (frames.WireValue(b"\xc0"),), frames.Context()),)))
    assert isinstance(worker.receive_any()[0], frames.Heartbeat)
    (worker.root / "go").touch()
    assert isinstance(worker.receive()[0], frames.Results)


@pytest.mark.parametrize("cut", [1, 7, 65_536])
def test_frames_in_pieces_and_several_at_once(worker, cut):
    worker.load(functions=FUNCTIONS)
    arrays = [np.arange(size, dtype=np.uint8) for size in (3, 300, 200_000, 0, 5000)]
    data = b""
    for number, array in enumerate(arrays):
        encoded = Payload.of(array).encoded()
        value = frames.WireValue(encoded.tree, tuple(map(len, encoded.buffers)))
        predict = frames.Predict(number, (frames.WireCall("echo", (value,), frames.Context()),))
        data += b"".join(frames.pack(predict, encoded.buffers))
    head, rest = data[: 700 * cut], data[700 * cut :]
    for start in range(0, len(head), cut):
        worker.socket.sendall(head[start : start + cut])
    worker.socket.sendall(rest)
    for number, array in enumerate(arrays):
        message, body = worker.receive()
        assert message.batch_id == number
        result = message.outcomes[0]
        np.testing.assert_array_equal(decode(frames.BodyReader(body).take(result.tree, result.sizes)), array)


def test_an_end_before_the_load(worker):
    assert worker.end()[0] == 0


def test_an_end_in_the_middle_of_a_frame(worker):
    worker.load(functions=FUNCTIONS)
    worker.socket.sendall(struct.pack("<IQ", 100, 0) + b"abc")
    assert worker.end()[0] == 0


def test_the_worker_ends_with_its_parent(tmp_path):
    """The parent is killed while a copy of the socket is still open: only the death signal can end the worker."""
    mine, theirs = socket.socketpair()
    program = textwrap.dedent("""
        import subprocess, sys, time
        fd = sys.argv[1]
        child = subprocess.Popen([sys.executable, "-m", "flowyard.engines.worker", "--fd", fd], pass_fds=[int(fd)])
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    (tmp_path / "steps.py").write_text(CODE)
    with mine, theirs:
        fd = theirs.fileno()
        parent = subprocess.Popen([sys.executable, "-c", program, str(fd)], pass_fds=[fd], stdout=subprocess.PIPE, text=True)
        pid = int(parent.stdout.readline())
        watch = os.pidfd_open(pid)
        for chunk in frames.pack(frames.Load("Python", str(tmp_path), "steps:echo", CPU, ModelSpec())):
            mine.sendall(chunk)
        assert mine.recv(1)
        parent.kill()
        parent.communicate(timeout=60)
        import select

        assert select.select([watch], [], [], 60)[0]
        os.close(watch)
