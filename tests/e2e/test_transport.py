"""Large values between nodes: exactly right under load and while workers are killed, and nothing is left of them afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.archives import zipped
from support.server import children, is_gone, running, wait_until

from flowyard.platform.workers.policies import Policy
from flowyard.platform.workers.pool import ModelPool
from flowyard.platform.workers.pool_spec import PoolSpec
from flowyard.platform.workers.tasks import Task
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import UnavailableError, WorkerDiedError
from flowyard.schemas.frames import OWN_ARENA, SHARED_FROM_BYTES
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.payload import Payload

FLOATS = 150_000
RAW = {"content-type": "application/x-floats"}
STEPS = """
import numpy as np

kept = []

def parse(body):
    return np.frombuffer(body, np.float32).reshape(1, -1)

def twice(array):
    kept.append(array)
    del kept[:-3]
    return array * 2

def raw(array):
    return array.tobytes()
"""
WORKFLOW = """
name: {name}
models: {{increment: {{url: increment.onnx, min_worker: 1, max_worker: 2}}, double: double.onnx}}
functions: {{parse: steps:parse, twice: steps:twice, raw: steps:raw}}
workflow:
  a: [parse, in]
  b: [{first}, a]
  c: [{second}, b]
  out: [raw, c]
"""


def elementwise(operator: str, constant: float) -> bytes:
    """An ONNX model of float32 [N, M] that changes every number."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "k"], ["y"])],
        "elementwise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "M"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "M"])],
        [helper.make_tensor("k", TensorProto.FLOAT, [], [constant])],
    )
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def register(http, name, first, second):
    archive = zipped(
        {
            "workflow.yaml": WORKFLOW.format(name=name, first=first, second=second),
            "steps.py": STEPS,
            "increment.onnx": elementwise("Add", 1.0),
            "double.onnx": elementwise("Mul", 2.0),
        }
    )
    answer = http.post("/workflows", content=archive)
    assert answer.status_code == 200, answer.text


#: What the two nodes between make of the numbers.
COMPUTED = {"tensors": (("increment", "double"), lambda x: (x + 1) * 2), "steps": (("twice", "twice"), lambda x: x * 4)}


def send_many(http, name, thread, count):
    """Requests with contents of their own, each answer compared number by number."""
    expected_of = COMPUTED[name][1]
    noise = np.random.default_rng(thread)
    with httpx2.Client(base_url=http.base_url, timeout=60) as client:
        for _ in range(count):
            sent = noise.integers(-1000, 1000, FLOATS).astype(np.float32)
            answer = client.post(f"/predictions/{name}", content=sent.tobytes(), headers=RAW)
            assert answer.status_code == 200, answer.text
            np.testing.assert_array_equal(np.frombuffer(answer.content, np.float32), expected_of(sent))


def open_files(server):
    # The client's own connection is kept: it is there each time.
    assert server.client.get("/ping").status_code
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def shared_memory_names():
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.mark.parametrize("name", COMPUTED)
def test_large_tensors_are_right_under_load_and_leave_nothing(http, server, name):
    names = shared_memory_names()
    before = open_files(server)
    register(http, name, *COMPUTED[name][0])
    with ThreadPoolExecutor(8) as threads:
        for job in [threads.submit(send_many, http, name, thread, 50) for thread in range(8)]:
            job.result()
    assert shared_memory_names() == names
    assert http.delete(f"/workflows/{name}").status_code == 200
    wait_until(lambda: not server.workers())
    # A connection of the load's clients may still be closing.
    wait_until(lambda: open_files(server) <= before)


@pytest.mark.parametrize("name", COMPUTED)
def test_large_tensors_are_right_while_workers_are_killed(http, server, name):
    before = open_files(server)
    register(http, name, *COMPUTED[name][0])
    done = threading.Event()

    def load(thread):
        try:
            send_many(http, name, thread, 15)
        finally:
            done.set()

    killed = []
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(load, thread) for thread in range(4)]
        while not done.is_set() and len(killed) < 3:
            victim = wait_until(lambda: [pid for pid in children(server.process.pid) if pid not in killed and not is_gone(pid)])[
                -1
            ]
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
            wait_until(lambda victim=victim: is_gone(victim))
            send_many(http, name, 99, 3)
        for job in jobs:
            job.result()
    assert killed
    assert http.delete(f"/workflows/{name}").status_code == 200
    wait_until(lambda: not server.workers())
    wait_until(lambda: open_files(server) <= before)


