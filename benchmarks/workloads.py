"""What is computed: bodies, and what the answer must be."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flowyard.platform.bench.bodies import BYTES, JSON, NPY

#: Largest difference between our answer and a peer's, relative to the largest number of the answer.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Workload:
    """One thing to serve.

    Attributes:
        name: Its name, on the command line too.
        title: What it is, for readers.
        load: What flowyard loads: `NAME=FILE`.
        batch_size: Most requests computed together, on every server.
        connections: Connections of the closed loop.
        rows: The input: one row.
        kind: Content type of the body.
        raw: Model file of the raw engine loop, empty for none.
        longer: How many times as long as others it is measured: of answers that come in few and large batches a short time holds
            one more or one less.
    """

    name: str
    title: str
    load: str
    batch_size: int
    connections: tuple[int, ...]
    kind: str
    rows: Any = field(repr=False)
    raw: str = ""
    longer: float = 1.0

    @property
    def path(self) -> str:
        """Where flowyard answers it."""
        return f"/predictions/{self.load.split('=')[0]}"

    def body(self) -> bytes:
        """The body, the same for every server that takes a body as it is."""
        if self.kind == JSON:
            return msgspec.json.encode(self.rows.tolist())
        if self.kind == BYTES:
            return bytes(self.rows.tobytes())
        buffer = io.BytesIO()
        np.save(buffer, self.rows, allow_pickle=False)
        return buffer.getvalue()


def workloads() -> dict[str, Workload]:
    """All of them, by name."""
    source = np.random.default_rng(7)
    # Rounded as numbers in JSON bodies usually are.
    digit = source.random((1, 784)).round(3).astype(np.float32)
    pixels = source.integers(0, 256, (1, 784)).astype(np.uint8)
    image = source.standard_normal((1, 3, 224, 224)).astype(np.float32)
    large = source.standard_normal((1, 150_000)).astype(np.float32)
    small, few = (1, 8, 32, 64), (1, 8, 32)
    digit_json = msgspec.json.decode(msgspec.json.encode(digit.astype(np.float64).round(3).tolist()))
    listed = [
        Workload(
            "mlp-json", "MLP 784-128-64-10 in ONNX, JSON", "mlp=mlp.onnx", 32, small, JSON, np.array(digit_json), "mlp.onnx"
        ),
        Workload("mlp-npy", "MLP 784-128-64-10 in ONNX, npy", "mlp=mlp.onnx", 32, small, NPY, digit, "mlp.onnx"),
        Workload("resnet-onnx", "ResNet-18 in ONNX, npy", "resnet=resnet.onnx", 8, few, NPY, image, "resnet.onnx", 3.0),
        Workload("resnet-torch", "ResNet-18 in TorchScript, npy", "resnet=resnet.pt", 8, few, NPY, image, "resnet.pt", 3.0),
        Workload("dag", "preprocess, two MLPs in parallel, merge; 784 bytes", "dag=dag.zip", 32, small, BYTES, pixels),
        Workload("large", "600 KB through two nodes, npy", "large=large.zip", 8, few, NPY, large),
    ]
    return {workload.name: workload for workload in listed}


def differs(ours: Any, theirs: Any) -> str:
    """How two answers differ; empty when they agree."""
    if ours.size != theirs.size:
        return f"{theirs.size} numbers where ours are {ours.size}"
    difference = float(np.abs(ours.reshape(-1) - theirs.reshape(-1)).max())
    return "" if difference <= TOLERANCE * max(float(np.abs(ours).max()), 1e-6) else f"differs by {difference:g}"


def models_folder(root: Path) -> Path:
    """Where the model files are written."""
    return root / "bench-results" / "models"
