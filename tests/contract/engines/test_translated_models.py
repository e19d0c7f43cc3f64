"""Translators around real models: requests in, answers out, through the adapters of ONNX Runtime and PyTorch."""

import json
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.djl import (
    SYNSET,
    image_onnx,
    json_request,
    png,
    properties_of,
    request,
    text_files,
    text_onnx,
    tokenizer_json,
    write_model,
)

from flowyard.engines import discovery
from flowyard.engines.base import Call, ModelSource
from flowyard.engines.djl.translators.model import TranslatedModel
from flowyard.engines.djl.translators.registry import translator_for
from flowyard.schemas.codecs.registry import NDLIST, NPZ
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import InvalidInputError, NodeError, OutOfMemoryError
from flowyard.schemas.messages import Message
from flowyard.schemas.values import decode, encode

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"
DIGIT_CLASSES = "synset=" + ",".join(f"digit {n}" for n in range(10))


@pytest.fixture
def load(tmp_path):
    loaded = []

    def of(engine, files, text, **arguments):
        folder = write_model(tmp_path, files)
        (name,) = [name for name in files if name.startswith("model.")]
        model = discovery.find(engine).load(ModelSource(root=str(folder), path=name), CPU)
        loaded.append(TranslatedModel(model, translator_for(folder, properties_of(text), arguments)))
        return loaded[-1]

    yield of
    for one in loaded:
        one.unload()


def ask(model, *messages):
    """Asks with requests as they arrive in a worker, and takes answers as they arrive in the server."""
    outcomes = model.predict([Call("", [decode(encode(message))]) for message in messages])
    return [decode(encode(one)) if isinstance(one, Message) else one for one in outcomes]


def values(answers):
    return [json.loads(one.data) for one in answers]


def counted(model):
    """How many rows each run of an ONNX model had."""
    runs, run = [], model._model._run

    def counting(arrays):
        runs.append(len(arrays[0]))
        return run(arrays)

    model._model.rows._run = counting
    return runs


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = torch.jit.script(module.eval())
        return buffer.save_to_buffer()


@pytest.fixture(params=["PyTorch", "OnnxRuntime"])
def digits(request, load):
    common = f"application=cv/image_classification\nflag=GRAYSCALE\nresize=8,8,AREA\ntopK=2\n{DIGIT_CLASSES}\n"
    if request.param == "PyTorch":
        return load("PyTorch", {"model.pt": (DIGITS / "cnn.pt").read_bytes()}, common)
    return load("OnnxRuntime", {"model.onnx": (DIGITS / "mlp.onnx").read_bytes()}, common)


def test_real_digits(digits):
    images = [request((DIGITS / "images" / f"{n}.png").read_bytes(), "image/png") for n in range(10)]
    found = values(ask(digits, *images))
    # The ONNX model takes this nine for an eight, whoever asks it.
    assert [one[0]["className"] for one in found[:9]] == [f"digit {n}" for n in range(9)]
    assert all(len(one) == 2 and one[0]["probability"] > one[1]["probability"] for one in found)
    assert values(ask(digits, images[3])) == [
        [{"className": one["className"], "probability": pytest.approx(one["probability"], abs=1e-6)} for one in found[3]]
    ]