def test_a_stopped_worker_is_killed_and_its_request_answered_by_another(tmp_path):
    steps = (
        "import os, pathlib, time\n"
        "def wait(value):\n"
        "    folder = pathlib.Path(value)\n"
        "    (folder / f'begun-{os.getpid()}').touch()\n"
        "    while not (folder / 'go').exists(): time.sleep(0.01)\n"
        "    return os.getpid()\n"
    )
    workflow = "name: wait\ntimeout: 60s\nfunctions: {f: steps:wait}\nworkflow:\n  out: [f, in]\n"
    with running(tmp_path, env={"FLOWYARD_SILENT_LIMIT_S": "3"}) as server, ThreadPoolExecutor(1) as thread:
        archive = zipped({"workflow.yaml": workflow, "steps.py": steps})
        assert server.client.post("/workflows", content=archive).status_code == 200
        answer = thread.submit(server.client.post, "/predictions/wait", json=str(tmp_path))
        (stopped,) = wait_until(lambda: list(tmp_path.glob("begun-*")))
        pid = int(stopped.name.removeprefix("begun-"))
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        (tmp_path / "go").touch()
        assert answer.result().status_code == 200
        assert answer.result().json() != pid
        assert is_gone(pid)
        assert "no sign of life for 3 s" in server.log.read_text()


# ---- pools in this process, to see into them ----


def pool_of(root, *, engine="Python", functions=None, arena_bytes=1 << 24, path=""):
    return ModelPool(
        PoolSpec(
            name="m", engine=engine, root=str(root), path=path, functions=functions or {}, spec=ModelSpec(),
            policy=Policy(name="m"), devices=(CPU,), min_workers=1, max_workers=1, arena_bytes=arena_bytes,
        )
    )  # fmt: skip


async def call(pool, payload, callee="twice"):
    answer = asyncio.get_running_loop().create_future()
    pool.submit(Task((payload,), answer.set_result, callee=callee))
    outcome = await answer
    assert isinstance(outcome, Payload), outcome
    return outcome


@pytest.fixture
def steps(tmp_path):
    (tmp_path / "steps.py").write_text(STEPS)
    return {"twice": "steps:twice"}


def array_of(number):
    return np.full((1, FLOATS), number, np.float32)


def test_shared_bytes_return_to_zero_and_full_arenas_are_no_obstacle(tmp_path, steps):
    """Results that somebody keeps fill the outbox; then they go through the socket."""

    async def run():
        pool = pool_of(tmp_path, functions=steps, arena_bytes=1 << 21)
        await pool.start()
        kept = [await call(pool, Payload.of(array_of(number))) for number in range(6)]
        assert 600_000 * 3 <= pool.shared_bytes() <= 1 << 21
        again = [await call(pool, payload) for payload in kept]
        for number in range(6):
            assert (kept[number].value() == 2 * number).all()
            assert (again[number].value() == 4 * number).all()
        del kept, again
        await asyncio.sleep(0)
        assert pool.shared_bytes() == 0
        for number in range(20):
            result = await call(pool, Payload.of(array_of(number)))
            assert (result.value() == 2 * number).all()
            del result
            await asyncio.sleep(0)  # the event loop itself holds what woke us
            assert pool.shared_bytes() == 0
        await pool.close(0)

    asyncio.run(run())


def test_a_result_outlives_its_worker_and_readers_drop_its_arena(tmp_path, steps):
    async def run():
        first, second = pool_of(tmp_path, functions=steps), pool_of(tmp_path, functions=steps)
        await asyncio.gather(first.start(), second.start())
        result = await call(first, Payload.of(array_of(3)))
        through = await call(second, result)
        (reader,) = [view.pid for view in second.workers()]
        assert foreign_arenas(reader) == 1
        (writer,) = [view.pid for view in first.workers()]
        os.kill(writer, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: not foreign_arenas(reader))
        np.testing.assert_array_equal((await call(second, result)).value(), array_of(12))
        np.testing.assert_array_equal(through.value(), array_of(12))
        np.testing.assert_array_equal(result.value(), array_of(6))
        await asyncio.gather(first.close(0), second.close(0))
        np.testing.assert_array_equal(through.value(), array_of(12))

    asyncio.run(run())


def foreign_arenas(pid):
    """Outboxes that a worker has mapped besides its own."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:flowyard-outbox") - 1


#: A worker that answers every batch with places of its choice.
LIAR = """#!{python}
import sys
from flowyard.schemas import frames
from flowyard.engines.connection import Connection
import socket

