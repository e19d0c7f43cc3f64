"""What the adapters of model files say about files they cannot load, and what each format brings along."""

import subprocess
import sys
import textwrap

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from flowyard.engines.base import Call, ModelSource
from flowyard.engines.onnx import OnnxRuntimeEngine
from flowyard.engines.pytorch import PyTorchEngine
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import InvalidInputError, InvalidModelError, NodeError
from flowyard.schemas.models import ModelSpec


def source(root, path, **spec):
    return ModelSource(root=str(root), path=path, spec=ModelSpec(**spec))


def save_graph(file, nodes, inputs, outputs):
    make = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [make(*one) for one in inputs], [make(*one) for one in outputs])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)


@pytest.mark.parametrize(
    ("name", "content"), [("m.onnx", b"no model" * 9), ("m.onnx", b""), ("m.pt", b"no model"), ("m.pt", b"")]
)
def test_a_broken_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    engine = OnnxRuntimeEngine() if name.endswith("onnx") else PyTorchEngine()
    with pytest.raises(InvalidModelError) as caught:
        engine.load(source(tmp_path, name), CPU)
    assert caught.value.message.startswith(f"{name}: ")
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("cut", [30, 400])
@pytest.mark.parametrize("kind_name", ["torchscript", "exported", "state-dict", "safetensors", "onnx"])
def test_a_truncated_file(build_model, kind_name, cut):
    made = build_model(kind_name)
    file = made.root / made.path
    file.write_bytes(file.read_bytes()[: min(cut, file.stat().st_size - 9)])
    engine = OnnxRuntimeEngine() if kind_name == "onnx" else PyTorchEngine()
    with pytest.raises(InvalidModelError, match=made.path):
        engine.load(made.source(), CPU)


def test_an_unknown_opset_in_onnx_runtimes_own_words(tmp_path):
    save_graph(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [("x", 1, ["n"])], [("y", 1, ["n"])])
    model = onnx.load(tmp_path / "m.onnx")
    model.opset_import[0].version = 999
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InvalidModelError, match="till opset") as caught:
        OnnxRuntimeEngine().load(source(tmp_path, "m.onnx"), CPU)
    assert "onnxruntime_src" not in caught.value.message


