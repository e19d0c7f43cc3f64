"""TorchServe's default handlers, on models as they come in archives: TorchScript, eager with a state dict, ONNX."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import textwrap
import types
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from flowyard.engines.base import Call, ModelSource
from flowyard.engines.torchserve import loader
from flowyard.engines.torchserve.folder import recognise
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import HandlerError, InvalidModelError
from flowyard.schemas.messages import Message
from flowyard.schemas.models import ModelSpec

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x.flatten(1)[:, :6] * self.scale
"""


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([2.0]))

    def forward(self, x):
        return x.flatten(1)[:, :6] * self.scale


class Affine(torch.nn.Module):
    def forward(self, x):
        return 2 * x + 1


class Segmenter(torch.nn.Module):
    def forward(self, x):
        return {"out": x[:, :2, :2, :2]}


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(20, 3)

    def forward(self, text, offsets):
        return self.embedding(text, offsets) * 0 + torch.tensor([[0.0, 1.0, 2.0]])


def scripted(file, module):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module.eval()).save(str(file))


def picture(size=(300, 400), mode="RGB"):
    rng = np.random.default_rng(7)
    channels = (3,) if mode == "RGB" else ()
    image = Image.fromarray(rng.integers(0, 255, (size[1], size[0], *channels), dtype=np.uint8), mode=None)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    path, modules = list(sys.path), set(sys.modules)

    def write_and_load(handler, *, options=None, spec=None, config="", **model):
        if config:
            (tmp_path / "c.yaml").write_text(config)
            model["configFile"] = "c.yaml"
        (tmp_path / "MAR-INF").mkdir(exist_ok=True)
        manifest = {"createdOn": "x", "model": {"modelName": "m", "handler": handler, "modelVersion": "1.0", **model}}
        (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        found = recognise(tmp_path, options)
        source = ModelSource(
            root=str(tmp_path), path="", properties=found.parameters, handlers=found.handlers, spec=spec or ModelSpec()
        )
        sys.path.insert(0, str(tmp_path))
        return loader.load(source, CPU)

    yield write_and_load
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        if module.split("@")[0] in ("net", "own"):
            del sys.modules[module]


def ask(model, body, kind="", **headers):
    message = Message(properties=tuple(headers.items()), contents=(("body", body),), types=(kind,))
    (answer,) = model.predict([Call("", [message])])
    return answer


def told(answer):
    assert not isinstance(answer, HandlerError), answer.detail
    return json.loads(answer.data)


@pytest.mark.parametrize("handler", ["base_handler", "base_handler.py"])
def test_torchscript(load, tmp_path, handler):
    scripted(tmp_path / "affine.pt", Affine())
    model = load(handler, serializedFile="affine.pt", options={"service_envelope": "body"})
    assert told(ask(model, b"[1, 2, 3]", "application/json")) == [3, 5, 7]
    error = ask(model, b'{"a": 1}', "application/json")
    assert (error.status, error.message) == (503, "Prediction failed")


def test_an_eager_model_with_a_state_dict(load, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    model = load("base_handler", modelFile="net.py", serializedFile="net.pt", options={"service_envelope": "body"})
    assert told(ask(model, b"[1.0, 2.0]", "application/json")) == [2.0, 4.0]


def test_an_onnx_model(load, tmp_path):
    from onnx import TensorProto, helper, save

    shape = ["n", 2]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    model = load("base_handler", serializedFile="m.onnx", options={"service_envelope": "body"})
    assert told(ask(model, b"[1.5, 2.0]", "application/json")) == [3.0, 4.0]


class Code:
    """What unpickles to a call of `eval`."""

    def __reduce__(self):
        return eval, ("dict()",)


def test_weights_that_can_run_code_need_trust(load, tmp_path):
    (tmp_path / "net.py").write_text("import torch\nclass Net(torch.nn.Module): ...")
    torch.save(Code(), tmp_path / "net.pt")
    files = {"modelFile": "net.py", "serializedFile": "net.pt"}
    with pytest.raises(InvalidModelError, match="holds more than tensors: reading it can run code, which only `trusted` allows"):
        load("base_handler", **files)
    load("base_handler", spec=ModelSpec(trusted=True), **files)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "No model weights could be loaded"),
        ({"serializedFile": "m.bin"}, "No model weights could be loaded"),
        ({"serializedFile": "missing.pt"}, "missing.pt"),
        ({"serializedFile": "m.so"}, "a compiled model .* only with `trusted`"),
        ({"modelFile": "missing.py", "serializedFile": "m.pt"}, "Missing the model.py file: there is no 'missing.py'"),
        ({"modelFile": "own.py", "serializedFile": "m.pt"}, "Expected only one class as model definition, own.py has A, B"),
    ],
)
def test_models_that_cannot_be_loaded(load, tmp_path, files, words):
    (tmp_path / "own.py").write_text("class A: ...\nclass B: ...")
    with pytest.raises(InvalidModelError, match=words):
        load("base_handler", **files)