connection = Connection(socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1])))
connection.receive()
connection.send(frames.Ready())
predict, _ = connection.receive()
places = {places}
result = frames.WireResult(b"\\xc0", ({size},) * max(1, len(places)), places)
connection.send(frames.Results(predict.batch_id, (result,), 0.0))
connection.receive()
"""


@pytest.mark.parametrize(
    "places", [((2, 0),), ((OWN_ARENA, 1 << 24),), ((OWN_ARENA, 2**63),), ((OWN_ARENA, 0), (OWN_ARENA, 64)), ()]
)
def test_a_worker_that_lies_about_its_results_is_killed_at_once(tmp_path, monkeypatch, places):
    liar = tmp_path / "liar"
    liar.write_text(LIAR.format(python=sys.executable, places=places, size=SHARED_FROM_BYTES))
    liar.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(liar))

    async def run():
        pool = pool_of(tmp_path)
        await pool.start()
        answer = asyncio.get_running_loop().create_future()
        pool.submit(Task((Payload.of(1),), answer.set_result))
        outcome = await answer
        await pool.close(0)
        return outcome

    outcome = asyncio.run(run())
    assert isinstance(outcome, WorkerDiedError)
    assert "broken frame" in outcome.message


#: A worker that gets a batch and then does as it likes; `send` writes bytes, `say` a frame.
ROGUE = """#!{python}
import os, signal, socket, struct, sys
from flowyard.schemas import frames
from flowyard.engines.connection import Connection

raw = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
connection, send = Connection(raw), raw.sendall
say = connection.send
connection.receive()
say(frames.Ready())
predict, _ = connection.receive()
batch = predict.batch_id
null = frames.WireResult(b"\\xc0")
try:
    {does}
except OSError:
    pass
connection.receive()
signal.pause()
"""
ROGUES = {
    "no frame": 'send(b"GET / HTTP/1.1" * 9)',
    "a pickle": r'send(struct.pack("<IQ", 12, 0) + b"\x80\x04cos\nsystem\n")',
    "a huge head": 'send(struct.pack("<IQ", 2**32 - 1, 0))',
    "a huge body": 'send(struct.pack("<IQ", 1, 2**63))',
    "no message": r'send(struct.pack("<IQ", 1, 0) + b"\xc1")',
    "a message to a worker": "say(frames.Predict(1, ()))",
    "nesting without end": r'send(struct.pack("<IQ", 1 << 20, 0) + b"\x91" * (1 << 20))',
    "too many answers": "say(frames.Results(batch, (null,) * 3, 0.0))",
    "no answers": "say(frames.Results(batch, (), 0.0))",
    "a value past its frame": 'say(frames.Results(batch, (frames.WireResult(b"x", (1 << 40,)),), 0.0))',
    "a value of negative length": 'say(frames.Results(batch, (frames.WireResult(b"x", (-5,)),), 0.0))',
    "pieces without end": r'[say(frames.Chunk(batch, 0, b"\xc0")) for _ in range(10_000)]',
    "pieces of nobody's": r'[say(frames.Chunk(77, 5, b"\xc0")) for _ in range(10_000)]',
    "a failure to load, late": 'say(frames.LoadFailed("internal", "x" * 100_000))',
    "nothing, and no end": "os.close(raw.fileno()); signal.pause()",
}


@pytest.mark.parametrize("does", ROGUES.values(), ids=ROGUES)
def test_a_worker_that_breaks_the_rules_is_killed_and_its_request_answered(tmp_path, monkeypatch, does):
    rogue = tmp_path / "rogue"
    rogue.write_text(ROGUE.format(python=sys.executable, does=does))
    rogue.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(rogue))

    async def run():
        pool = pool_of(tmp_path)
        await pool.start()
        pids = {view.pid for view in pool.workers()}
        answer = asyncio.get_running_loop().create_future()
        pool.submit(Task((Payload.of(1),), answer.set_result))
        async with asyncio.timeout(60):
            outcome = await answer
            pids |= {view.pid for view in pool.workers()}
            await pool.close(0)
        return outcome, pids

    outcome, pids = asyncio.run(run())
    assert isinstance(outcome, WorkerDiedError | UnavailableError)
    assert len(outcome.message) < 20_000
    assert all(is_gone(pid) for pid in pids if pid)


@pytest.mark.parametrize("code", ["internal", "nonsense", "node_error"])
def test_what_a_worker_says_is_cut(tmp_path, monkeypatch, code):
    rogue = tmp_path / "rogue"
    text = f'"/x/archives/sha256/{"a" * 64}/" + "y" * 10**6'
    answer = f'say(frames.Results(batch, (frames.WireError("{code}", {text}),), 0.0))'
    does = f"{answer}; connection.receive(); sys.exit()"
    rogue.write_text(ROGUE.format(python=sys.executable, does=does))
    rogue.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(rogue))

    async def run():
        pool = pool_of(tmp_path)
        await pool.start()
        answer = asyncio.get_running_loop().create_future()
        pool.submit(Task((Payload.of(1),), answer.set_result))
        outcome = await answer
        await pool.close(0)
        return outcome

    outcome = asyncio.run(run())
    assert outcome.message.startswith("yyy")
    assert len(outcome.message) < 20_000
