"""What is fuzzed: each target takes bytes, and may raise nothing but what it promises. With seeds to start from."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from flowyard.engines.onnx_graph import read_signature
from flowyard.platform.archives.members import Limits
from flowyard.platform.archives.store import ArchiveStore
from flowyard.platform.desired import documents
from flowyard.platform.http.bodies import payload_of
from flowyard.platform.http.kserve.bodies import read_request
from flowyard.platform.workers.channel import WorkerChannel
from flowyard.schemas import frames
from flowyard.schemas.codecs.registry import BY_TYPE
from flowyard.schemas.errors import FlowyardError
from flowyard.schemas.properties import read_properties
from flowyard.schemas.values import decode, encode
from flowyard.workflows.check import check
from fuzz.scratch import SCRATCH
from fuzz.written import configuration_seeds, configurations, model_seeds, models

LIMITS = Limits(max_archive_bytes=1 << 20, max_unpacked_bytes=4 << 20, max_files=1000)
STORE = ArchiveStore(SCRATCH / "store")
WORKFLOW = b"""name: flow
version: v1
models: {m: {url: model.onnx, batch_size: 4}, n: "https://a.example/n.zip"}
functions: {f: steps:f}
workflow:
  a: [m, in, {retry: 2}]
  b: {switch: a, cases: {x: [f, a]}}
  out: [f, [a, b]]