def test_a_model_compiled_by_torch_tensorrt_says_what_it_needs(load, tmp_path):
    scripted(tmp_path / "plain.pt", Net())
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "net.pt", "w") as compiled:
        for name in plain.namelist():
            content = plain.read(name)
            if "/code/" in name and name.endswith(".py"):
                content = content.replace(
                    b"  training : bool", b"  engine : __torch__.torch.classes.tensorrt.Engine\n  training : bool"
                )
            compiled.writestr(name, content)
    with pytest.raises(
        InvalidModelError, match=r"compiled by Torch-TensorRT, .* install torch_tensorrt in the server's environment"
    ):
        load("base_handler", serializedFile="net.pt")


@pytest.mark.parametrize(
    "mapping", [{"5": "five"}, {"5": ["n05", "five"]}, {"object_type_names": ["0", "1", "2", "3", "4", "five"]}]
)
def test_an_image_classifier(load, tmp_path, mapping):
    scripted(tmp_path / "net.pt", Net())
    labels = {str(number): str(number) for number in range(5)} | mapping if "5" in mapping else mapping
    (tmp_path / "index_to_name.json").write_text(json.dumps(labels))
    model = load("image_classifier", serializedFile="net.pt")
    found = told(ask(model, picture(), "image/png"))
    assert len(found) == 5
    assert set(found) <= {"0", "1", "2", "3", "4", "five"}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert 0 < sum(found.values()) < 1
    # Base64 text is the same image.
    assert told(ask(model, base64.b64encode(picture()), "text/plain")) == found


