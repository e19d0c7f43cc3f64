"""The first of several ranks at the other end of a socket, and what becomes of the others."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
from support.server import is_gone, wait_until

from flowyard.engines import rendezvous
from flowyard.engines.ranks import EXIT_RANK_LOST
from flowyard.engines.rendezvous import Rendezvous, environment
from flowyard.schemas import frames
from flowyard.schemas.devices import CPU
from flowyard.schemas.messages import Message
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.payload import Payload
from flowyard.schemas.ranks import Ranks
from flowyard.schemas.values import decode

MANIFEST = {"createdOn": "x", "archiverVersion": "0.12.0", "model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.0"}}
ECHO = """
import os

class Echo:
    def initialize(self, context):
        self.rank = os.environ["RANK"]

    def handle(self, data, context):
        context.metrics.add_counter("Seen", 1, dimensions=[])
        with open("seen", "a") as file:
            file.write(f"{self.rank}: {data[0]['body']}\\n")
        return [f"{self.rank} of {os.environ['WORLD_SIZE']}" for _ in data]
"""
BROKEN = """
import os, signal, time
class Broken:
    def handle(self, data, context): ...
    def initialize(self, context):
        if os.environ["RANK"] == "1":
            {second}
        else:
            {first}

def tell_and_raise():
    open("raised", "w").close(); raise ValueError("mine")

def wait_and_raise():
    while not os.path.exists("raised"):
        time.sleep(0.01)
    raise RuntimeError("connection reset")
"""


class Worker:
    """A worker process of two ranks, and the server's end of its socket."""

    def __init__(self, root, **ranks):
        self.socket, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            command = [sys.executable, "-m", "flowyard.engines.worker", "--fd", str(theirs.fileno())]
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        self.socket.settimeout(60)
        self.samples = []
        made = Ranks(launcher="torchrun", count=2, name="m", **ranks)
        properties = {"handler": "h.py", "manifest": "MAR-INF/MANIFEST.json", "model_name": "m", "runtime": "python"}
        if (root / "model-config.yaml").exists():
            properties["config_file"] = "model-config.yaml"
        load = frames.Load(
            "Python", str(root), "", CPU, ModelSpec(batch_size=4), handlers="torchserve", properties=properties, ranks=made
        )
        self.send(load)

    def send(self, message, buffers=()):
        for chunk in frames.pack(message, buffers):
            self.socket.sendall(chunk)

    def receive(self):
        """The next frame that is more than a sign of life; metrics are put aside."""
        while True:
            head, body = frames.read_prefix(self._exactly(frames.PREFIX_BYTES))
            message, body = frames.unpack_to_server(self._exactly(head)), self._exactly(body)
            if isinstance(message, frames.Metrics):
                self.samples += message.samples
            elif not isinstance(message, frames.Heartbeat):
                return message, body

    def _exactly(self, size):
        return self.socket.recv(size, socket.MSG_WAITALL) if size else b""

    def send_text(self, text, batch=1):
        message = Message(contents=(("body", text.encode()),), types=("text/plain",), properties=(("requestId", "r"),))
        value = Payload.of(message).encoded()
        wire = frames.WireValue(value.tree, tuple(map(len, value.buffers)))
        self.send(frames.Predict(batch, (frames.WireCall("", (wire,), frames.Context()),)), value.buffers)

    def predict(self, text, batch=1):
        self.send_text(text, batch)
        results, body = self.receive()
        (result,) = results.outcomes
        return decode(frames.BodyReader(body).take(result.tree, result.sizes)).data.decode()


@pytest.fixture
def start(tmp_path):
    workers = []

    def write_and_start(code, files=(), **ranks):
        (tmp_path / "MAR-INF").mkdir(exist_ok=True)
        (tmp_path / "MAR-INF/MANIFEST.json").write_text(json.dumps(MANIFEST))
        for name, text in {"h.py": textwrap.dedent(code), **dict(files)}.items():
            (tmp_path / name).write_text(text)
        workers.append(Worker(tmp_path, **ranks))
        return workers[-1]

    yield write_and_start
    for worker in workers:
        worker.socket.close()
        worker.process.kill()
        worker.process.communicate()


def test_every_rank_gets_each_batch_and_the_first_answers(start, tmp_path):
    # A module in the archive that is called like one which the worker's own code imports is not in its way.
    worker = start(ECHO, {"argparse.py": "raise SystemExit('not this one')"})
    ready, _ = worker.receive()
    (other,) = ready.others
    assert worker.predict("a") == "0 of 2"
    assert worker.predict("b", 2) == "0 of 2"
    assert sorted((tmp_path / "seen").read_text().split("\n")) == ["", "0: a", "0: b", "1: a", "1: b"]
    worker.predict("c", 3)
    # What each rank measures is told, that of the others with a later batch at the latest.
    assert sum(sample.value for sample in worker.samples if sample.name == "Seen") >= 3
    worker.socket.close()
    assert worker.process.wait(20) == 0
    wait_until(lambda: is_gone(other))


@pytest.mark.parametrize("lost", ["other", "first"])
def test_no_rank_outlives_another_one(start, lost):
    worker = start(ECHO)
    (other,) = worker.receive()[0].others
    os.kill(other if lost == "other" else worker.process.pid, signal.SIGKILL)
    status = worker.process.wait(20)
    wait_until(lambda: is_gone(other))
    if lost == "other":
        assert status == EXIT_RANK_LOST
        assert "rank 1 is lost, the worker ends: killed by SIGKILL" in worker.process.stderr.read()