"""


def archives(data: bytes) -> None:
    """The archive reader: nothing may be written but into its own folder, and nothing is left of what is refused."""
    path = SCRATCH / "given"
    path.write_bytes(data)
    try:
        STORE.add_file(path, "given", LIMITS)
    except FlowyardError:
        assert not any((SCRATCH / "store" / "tmp").iterdir())
    STORE.discard(STORE.put_unused_aside(()))
    assert {entry.name for entry in SCRATCH.iterdir()} <= {"given", "store", "files", "models"}


def archive_seeds() -> Iterator[bytes]:
    """A ZIP archive of each compression, tar archives, a workflow and an ONNX file's beginning."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as packed:
            packed.writestr("workflow.yaml", WORKFLOW)
            packed.writestr("a/b.bin", bytes(100))
        yield buffer.getvalue()
    for mode in ("w", "w:gz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as packed:
            info = tarfile.TarInfo("a/b.bin")
            info.size = 100
            packed.addfile(info, io.BytesIO(bytes(100)))
        yield buffer.getvalue()
    yield WORKFLOW


def workflows(data: bytes) -> None:
    """The workflow parser, in both notations; it never raises."""
    check(data, "workflow.json" if data[:1] == b"{" else "workflow.yaml", None)


def workflow_seeds() -> Iterator[bytes]:
    """One of each notation and spelling."""
    yield WORKFLOW
    yield b'{"name": "flow", "models": {"m": "m.onnx"}, "workflow": {"out": ["m", "in"]}}'
    yield b"models:\n  min-workers: 1\n  m1:\n    url: a.mar\ndag:\n  pre: [m1]\n  m1: [post]\n"


def codecs(data: bytes) -> None:
    """The codecs of tensors; the first byte chooses which."""
    kinds = sorted(BY_TYPE)
    if not data:
        return
    try:
        BY_TYPE[kinds[data[0] % len(kinds)]].decode(data[1:])
    except FlowyardError:
        return


def codec_seeds() -> Iterator[bytes]:
    """What each codec writes."""
    value = {"x": np.arange(6, dtype="f4").reshape(2, 3), "n": np.array(3)}
    for number, kind in enumerate(sorted(BY_TYPE)):
        yield bytes([number]) + BY_TYPE[kind].encode(value["x"])
        if "npy" not in kind:
            yield bytes([number]) + BY_TYPE[kind].encode(value)


class Ended:
    """A transport of which nothing is left but its end."""

    def abort(self) -> None:
        """Does nothing."""


def frame_stream(data: bytes) -> None:
    """The server's end of a worker's socket, fed in pieces whose size the first byte says; values of frames are decoded, too."""
    ended: list[str] = []

    def on_frame(message: frames.ToServer, body: frames.BodyReader) -> None:
        for outcome in message.outcomes if isinstance(message, frames.Results) else ():
            if isinstance(outcome, frames.WireResult):
                try:
                    decode(body.take(outcome.tree, outcome.sizes, outcome.places, no_memory))
                except FlowyardError:
                    continue

    channel = WorkerChannel(on_frame, ended.append, ended.append)
    channel.connection_made(Ended())
    step = (data[0] if data else 0) * 16 + 1
    at = 1
    while at < len(data) and not ended:
        room = channel.get_buffer(-1)
        piece = data[at : at + min(step, len(room))]
        room[: len(piece)] = piece
        at += len(piece)
        channel.buffer_updated(len(piece))


def no_memory(arena: int, offset: int, size: int) -> memoryview:
    """Shared memory that is not there."""
    raise frames.FrameError(f"no arena {arena} with {size} bytes at {offset}")


def frame_seeds() -> Iterator[bytes]:
    """A frame of each kind without a body, and two in a row."""
    heartbeat = b"".join(bytes(chunk) for chunk in frames.pack(frames.Heartbeat()))
    yield b"\xff" + heartbeat
    value = encode({"x": np.arange(6, dtype="f4"), "text": "größe"})
    sizes = tuple(len(buffer) for buffer in value.buffers)
    results = frames.Results(1, (frames.WireResult(value.tree, sizes),), 0.1)
    yield b"\x10" + b"".join(bytes(chunk) for chunk in frames.pack(results, value.buffers))
    yield b"\x00" + heartbeat + heartbeat


READERS: dict[str, Callable[[Path], object]] = {
    "serving.properties": read_properties,
    "model.onnx": read_signature,
    "document.yaml": documents.read,
}


def properties(data: bytes) -> None:
    """Java's property files, ONNX graphs and documents of `flowyard apply`."""
    for name, read in READERS.items():
        path = SCRATCH / "files" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        with contextlib.suppress(FlowyardError):
            read(path)


def property_seeds() -> Iterator[bytes]:
    """One of each."""
    yield b"engine=Python\noption.entryPoint=model.py\nbatch_size=4\n"
    yield b"name: m\nversions:\n- {version: v1, url: a.zip}\ndefault: v1\n"


def bodies(data: bytes) -> None:
    """What requests bring: forms, bodies of predictions by content type, and inference requests of KServe."""
    if not data:
        return
    which, body = data[0] % (len(TYPES) + 1), data[1:]
    with contextlib.suppress(FlowyardError):
        if which < len(TYPES):
            payload_of(TYPES[which], body).value()
        else:
            # The second half of the first byte's values: binary tensors behind the JSON.
            read_request({"inference-header-content-length": str(body.find(b"}]}") + 3)} if data[0] > 127 else {}, body)


TYPES = (
    *("", "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"),
    "application/octet-stream",
)
_PART = b'--b\r\nContent-Disposition: form-data; name="x"; filename="a.npy"\r\nContent-Type: application/x-npy\r\n\r\nhi\r\n--b--'
_INFER = b"""{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
 {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["a"]}], "outputs": [{"name": "y"}], "id": "1"}"""

_BINARY = b"""{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}12345678"""


def body_seeds() -> Iterator[bytes]:
    """One of each type."""
    seeds = (b"\x93NUMPY", b'{"a": [1, 2.5, null]}', b"a=1&b=%41", _PART, b"PK\x03\x04", _INFER)
    for number, body in enumerate(seeds):
        yield bytes([number]) + body
    yield bytes([131]) + _BINARY


#: By name: what takes the bytes, and what the seeds are.
TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "archives": (archives, archive_seeds),
    "workflows": (workflows, workflow_seeds),
    "codecs": (codecs, codec_seeds),
    "frames": (frame_stream, frame_seeds),
    "files": (properties, property_seeds),
    "models": (models, model_seeds),
    "configurations": (configurations, configuration_seeds),
    "bodies": (bodies, body_seeds),
}
