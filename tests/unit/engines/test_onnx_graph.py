"""Inputs and outputs of ONNX files, read without loading them."""

from __future__ import annotations

import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.archives import linear_onnx

from flowyard.engines.onnx_graph import read_signature
from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.tensors import Signature, TensorSpec


def test_reads_names_dtypes_and_shapes(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(linear_onnx([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert read_signature(path) == Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 2)),),
    )


def test_inputs_with_a_value_in_the_file_are_none_and_shapes_may_be_unknown(tmp_path):
    import numpy as np

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.INT64, None),
            helper.make_tensor_value_info("w", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("s", TensorProto.STRING, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.BOOL, ["N", 0, 7])],
        [numpy_helper.from_array(np.array([1], "i8"), "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph), path)
    signature = read_signature(path)
    assert signature.inputs == (TensorSpec(name="x", dtype="int64"), TensorSpec(name="s", dtype="string", shape=()))
    assert signature.outputs == (TensorSpec(name="y", dtype="bool", shape=(-1, 0, 7)),)


@given(st.data())
def test_whatever_it_is_it_is_read_or_refused(tmp_path_factory, data):
    body = bytearray(linear_onnx([[1.0]]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    path.write_bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        read_signature(path)
    except InvalidModelError as error:
        assert "m.onnx" in error.message