def test_pixels_are_those_the_model_was_trained_with(load):
    text = "translatorFactory=ai.djl.modality.cv.translator.ImageFeatureExtractorFactory\nflag=GRAYSCALE\nresize=8,8,AREA"
    model = load("OnnxRuntime", {"model.onnx": (DIGITS / "mlp.onnx").read_bytes()}, text)
    file = DIGITS / "images" / "7.png"
    pixels = np.asarray(Image.open(file).convert("L"))[4::8, 4::8].astype(np.float32) / 255
    session = onnxruntime.InferenceSession(DIGITS / "mlp.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(["probabilities"], {"image": pixels.reshape(1, 1, 8, 8)})
    (found,) = values(ask(model, request(file.read_bytes())))
    np.testing.assert_allclose(found, expected[0], atol=1e-6)


WHITE, GRAY = png(np.full((2, 2, 3), 255, np.uint8)), png(np.full((2, 2, 3), 51, np.uint8))
WIDE = png(np.full((2, 4, 3), 255, np.uint8))
CLASSIFIER = {"model.onnx": image_onnx(), "synset.txt": "\n".join(SYNSET)}


def test_images_of_one_size_are_computed_together(load):
    model = load("OnnxRuntime", CLASSIFIER, "application=image_classification\ntopK=1")
    runs = counted(model)
    answers = ask(model, request(WHITE), request(b"bad"), request(WIDE), request(GRAY), request(WIDE))
    assert sorted(runs) == [2, 2]
    assert isinstance(answers[1], InvalidInputError)
    found = values(answers[:1] + answers[2:])
    assert [one[0]["probability"] for one in found] == [pytest.approx(p) for p in (3, 3, 0.6, 3)]
    assert {one[0]["className"] for one in found} == {"fish"}


def test_padding_computes_images_of_several_sizes_together(load):
    model = load("OnnxRuntime", CLASSIFIER, "application=image_classification\ntopK=1\nbatchifier=padding")
    runs = counted(model)
    found = values(ask(model, request(WHITE), request(WIDE)))
    assert runs == [2]
    # Half of the first image is what it was filled up with.
    assert [one[0]["probability"] for one in found] == [1.5, 3]


def test_without_a_batchifier_an_image_goes_as_it_is(load):
    model = load("OnnxRuntime", CLASSIFIER, "application=image_classification\nbatchifier=none")
    assert values(ask(model, request(GRAY)))[0][0] == {"className": "fish", "probability": pytest.approx(0.6)}


def test_an_image_that_does_not_fit_the_model_fails_alone(load):
    files = {"model.onnx": image_onnx(channels=1), "synset.txt": "\n".join(SYNSET)}
    model = load("OnnxRuntime", files, "application=image_classification")
    (error,) = ask(model, request(WHITE))
    assert isinstance(error, InvalidInputError)
    assert "expected" in error.message


def test_a_call_without_a_request_is_refused(load):
    model = load("OnnxRuntime", CLASSIFIER, "application=image_classification")
    outcomes = model.predict([Call("", []), Call("", ["text"]), Call("", [request(WHITE)])])
    assert [type(one) for one in outcomes] == [InvalidInputError, InvalidInputError, Message]


def test_a_translator_that_breaks_fails_one_request(load, monkeypatch):
    model = load("OnnxRuntime", CLASSIFIER, "application=image_classification")
    read = model._translator.read

    def breaking(message):
        if message.data == b"memory":
            raise MemoryError
        return read(message)

    monkeypatch.setattr(model._translator, "read", breaking)
    answers = ask(model, request(b"memory"), request(WHITE))
    assert isinstance(answers[0], OutOfMemoryError)
    assert isinstance(answers[1], Message)
    monkeypatch.setattr(model._translator, "write", lambda *_: 1 / 0)
    assert isinstance(ask(model, request(WHITE))[0], NodeError)


LABELS = ("low", "high")
TEXTS = [request("the list", "text/plain"), json_request({"inputs": ["the list of values", "a"]}), request("a")]


def expected_score(text):
    """What the model of texts gives: half of softmax over 0 and the mean of the numbers of the tokens by 100."""
    from tokenizers import Tokenizer

    return 1 / (1 + np.exp(-np.mean(Tokenizer.from_str(tokenizer_json()).encode(text).ids) / 100))


@pytest.mark.parametrize(
    "names",
    [
        ("input_ids", "attention_mask"),
        ("attention_mask", "input_ids"),
        ("input_ids", "token_type_ids", "attention_mask"),
    ],
)
@pytest.mark.parametrize("batchifier", ["stack", "padding"])
def test_a_model_gets_the_inputs_that_it_names(load, names, batchifier):
    files = {"model.onnx": text_onnx(names), **text_files(LABELS)}
    model = load("OnnxRuntime", files, f"application=text_classification\nbatchifier={batchifier}")
    runs = counted(model)
    first, many, last = values(ask(model, *TEXTS))
    assert runs == ([4] if batchifier == "padding" else [1, 2, 1])
    scores = [{one["className"]: one["probability"] for one in found}["high"] for found in (first, *many, last)]
    expected = [expected_score(text) for text in ("the list", "the list of values", "a", "a")]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


class Scores(torch.nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = ids.float() * mask
        return scores, -scores


class Hidden(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        kept = (input_ids * attention_mask).float()
        return {"pooler_output": kept.sum(1), "last_hidden_state": torch.stack([kept, kept * 0 + 3], 2)}


def test_question_answering_by_torchscript(load):
    model = load("PyTorch", {"model.pt": scripted(Scores()), **text_files()}, "application=nlp/question_answer")
    question = {"question": "the", "paragraph": "a list of values"}
    from tokenizers import Tokenizer

    ids = {word: Tokenizer.from_str(tokenizer_json()).token_to_id(word) for word in ("a", "list", "of", "values")}
    ends = sorted([max(ids, key=ids.__getitem__), min(ids, key=ids.__getitem__)], key=list(ids).index)
    words = list(ids)
    expected = " ".join(words[words.index(ends[0]) : words.index(ends[1]) + 1])
    single, several = values(ask(model, json_request(question), json_request([question, question])))
    assert single == {"answer": expected}
    assert several == [single, single]


def test_embeddings_by_torchscript(load):
    text = "translatorFactory=ai.djl.huggingface.translator.TextEmbeddingTranslatorFactory\nnormalize=false\npooling=max\n"
    model = load("PyTorch", {"model.pt": scripted(Hidden()), **text_files()}, text + "batchifier=padding")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json())
    first, many = values(ask(model, request("the list"), json_request({"inputs": ["a", "the list of values"]})))
    assert first == [max(tokenizer.encode("the list").ids), 3]
    assert many == [[max(tokenizer.encode(text).ids), 3] for text in ("a", "the list of values")]


def test_tensors_in_and_out(load):
    model = load("OnnxRuntime", {"model.onnx": image_onnx()}, "")
    batch = np.ones((2, 3, 4, 4), np.float32)
    binary, accepted, listed = ask(
        model,
        request(NDLIST.encode(batch)),
        request(NPZ.encode(batch), "tensor/npz"),
        request(NDLIST.encode(batch), "tensor/ndlist", "application/json"),
    )
    # As in DJL, the outputs of ONNX models have their names.
    assert list(NDLIST.decode(binary.data)) == ["scores"]
    np.testing.assert_array_equal(NPZ.decode(accepted.data)["scores"], [[1, 2, 3]] * 2)
    assert json.loads(listed.data) == {"predictions": [[1, 2, 3]] * 2}


def test_only_tensors_have_a_signature(load):
    assert load("OnnxRuntime", CLASSIFIER, "application=image_classification").signature is None
    assert load("OnnxRuntime", CLASSIFIER, "batchifier=stack").signature is None
    signature = load("OnnxRuntime", CLASSIFIER, "").signature
    assert [spec.name for spec in (*signature.inputs, *signature.outputs)] == ["x", "scores"]


def test_names_that_the_adapter_made_up_are_left_out(load):
    model = load("PyTorch", {"model.pt": scripted(Scores())}, "")
    ones = np.ones((1, 2), np.float32)
    answer, as_json = ask(
        model, request(NDLIST.encode([ones, ones])), request(NDLIST.encode([ones, ones]), "", "application/json")
    )
    np.testing.assert_array_equal(NDLIST.decode(answer.data)[1], -ones)
    assert json.loads(as_json.data) == {"predictions": [{"value": [[1, 1]]}, {"value": [[-1, -1]]}]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [({"inputs": [[1] * 48]}, "x"), ([1, 2], "x")],
)
def test_tensors_that_do_not_fit_the_model(load, value, expected):
    model = load("OnnxRuntime", {"model.onnx": image_onnx()}, "")
    (error,) = ask(model, json_request(value))
    assert isinstance(error, InvalidInputError)
    assert expected in error.message


def test_the_probabilities_of_a_classifier_of_scikit_learn(load):
    class Mappings:
        signature = None

        def predict(self, batch):
            return [{"label": np.array([1]), "probabilities": [{"0": 0.25, "1": 0.75}]} for _ in batch]

        def unload(self):
            pass

    model = load("OnnxRuntime", {"model.onnx": image_onnx()}, "")
    model._model.unload()
    model._model = Mappings()
    (answer,) = ask(model, request(NDLIST.encode(np.ones(2, np.float32)), "", "application/json"))
    assert json.loads(answer.data)["predictions"][1] == {"key": "probabilities", "value": [[0.25, 0.75]]}
