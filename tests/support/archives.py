"""Archives and models, made on the spot."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def zipped(files: dict[str, str | bytes]) -> bytes:
    """A zip archive of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def linear_onnx(weight: list[list[float]], bias: list[float] | None = None) -> bytes:
    """An ONNX model y = x @ weight + bias; x is float32 [N, rows of weight]."""
    matrix = np.array(weight, np.float32)
    offset = np.array(bias if bias is not None else [0.0] * matrix.shape[1], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", matrix.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "w"), numpy_helper.from_array(offset, "b")],
    )
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
