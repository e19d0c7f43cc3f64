"""Each workload as one function over rows, for peers and as the reference. Needs only numpy, and ONNX Runtime or PyTorch.

Runs in the peers' environments: it must not import anything of ours.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Pipeline = Callable[[Any], Any]
#: The steps of the workload `dag`: what the pixels are made, two models on that, and their mean.
DAG_STEPS = ("prepare", "a", "b", "merge")


def pipeline(workload: str, folder: Path) -> Pipeline:
    """Loads a workload's models, each with one thread.

    Args:
        workload: Its name.
        folder: Folder of the model files.

    Returns:
        A function from rows [N, ...] to the answers' rows.
    """
    if workload == "resnet-torch":
        return torch_model(folder / "resnet.pt")
    if workload == "resnet-onnx":
        return onnx_model(folder / "resnet.onnx")
    if workload == "dag":
        prepare, left, right, merge = (dag_step(name, folder) for name in DAG_STEPS)

        def dag(rows: Any) -> Any:
            prepared = prepare(rows)
            return merge(left(prepared), right(prepared))

        return dag
    if workload == "large":
        scale, mean = onnx_model(folder / "scale.onnx"), onnx_model(folder / "mean.onnx")
        return lambda rows: mean(scale(rows))
    return onnx_model(folder / "mlp.onnx")


def dag_step(name: str, folder: Path) -> Callable[..., Any]:
    """One step of the workload `dag`, for servers whose own workflows put them together: a function of rows.

    Args:
        name: One of `DAG_STEPS`.
        folder: Folder of the model files.
    """
    if name == "prepare":
        return lambda rows: rows.astype(np.float32) / np.float32(255)
    if name == "merge":
        return lambda left, right: (left + right) / 2
    return onnx_model(folder / f"{name}.onnx")


def onnx_model(file: Path) -> Pipeline:
    """An ONNX model on one CPU thread."""
    import onnxruntime  # noqa: PLC0415 - not where only PyTorch runs

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"x": rows})[0]


def torch_model(file: Path) -> Pipeline:
    """A TorchScript model on one CPU thread."""
    import torch  # noqa: PLC0415 - not in every environment

    torch.set_num_threads(1)
    net = torch.jit.load(str(file)).eval()

    def predict(rows: Any) -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(rows)).numpy()

    return predict


def rows_of(body: Any) -> Any:
    """The rows of a body as any server may hand it over: parsed JSON, npy bytes, or plain pixels."""
    if isinstance(body, (list, dict)):
        return np.asarray(body, np.float32)
    content = bytes(body)
    if content.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(content), allow_pickle=False)
    if content.startswith(b"["):
        return np.asarray(json.loads(content), np.float32)
    return np.frombuffer(content, np.uint8).reshape(1, -1)


def environment_pipeline() -> Pipeline:
    """The pipeline that the environment of a server program names."""
    return pipeline(os.environ["BENCH_WORKLOAD"], Path(os.environ["BENCH_MODELS"]))


def batch_size() -> int:
    """Most requests computed together."""
    return int(os.environ["BENCH_BATCH_SIZE"])


#: What a server waits for more requests when it cannot batch without waiting.
BATCH_DELAY_MS = 2
