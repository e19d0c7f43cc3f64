"""What the soak asks for: every way through the server, and what a right answer to it looks like."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.models import LARGE, LARGE_WORKFLOW, mean, mlp, scale

JSON, NPY, BYTES = "application/json", "application/x-npy", "application/octet-stream"
#: Rows of a body that goes through shared memory.
MANY_ROWS = 64
PIECES = 5

SLOW = "import time\n\ndef predict(value):\n    time.sleep(value)\n    return value\n"
FLOW = """name: flow
models: {mlp: mlp.onnx}
functions: {first: steps:first}
workflow:
  scores: [mlp, in]
  out: [first, scores]
"""
STEPS = "def first(scores):\n    return float(scores[0][0])\n"
BOTH = """name: both
models: {a: a.onnx, b: b.onnx}
workflow:
  left: [a, in]
  right: [b, in]
  out: [ensemble, left, right]
"""
PIECES_FLOW = "name: pieces\nfunctions: {pieces: steps:pieces}\nworkflow:\n  out: [pieces, in]\n"
PIECES_STEPS = f"""
import time

def pieces(count):
    for number in range({PIECES}):
        time.sleep(0.002)
        yield f"piece {{number}}\\n"
"""
HANDLER = """
class Handler:
    def initialize(self, context): ...

    def handle(self, data, context):
        return [bytes(row["body"]).decode()[::-1] for row in data]
"""
TOTALS = """
class Totals:
    def initialize(self, context):
        self.totals = {}

    def handle(self, data, context):
        return [str(self.add(context.get_sequence_id(index), int(bytes(row["body"])))) for index, row in enumerate(data)]

    def add(self, sequence, number):
        self.totals[sequence] = self.totals.get(sequence, 0) + number
        return self.totals[sequence]
"""
TOTALS_CONFIG = """
minWorkers: 2
maxWorkers: 2
batchSize: 4
maxBatchDelay: 5
maxNumSequence: 16
sequenceMaxIdleMSec: 2000
maxSequenceJobQueueSize: 10
sequenceBatching: true
"""


class Ask(NamedTuple):
    """A request.

    Attributes:
        path: Where to.
        body: What.
        is_right: Whether a body of a 200 is right.
        kind: The body's content type.
        at_torchserve: Whether it is for TorchServe's inference API.
        in_pieces: Whether its answer may break off, as a status cannot be taken back.
    """

    path: str
    body: bytes
    is_right: Callable[[bytes], bool]
    kind: str = JSON
    at_torchserve: bool = False
    in_pieces: bool = False

    @property
    def label(self) -> str:
        """What it is called in the report."""
        return f"{self.path} {self.kind} {len(self.body)} bytes"


def registrations() -> list[tuple[str, bytes]]:
    """Paths and archives of all that is asked but `coming-and-going`, which is a plain `mlp`."""
    first, second = mlp(0), mlp(1)
    return [
        ("/models?model_name=mlp&batch_size=8&max_worker=2", first),
        ("/models?model_name=slow&max_worker=2&max_idle_time=2", zipped({"model.py": SLOW})),
        ("/models?model_name=slow-batches&batch_size=4&max_worker=2", zipped({"model.py": SLOW})),
        ("/workflows", zipped({"workflow.yaml": FLOW, "steps.py": STEPS, "mlp.onnx": first})),
        ("/workflows", zipped({"workflow.yaml": BOTH, "a.onnx": first, "b.onnx": second})),
        ("/workflows", zipped({"workflow.yaml": LARGE_WORKFLOW, "scale.onnx": scale(), "mean.onnx": mean()})),
        ("/workflows", zipped({"workflow.yaml": PIECES_FLOW, "steps.py": PIECES_STEPS})),
        ("/models?model_name=reversed&batch_size=4&max_worker=2", mar("reversed", HANDLER)),
        ("/models?model_name=totals", mar("totals", TOTALS, TOTALS_CONFIG)),
    ]


def choose(source: random.Random) -> Ask:
    """One request out of all kinds."""
    return source.choice(ASKS)


def _has_rows(rows: int, columns: int) -> Callable[[bytes], bool]:
    return lambda body: np.load(io.BytesIO(body), allow_pickle=False).shape == (rows, columns)


def _says(value: object) -> Callable[[bytes], bool]:
    return lambda body: json.loads(body) == value


def _ten_scores(body: bytes) -> bool:
    scores = json.loads(body)
    return len(scores) == 1 and len(scores[0]) == 10


def _npy(rows: int, columns: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((rows, columns), np.float32))
    return buffer.getvalue()


def _mlp(name: str) -> list[Ask]:
    """Small and large, JSON and npy, the direct way and, with a query, the long one."""
    row = json.dumps([[0.5] * 784]).encode()
    path = f"/predictions/{name}"
    return [
        Ask(path, row, _ten_scores),
        Ask(f"{path}?long=1", row, _ten_scores),
        Ask(path, _npy(1, 784), _has_rows(1, 10), NPY),
        Ask(path, _npy(MANY_ROWS, 784), _has_rows(MANY_ROWS, 10), NPY),
    ]


_ROW = json.dumps([[0.5] * 784]).encode()
_SLOW = [
    Ask(f"/predictions/{name}", json.dumps(seconds).encode(), _says(seconds))
    for name in ("slow", "slow-batches")
    for seconds in (0.001, 0.02, 0.1)
]
ASKS = [
    *_SLOW,
    *_mlp("mlp") * 2,
    *_mlp("coming-and-going"),
    Ask("/predictions/flow", _ROW, lambda body: 0 < json.loads(body) < 1),
    Ask("/predictions/both", _ROW, _ten_scores),
    Ask("/predictions/both", _npy(1, 784), _has_rows(1, 10), NPY),
    Ask("/predictions/large", _npy(1, LARGE), lambda body: np.load(io.BytesIO(body)).tolist() == [[0.5]], NPY),
    Ask("/predictions/pieces", b"0", lambda body: body.decode().count("piece") == PIECES, in_pieces=True),
    Ask("/predictions/reversed", b"abc", lambda body: body == b"cba", BYTES, at_torchserve=True),
    Ask("/predictions/reversed", b"ab" * 100_000, lambda body: body == b"ba" * 100_000, BYTES, at_torchserve=True),
]


def add(number: int, least: int) -> Ask:
    """The request of that number, from 1, of a sequence that adds ones.

    Args:
        number: Which.
        least: How many before it are known to have been computed.
    """
    return Ask("/predictions/totals", b"1", lambda body: least < int(body) <= number, BYTES, at_torchserve=True)


def zipped(files: dict[str, str | bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def mar(name: str, code: str, config: str = "") -> bytes:
    """What `torch-model-archiver` makes of a handler."""
    model = {"modelName": name, "handler": "handler.py", "modelVersion": "1.0"}
    files: dict[str, str | bytes] = {"handler.py": code}
    if config:
        model["configFile"] = "model-config.yaml"
        files["model-config.yaml"] = config
    manifest = {"runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    return zipped(files | {"MAR-INF/MANIFEST.json": json.dumps(manifest)})