def test_a_rank_that_is_silent_ends_the_worker(start):
    worker = start(ECHO, silent_limit_s=2.0)
    (other,) = worker.receive()[0].others
    os.kill(other, signal.SIGSTOP)
    assert worker.process.wait(20) == EXIT_RANK_LOST
    assert "rank 1 is lost, the worker ends: no sign of life for 2 s" in worker.process.stderr.read()
    wait_until(lambda: is_gone(other))


def test_a_rank_that_sends_no_frames_ends_the_worker(start):
    worker = start(
        """
        import os, stat
        class Liar:
            def initialize(self, context): ...
            def handle(self, data, context):
                if os.environ["RANK"] == "1":
                    for fd in range(3, 64):
                        try:
                            is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
                        except OSError:
                            continue
                        if is_socket:
                            os.write(fd, b"x" * 64)
                return ["x"]
        """
    )
    (other,) = worker.receive()[0].others
    worker.send_text("a")
    assert worker.process.wait(20) == EXIT_RANK_LOST
    wait_until(lambda: is_gone(other))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        # The first rank would wait for ever, as it does for one that never joins a process group.
        ("signal.pause()", "raise ValueError('mine')", "rank 1: h.py:7: ValueError: mine"),
        ("signal.pause()", "os._exit(5)", "rank 1: the process ended while loading: exit status 5"),
        # The first one's own failure follows from the other's.
        ("wait_and_raise()", "tell_and_raise()", "rank 1: h.py:12: ValueError: mine"),
        # Both fail with the same words, which are told once.
        ("raise ValueError('ours')", "raise ValueError('ours')", "ValueError: ours"),
        ("raise ValueError('own')", "pass", "h.py:9: ValueError: own"),
    ],
)
def test_a_model_that_one_rank_cannot_load(start, first, second, words):
    worker = start(BROKEN.format(first=first, second=second))
    failed, _ = worker.receive()
    assert isinstance(failed, frames.LoadFailed)
    assert words in failed.message
    assert worker.process.wait(20) == 3


DEEPSPEED = """
from ts.handler_utils.distributed.deepspeed import get_ds_engine
from ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler

class Large(BaseDeepSpeedHandler):
    def initialize(self, context):
        super().initialize(context)
        self.model = get_ds_engine("part", context).module

    def handle(self, data, context):
        return [f"{self.device}: {self.model}"]
"""
#: In the place of the library: it tells what it has been given.
LIBRARY = """
import json, types
def init_inference(model, config, base_dir, checkpoint):
    given = [model, config and json.load(open(config)), base_dir, checkpoint and json.load(open(checkpoint))]
    return types.SimpleNamespace(module=json.dumps(given))
"""


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ("{}", [None, None]),
        (
            "{config: ds.json, checkpoint: checkpoints.json}",
            [{"dtype": "half"}, {"type": "ds_model", "checkpoints": ["weights/a.bin"], "version": 1.0}],
        ),
    ],
)
def test_handlers_that_use_deepspeed(start, tmp_path, said, given):
    (tmp_path / "weights").mkdir()
    config = f"handler: {{model_path: weights}}\ndeepspeed: {said}\n"
    files = {"deepspeed.py": LIBRARY, "model-config.yaml": config, "ds.json": '{"dtype": "half"}', "weights/a.bin": ""}
    worker = start(DEEPSPEED, files)
    assert isinstance(worker.receive()[0], frames.Ready)
    device, _, told = worker.predict("x").partition(": ")
    assert (device, json.loads(told)) == ("0", ["part", given[0], "weights", given[1]])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("handler: {model_path: .}\n", "m has no deepspeed config in model config yaml file"),
        ("handler: {model_path: .}\ndeepspeed: {config: no.json}\n", "m has no deepspeed config file no.json"),
    ],
)
def test_what_deepspeed_is_not_told(start, config, words):
    failed, _ = start(DEEPSPEED, {"deepspeed.py": LIBRARY, "model-config.yaml": config}).receive()
    assert words in failed.message


def test_the_environment_of_a_rank(monkeypatch):
    monkeypatch.setattr(rendezvous, "_kept", [])
    met = Rendezvous()
    with socket.socket() as taken, pytest.raises(OSError, match="in use"):
        taken.bind((rendezvous.LOOPBACK, met.port))
    ranks = Ranks(launcher="torchrun", count=3, name="m", gpus=(2, 0))
    found = environment(ranks, 1, met, {"CUDA_VISIBLE_DEVICES": "4, 5,GPU-6", "GLOO_SOCKET_IFNAME": "eth0"})
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-6,4"
    assert [found[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")] == list("11330")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("127.0.0.1", str(met.port))
    assert "GLOO_SOCKET_IFNAME" not in found
    assert found["NCCL_SOCKET_IFNAME"] == "lo"
    assert not any(key.startswith("OMPI") for key in found)
    mpi = environment(Ranks(launcher="mpi", count=2), 1, met, {})
    assert [mpi[f"OMPI_COMM_WORLD_{key}"] for key in ("RANK", "LOCAL_RANK", "SIZE")] == ["1", "1", "2"]
    assert environment(Ranks(devices=2, gpus=(1, 3)), 0, None, {}) == {"CUDA_VISIBLE_DEVICES": "1,3"}
    assert environment(Ranks(devices=2), 0, None, {}) == {}
    met._socket.close()


def test_without_torch_the_port_is_kept_and_a_rank_may_listen_there(monkeypatch):
    monkeypatch.setattr(rendezvous, "_kept", [])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    met = Rendezvous()
    met.serve()
    assert environment(Ranks(launcher="torchrun"), 0, met, {})["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    with socket.socket() as somebody, pytest.raises(OSError, match="in use"):
        somebody.bind((rendezvous.LOOPBACK, met.port))
    with socket.socket() as rank:
        rank.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rank.bind((rendezvous.LOOPBACK, met.port))
        rank.listen()
    met._socket.close()