def test_images_are_prepared_as_torchvision_prepares_them(load, tmp_path):
    scripted(tmp_path / "net.pt", Net())
    load("image_classifier", serializedFile="net.pt")
    from ts.torch_handler.image_classifier import ImageClassifier

    image = Image.open(io.BytesIO(picture((300, 401))))
    prepared = ImageClassifier.image_processing(image)
    scaled = image.resize((256, int(256 * 401 / 300)), Image.Resampling.BILINEAR)
    top, left = round((scaled.height - 224) / 2), round((scaled.width - 224) / 2)
    cut = np.asarray(scaled)[top : top + 224, left : left + 224].transpose(2, 0, 1).astype(np.float32) / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (cut - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(prepared.numpy(), expected, atol=1e-5)


def test_what_is_no_image_fails_its_request(load, tmp_path):
    scripted(tmp_path / "net.pt", Net())
    error = ask(load("image_classifier", serializedFile="net.pt"), b"no image", "image/png")
    assert (error.status, error.message) == (503, "Prediction failed")
    assert "cannot identify image" in error.detail


def test_labels_that_are_none(load, tmp_path):
    scripted(tmp_path / "net.pt", Net())
    for text, words in (("[1]", "should be in"), ('{"a": 1}', "must be either str or"), ("{", "JSONDecodeError")):
        (tmp_path / "index_to_name.json").write_text(text)
        with pytest.raises(InvalidModelError, match=words):
            load("image_classifier", serializedFile="net.pt")


def test_an_image_segmenter(load, tmp_path):
    scripted(tmp_path / "net.pt", Segmenter())
    found = told(ask(load("image_segmenter", serializedFile="net.pt"), picture(), "image/png"))
    assert np.array(found).shape == (2, 2, 2)
    assert all(pixel[0] in (0.0, 1.0) and 0.5 <= pixel[1] <= 1 for row in found for pixel in row)


def test_an_object_detector(load, tmp_path):
    (tmp_path / "own.py").write_text(
        textwrap.dedent(
            """
            import torch
            class Detector(torch.nn.Module):
                def forward(self, x):
                    one = {"boxes": torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]),
                           "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.75, 0.25])}
                    return [one] * len(x)
            """
        )
    )
    (tmp_path / "index_to_name.json").write_text('{"1": "cat", "2": "dog"}')
    found = told(ask(load("object_detector", modelFile="own.py"), picture(), "image/png"))
    assert found == [{"cat": [0.0, 1.0, 2.0, 3.0], "score": 0.75}]


def test_a_text_classifier(load, tmp_path):
    scripted(tmp_path / "net.pt", Words())
    vocabulary = {"i": 1, "do": 2, "not": 3, "like": 4, "i do": 5, "do not": 6, "not like": 7}
    torch.save(vocabulary, tmp_path / "source_vocab.pt")
    (tmp_path / "index_to_name.json").write_text('{"0": "bad", "1": "so so", "2": "good"}')
    model = load("text_classifier", serializedFile="net.pt")
    found = told(ask(model, b"<p>I DON'T like!</p>", "text/plain"))
    assert [max(found, key=found.get), sorted(found)] == ["good", ["bad", "good", "so so"]]
    assert ask(model, b"unheard of").detail == "KeyError: 'unheard'"


def test_a_text_classifier_without_a_vocabulary(load, tmp_path):
    scripted(tmp_path / "net.pt", Words())
    with pytest.raises(InvalidModelError, match="Missing the source_vocab file"):
        load("text_classifier", serializedFile="net.pt")


def test_explanations_are_captums(load, tmp_path, monkeypatch):
    class IntegratedGradients:
        def __init__(self, model):
            self.model = model

        def attribute(self, data, target, n_steps):
            return torch.tensor([[float(target), float(n_steps)]] * len(data))

    attr = types.ModuleType("captum.attr")
    attr.IntegratedGradients = IntegratedGradients
    monkeypatch.setitem(sys.modules, "captum", types.ModuleType("captum"))
    monkeypatch.setitem(sys.modules, "captum.attr", attr)
    scripted(tmp_path / "net.pt", Net())
    model = load("image_classifier", serializedFile="net.pt")
    assert told(ask(model, picture(), "image/png", explain="True")) == [0.0, 15.0]
    assert len(told(ask(model, picture(), "image/png", explain="False"))) == 5


OWN = """
from ts.torch_handler.base_handler import BaseHandler

class Own(BaseHandler):
    def preprocess(self, data):
        import torch
        return torch.tensor([[float(row.get("body"))] for row in data])

    def describe_handle(self):
        return {"kind": "affine", "device": str(self.get_device())}
"""


def test_a_handler_derived_from_the_base(load, tmp_path):
    scripted(tmp_path / "affine.pt", Affine())
    (tmp_path / "own.py").write_text(OWN)
    model = load("own.py", serializedFile="affine.pt", config="handler: {profile: true}")
    assert told(ask(model, b"3")) == [7.0]
    assert told(ask(model, b"", describe="True")) == {"kind": "affine", "device": "cpu"}
    names = {sample.name for sample in model.take_metrics()}
    assert {"HandlerTime", "PredictionTime", "ts_handler_inference", "ts_handler_postprocess"} <= names


def test_micro_batches(load, tmp_path):
    scripted(tmp_path / "affine.pt", Affine())
    # As public handlers have it: made before the model is loaded, by a class that leaves out its base's `__init__`.
    wrapped = OWN.replace(
        "    def preprocess",
        "    def __init__(self):\n"
        "        from ts.handler_utils.micro_batching import MicroBatching\n"
        "        self.handle = MicroBatching(self)\n\n"
        "    def initialize(self, context):\n"
        "        super().initialize(context)\n"
        "        self.handle.parallelism = {'preprocess': 2}\n"
        "        self.handle.micro_batch_size = 2\n"
        "        self.parts = set()\n\n"
        "    def postprocess(self, data):\n"
        "        self.parts.add(self.handle.get_micro_batch_idx())\n"
        "        return super().postprocess(data)\n\n"
        "    def preprocess",
    ).replace('"device": str(self.get_device())', '"device": "cpu", "parts": sorted(self.parts)')
    (tmp_path / "own.py").write_text(wrapped)
    model = load("own.py", serializedFile="affine.pt")
    calls = [Call("", [Message(contents=(("body", str(n).encode()),))]) for n in range(5)]
    assert [told(answer) for answer in model.predict(calls)] == [[2.0 * n + 1] for n in range(5)]
    assert told(ask(model, b"", describe="True"))["parts"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("config", "compiled"),
    [
        ("pt2: {compile: {enable: true, backend: eager}}", True),
        ("pt2: eager", True),
        ("pt2: {backend: eager}", True),
        ("pt2: {compile: {enable: false}}", False),
        ("pt2: {export: {aot_compile: true}}", False),
        ("pt2: no_such_backend", False),
    ],
)
def test_compiling_is_opt_in(load, tmp_path, monkeypatch, config, compiled):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options) or model)
    scripted(tmp_path / "affine.pt", Affine())
    load("base_handler", serializedFile="affine.pt", config=config)
    assert bool(asked) == compiled


def test_one_that_cannot_be_compiled_is_used_as_it_is(load, tmp_path, monkeypatch):
    def fail(model, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    scripted(tmp_path / "affine.pt", Affine())
    model = load("base_handler", serializedFile="affine.pt", config="pt2: eager", options={"service_envelope": "body"})
    assert told(ask(model, b"[1]", "application/json")) == [3]
