"""Tiny models, one per adapter and format. All compute y = x @ W of rows of three numbers, W being 3x2."""

import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from flowyard.engines.base import ModelSource
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import TensorSpec

WEIGHT = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(3, 2))

    def forward(self, x):
        return x @ self.w
"""
PYTHON_MODEL = """
import numpy as np

class Model:
    def load(self, device):
        self.w = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)

    def predict(self, batch):
        return [np.asarray(x, dtype=np.float32) @ self.w for x in batch]
"""
PYTHON_FUNCTION = """
import numpy as np

async def predict(x, context):
    return np.asarray(x, dtype=np.float32) @ np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
"""


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.from_numpy(WEIGHT.copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w


@dataclass
class Kind:
    """One adapter with one format, and where its model lies."""

    engine: str
    root: Path
    path: str
    spec: ModelSpec = field(default_factory=ModelSpec)
    input_name: str = ""

    def source(self) -> ModelSource:
        return ModelSource(root=str(self.root), path=self.path, spec=self.spec)


def save_onnx(file: Path, shape: tuple[int | str, ...] = ("n", 3), opset: int = 17) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, 2], WEIGHT.ravel().tolist())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), file)


def save_torchscript(file: Path, module: torch.nn.Module | None = None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script((module or Net()).eval()).save(str(file))


def save_exported(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = torch.export.Dim("rows")
        torch.export.save(torch.export.export(Net().eval(), (torch.zeros(2, 3),), dynamic_shapes={"x": {0: rows}}), file)


def save_safetensors(file: Path) -> None:
    data = WEIGHT.tobytes()
    head = json.dumps({"w": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, len(data)]}}).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + data)


def make_kind(kind: str, root: Path) -> Kind:
    declared = ModelSpec(inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3)),))
    with_class = ModelSpec(options={"class": "net:Net"}, inputs=declared.inputs)
    if kind == "onnx":
        save_onnx(root / "m.onnx")
        return Kind("OnnxRuntime", root, "m.onnx", input_name="x")
    if kind.startswith("torchscript"):
        save_torchscript(root / "m.pt")
        return Kind("PyTorch", root, "m.pt", declared if kind == "torchscript-declared" else ModelSpec(), input_name="x")
    if kind == "exported":
        save_exported(root / "m.pt2")
        return Kind("PyTorch", root, "m.pt2", input_name="x")
    if kind == "state-dict":
        torch.save(Net().state_dict(), root / "m.pth")
        (root / "net.py").write_text(NET)
        return Kind("PyTorch", root, "m.pth", with_class, input_name="x")
    if kind == "safetensors":
        save_safetensors(root / "m.safetensors")
        (root / "net.py").write_text(NET)
        return Kind("PyTorch", root, "m.safetensors", with_class, input_name="x")
    if kind == "python-class":
        (root / "steps.py").write_text(PYTHON_MODEL)
        return Kind("Python", root, "steps:Model")
    (root / "model.py").write_text(PYTHON_FUNCTION)
    return Kind("Python", root, "model.py")


TENSOR_KINDS = ("onnx", "torchscript", "torchscript-declared", "exported", "state-dict", "safetensors")
KINDS = (*TENSOR_KINDS, "python-class", "python-function")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    return make_kind(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=TENSOR_KINDS)
def tensor_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    return make_kind(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def build_model(tmp_path: Path) -> Callable[[str], Kind]:
    """Makes the model of a kind in the test's own folder."""
    return lambda kind: make_kind(kind, tmp_path)
