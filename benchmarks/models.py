"""The models of the benchmarks, the same bytes on every run: random weights from fixed seeds."""

from __future__ import annotations

import warnings
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = (784, 128, 64, 10)
IMAGE = (3, 224, 224)
#: float32 numbers of the large tensor: 600 KB.
LARGE = 150_000

DAG_STEPS = '''"""Pixels to what the models take."""

import numpy as np


def prepare(body):
    """784 bytes to float32 [1, 784] between 0 and 1."""
    return np.frombuffer(body, np.uint8).astype(np.float32).reshape(1, 784) / np.float32(255)
'''
DAG_WORKFLOW = """name: dag
models:
  a: {url: a.onnx, batch_size: 32}
  b: {url: b.onnx, batch_size: 32}
functions:
  prepare: steps:prepare
workflow:
  x: [prepare, in]
  left: [a, x]
  right: [b, x]
  out: [ensemble, left, right]
"""
LARGE_WORKFLOW = """name: large
models:
  scale: {url: scale.onnx, batch_size: 8}
  mean: {url: mean.onnx, batch_size: 8}
workflow:
  scaled: [scale, in]
  out: [mean, scaled]
"""


def write_models(folder: Path) -> Path:
    """Writes what is not there yet.

    Args:
        folder: Where to.

    Returns:
        The folder, with `mlp.onnx`, `a.onnx`, `b.onnx`, `scale.onnx`, `mean.onnx`, `resnet.onnx`, `resnet.pt`, `dag.zip`
        and `large.zip`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in (("mlp", 0), ("a", 1), ("b", 2)):
        (folder / f"{name}.onnx").write_bytes(mlp(seed))
    (folder / "scale.onnx").write_bytes(scale())
    (folder / "mean.onnx").write_bytes(mean())
    _zip(folder / "dag.zip", {"workflow.yaml": DAG_WORKFLOW, "steps.py": DAG_STEPS}, folder, ("a.onnx", "b.onnx"))
    _zip(folder / "large.zip", {"workflow.yaml": LARGE_WORKFLOW}, folder, ("scale.onnx", "mean.onnx"))
    if not (folder / "resnet.onnx").exists():
        write_resnet(folder)
    return folder


def _zip(target: Path, texts: dict[str, str], folder: Path, files: tuple[str, ...]) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
        for name in files:
            archive.write(folder / name, name)


def mlp(seed: int) -> bytes:
    """784-128-64-10 with ReLU and softmax; x float32 [N, 784] to y float32 [N, 10]."""
    source = np.random.default_rng(seed)
    nodes, weights, before = [], [], "x"
    last = len(LAYERS) - 2
    for index, (wide, narrow) in enumerate(pairwise(LAYERS)):
        matrix = source.standard_normal((wide, narrow)).astype(np.float32) / np.float32(np.sqrt(wide))
        weights += [
            numpy_helper.from_array(matrix, f"w{index}"),
            numpy_helper.from_array(np.zeros(narrow, np.float32), f"b{index}"),
        ]
        nodes.append(helper.make_node("Gemm", [before, f"w{index}", f"b{index}"], [f"h{index}"]))
        before = "y" if index == last else f"r{index}"
        nodes.append(helper.make_node("Softmax" if index == last else "Relu", [f"h{index}"], [before]))
    return _model(nodes, ["N", LAYERS[0]], ["N", LAYERS[-1]], weights)


def scale() -> bytes:
    """Halves a float32 [N, 150000]."""
    half = numpy_helper.from_array(np.array([0.5], np.float32), "half")
    return _model([helper.make_node("Mul", ["x", "half"], ["y"])], ["N", LARGE], ["N", LARGE], [half])


def mean() -> bytes:
    """Mean of a float32 [N, 150000] over its rows: [N, 1]."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)
    return _model([node], ["N", LARGE], ["N", 1], [])


def _model(nodes: list[Any], shape_in: list[Any], shape_out: list[Any], weights: list[Any]) -> bytes:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)]
    graph = helper.make_graph(nodes, "bench", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_resnet(folder: Path) -> None:
    """Writes a net with the layers of ResNet-18, as TorchScript and as ONNX with the same weights."""
    import torch  # noqa: PLC0415 - only when the net is not there yet

    net = _resnet(torch)
    example = torch.zeros(1, *IMAGE)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.trace(net, example))
        frozen.save(str(folder / "resnet.pt"))
    partial = folder / "resnet.partial"
    partial.write_bytes(resnet_onnx(net))
    partial.replace(folder / "resnet.onnx")


def _resnet(torch: Any) -> Any:
    nn = torch.nn
    torch.manual_seed(0)

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, wide: int, narrow: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(wide, narrow, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(narrow)
            self.conv2 = nn.Conv2d(narrow, narrow, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(narrow)
            self.skip = None
            if stride != 1 or wide != narrow:
                self.skip = nn.Sequential(nn.Conv2d(wide, narrow, 1, stride, bias=False), nn.BatchNorm2d(narrow))

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            return (y + (x if self.skip is None else self.skip(x))).relu()

    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [block for wide, narrow, stride in stages for block in (Block(wide, narrow, stride), Block(narrow, narrow, 1))]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    net = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
    return net.eval()


def resnet_onnx(net: Any) -> bytes:
    """The net as an ONNX graph, node by node, batch normalisation folded into the convolutions as an exporter does."""
    writer = _Writer()
    x = writer.relu(writer.conv("x", net[0], net[1]))
    x = writer.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for block in net[4:12]:
        y = writer.conv(writer.relu(writer.conv(x, block.conv1, block.bn1)), block.conv2, block.bn2)
        skip = x if block.skip is None else writer.conv(x, block.skip[0], block.skip[1])
        x = writer.relu(writer.add("Add", [y, skip]))
    x = writer.add("Flatten", [writer.add("GlobalAveragePool", [x])], axis=1)
    weight, bias = writer.weight(net[14].weight.detach().numpy()), writer.weight(net[14].bias.detach().numpy())
    writer.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["y"], transB=1))
    return _model(writer.nodes, ["N", *IMAGE], ["N", 1000], writer.weights)


class _Writer:
    """Collects nodes and weights, and invents the names between them."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def relu(self, x: str) -> str:
        return self.add("Relu", [x])

    def conv(self, x: str, conv: Any, bn: Any) -> str:
        factor = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach()
        weight = (conv.weight.detach() * factor.reshape(-1, 1, 1, 1)).numpy()
        bias = (bn.bias.detach() - bn.running_mean * factor).numpy()
        pad = conv.padding[0]
        inputs = [x, self.weight(weight), self.weight(bias)]
        return self.add("Conv", inputs, kernel_shape=list(conv.kernel_size), strides=list(conv.stride), pads=[pad] * 4)