def test_strings(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    save_graph(tmp_path / "m.onnx", nodes, [("x", TensorProto.STRING, ["n"])], [("y", TensorProto.STRING, ["n"])])
    model = OnnxRuntimeEngine().load(source(tmp_path, "m.onnx"), CPU)
    assert model.signature.inputs[0].dtype == "string"
    outcomes = model.predict([Call("", [["a", "b"]]), Call("", ["c"]), Call("", [[1, "d"]])])
    assert outcomes[0].tolist() == ["a", "b"]
    assert outcomes[1].item() == "c"
    assert isinstance(outcomes[2], InvalidInputError)


def test_several_inputs_and_outputs(tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    one, two = (("a", 1, ["n", 2]), ("b", 1, ["n", 2])), (("sum", 1, ["n", 2]), ("difference", 1, ["n", 2]))
    save_graph(tmp_path / "m.onnx", nodes, one, two)
    model = OnnxRuntimeEngine().load(source(tmp_path, "m.onnx"), CPU)
    by_order, by_name = model.predict([Call("", [[1, 2], [3, 4]]), Call("", [{"b": [[3, 4]], "a": [[1, 2]]}])])
    assert {name: value.tolist() for name, value in by_order.items()} == {"sum": [4, 6], "difference": [-2, -2]}
    assert by_name["sum"].tolist() == [[4, 6]]
    (wrong,) = model.predict([Call("", [{"a": [[1, 2]]}])])
    assert wrong.message == 'expected a mapping with "a", "b", got one without "b"'


def test_rows_that_differ_run_alone(tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    save_graph(tmp_path / "m.onnx", nodes, [("a", 1, ["n", 1]), ("b", 1, ["m", 1])], [("y", 1, ["k", 1])])
    model = OnnxRuntimeEngine().load(source(tmp_path, "m.onnx"), CPU)
    calls = [Call("", [[[1], [2]], [[10]]]), Call("", [[[1]], [[5]]]), Call("", [[[1], [2]], [[1], [2], [3]]])]
    outcomes = model.predict(calls)
    assert [outcome.tolist() for outcome in outcomes[:2]] == [[[11], [12]], [[6]]]
    assert isinstance(outcomes[2], InvalidInputError)


def test_no_noise_on_stderr(tmp_path):
    save_graph(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [("x", 1, ["n"])], [("y", 1, ["n"])])
    program = textwrap.dedent("""
        import sys
        from flowyard.engines.base import Call, ModelSource
        from flowyard.engines.onnx import OnnxRuntimeEngine
        from flowyard.schemas.devices import CPU, Device
        from flowyard.schemas.errors import InvalidModelError
        assert "onnxruntime" not in sys.modules
        engine, source = OnnxRuntimeEngine(), ModelSource(root=sys.argv[1], path="m.onnx")
        engine.load(source, CPU).predict([Call("", [[1.0]])])
        try:
            engine.load(source, Device("gpu", 0))
        except InvalidModelError:
            pass
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Pickled(torch.nn.Module):
    def forward(self, x):
        return x


def test_a_checkpoint_that_needs_pickle(tmp_path):
    torch.save(Pickled(), tmp_path / "m.pt")
    with pytest.raises(InvalidModelError) as caught:
        PyTorchEngine().load(source(tmp_path, "m.pt"), CPU)
    for word in ("trusted", "TorchScript", "torch.export", "safetensors", "Pickled"):
        assert word in caught.value.message
    model = PyTorchEngine().load(source(tmp_path, "m.pt", trusted=True), CPU)
    assert model.predict([Call("", [[1.0]])])[0].tolist() == [1.0]


class Evil:
    def __reduce__(self):
        return (exit, ("code ran",))


def test_an_exported_archive_cannot_run_pickle(tmp_path):
    import zipfile

    torch.save({"w": torch.zeros(1), "evil": Evil()}, tmp_path / "evil.pt")
    with torch.no_grad():
        program = torch.export.export(Pickled(), (torch.zeros(2),))
    torch.export.save(program, tmp_path / "good.pt2")
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "m.pt2", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, (tmp_path / "evil.pt").read_bytes() if name.endswith("model.pt") else good.read(name))
    with pytest.raises(InvalidModelError):
        PyTorchEngine().load(source(tmp_path, "m.pt2"), CPU)
    with pytest.raises(SystemExit, match="code ran"):
        PyTorchEngine().load(source(tmp_path, "m.pt2", trusted=True), CPU)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "weights only"),
        ({"class": "nets:Other"}, "'Other'"),
        ({"class": "nets:Small"}, "the weights do not fit: .*size mismatch for w"),
        ({"class": "nets:plain"}, "torch.nn.Module"),
        ({"class": "gone:Net"}, "no module 'gone'"),
        ({"class": "nets:Raises"}, r"nets.py:10: ValueError: no such net"),
    ],
)
def test_a_state_dict_whose_class_does_not_fit(tmp_path, options, says):
    torch.save({"w": torch.zeros(3)}, tmp_path / "m.pt")
    code = """
    import torch
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))
    plain = dict
    class Raises:
        def __init__(self):
            raise ValueError("no such net")
    """
    (tmp_path / "nets.py").write_text(textwrap.dedent(code))
    sys.modules.pop("nets", None)
    with pytest.raises(InvalidModelError, match=says):
        PyTorchEngine().load(source(tmp_path, "m.pt", options=options), CPU)


class Outputs(torch.nn.Module):
    def forward(self, x):
        x += 1
        return x.to(torch.bfloat16), x.sum(1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_torch_outputs_and_inputs_in_place(tmp_path):
    torch.jit.trace(Outputs(), (torch.zeros(2, 3),)).save(str(tmp_path / "m.pt"))
    model = PyTorchEngine().load(source(tmp_path, "m.pt"), CPU)
    mine = np.zeros((2, 3), dtype=np.float32)
    mine.flags.writeable = False
    outcomes = model.predict([Call("", [mine]), Call("", [mine])])
    for outcome in outcomes:
        assert outcome["output0"].dtype == np.float32
        assert outcome["output1"].tolist() == [3, 3]
    assert not mine.any()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_what_a_network_raises(tmp_path):
    class Raises(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.sum() > 0, "nothing but zeros"
            return x

    torch.jit.script(Raises()).save(str(tmp_path / "m.pt"))
    model = PyTorchEngine().load(source(tmp_path, "m.pt"), CPU)
    bad, good = model.predict([Call("", [[0.0]]), Call("", [[1.0]])])
    assert isinstance(bad, NodeError)
    assert "nothing but zeros" in bad.message
    assert good.tolist() == [1.0]


def test_a_dtype_that_nobody_declared(build_model):
    model = PyTorchEngine().load(build_model("torchscript").source(), CPU)
    (outcome,) = model.predict([Call("", [[[1, 0, 2]]])])
    assert isinstance(outcome, InvalidInputError)
    assert "declare the inputs" in outcome.message
    declared = PyTorchEngine().load(build_model("torchscript-declared").source(), CPU)
    assert declared.predict([Call("", [[[1, 0, 2]]])])[0].tolist() == [[11, 14]]
