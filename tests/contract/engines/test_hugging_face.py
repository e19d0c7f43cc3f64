"""Models of Hugging Face's through `transformers`: tiny ones, made on the spot with weights by chance."""

import json
import os
import sys
import warnings

import numpy as np
import pytest
from support.djl import json_request, png, request, write_model, write_pretrained

from flowyard.engines.base import Call, ModelSource
from flowyard.engines.djl import folder as djl
from flowyard.engines.djl import loader
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import InvalidInputError, InvalidModelError
from flowyard.schemas.values import decode, encode

TEXT = "the values of a list"


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    """What a worker changes for itself: its environment, its path and its modules."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    yield
    sys.modules.pop("model", None)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    made = {}

    def of(architecture, **config):
        key = (architecture, *config)
        if key not in made:
            made[key] = write_pretrained(tmp_path_factory.mktemp(architecture), architecture, config)
        return made[key]

    return of


def load(folder, properties=""):
    write_model(folder, {"serving.properties": properties})
    found = djl.recognise(folder)
    source = ModelSource(root=str(found.folder), path=found.path, properties=found.parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loader.load(source, CPU, found.engine)


def ask(model, *messages):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.predict([Call("", [decode(encode(message))]) for message in messages])


def values(answers):
    return [json.loads(one.data) for one in answers]


def test_text_classification_by_the_architecture(make):
    model = load(make("BertForSequenceClassification", id2label={0: "low", 1: "high"}))
    plain, single, several = values(
        ask(model, request(TEXT, "text/plain"), json_request({"inputs": TEXT}), json_request({"inputs": [TEXT, "the"]}))
    )
    assert plain == single
    assert [set(one) for one in single] == [{"label", "score"}]
    assert single[0]["label"] in ("low", "high")
    assert several[0] == {"label": single[0]["label"], "score": pytest.approx(single[0]["score"], abs=1e-5)}
    assert len(several) == 2


def test_requests_with_the_same_parameters_are_computed_together(make):
    model = load(make("BertForSequenceClassification", id2label={0: "low", 1: "high"}))
    runs, run = [], model._run

    def counting(inputs, **parameters):
        runs.append((len(inputs), parameters))
        return run(inputs, **parameters)

    model._run = counting
    all_classes = {"inputs": "the", "parameters": {"top_k": None}}
    answers = ask(
        model, json_request({"inputs": TEXT}), json_request(all_classes), json_request("x"), json_request({"inputs": ["a", "b"]})
    )
    assert runs == [(4, {}), (1, {"top_k": None})]
    assert len(values(answers[1:2])[0][0]) == 2
    assert len(values(answers[3:])[0]) == 2


def test_a_request_that_fails_fails_alone_and_as_in_djl(make):
    model = load(make("BertForSequenceClassification", id2label={0: "low", 1: "high"}))
    bad, good = ask(model, json_request({"inputs": 5}), json_request({"inputs": TEXT}))
    assert (bad.code, bad.reason) == (424, "invoke handler failure")
    assert good.code == 200


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request("{", "application/json"), "Input Parsing failed"),
        (request(b"\xff", "text/plain"), "Input Parsing failed"),
        (request("1,2", "text/csv"), "Input Parsing failed"),
        (request(""), "got nothing"),
        (json_request({}), "got nothing"),
        (json_request({"inputs": []}), "got nothing"),
        (json_request({"inputs": [None]}), "got nothing"),
        (json_request({"inputs": "a", "parameters": 5}), "parameters: expected an object"),
        (json_request({"inputs": "a", "parameters": ["x"]}), "parameters: expected an object"),
    ],
)
def test_wrong_requests(make, message, expected):
    model = load(make("BertForSequenceClassification", id2label={0: "low", 1: "high"}))
    outcome, good = ask(model, message, json_request({"inputs": TEXT}))
    assert isinstance(outcome, InvalidInputError)
    assert expected in outcome.message
    assert good.code == 200


def test_a_call_without_a_request(make):
    model = load(make("BertForSequenceClassification", id2label={0: "low", 1: "high"}))
    assert isinstance(model.predict([Call("", ["text"])])[0], InvalidInputError)


def test_other_tasks_of_texts(make):
    (found,) = values(ask(load(make("BertForMaskedLM")), json_request({"inputs": "the [MASK]", "parameters": {"top_k": 2}})))
    assert [len(one) for one in found] == [2]
    assert {"score", "token", "token_str", "sequence"} <= set(found[0][0])
    (found,) = values(ask(load(make("BertForTokenClassification", id2label={0: "A", 1: "B"})), json_request({"inputs": TEXT})))
    assert [one["word"] for one in found[0]] == TEXT.split()
    (found,) = values(ask(load(make("BertModel"), "option.task=feature-extraction"), json_request({"inputs": TEXT})))
    assert np.shape(found) == (1, 1, 7, 8)


def test_question_answering(make):
    model = load(make("BertForQuestionAnswering"))
    pair = {"question": "the values", "context": "a list of the same values"}
    (found,), (nested,), several, short = values(
        ask(
            model,
            json_request(pair),
            json_request({"inputs": pair}),
            json_request({"inputs": [pair, pair]}),
            json_request({"inputs": pair, "parameters": {"max_answer_len": 1}}),
        )
    )
    assert found == nested
    assert several == [found, found]
    assert found["answer"] == pair["context"][found["start"] : found["end"]]
    assert 0 < found["score"] <= 1
    assert " " not in short[0]["answer"]


def test_text_generation(make):
    model = load(make("LlamaForCausalLM"))
    asked = {"inputs": TEXT, "parameters": {"max_new_tokens": 4, "do_sample": False}}
    single, several = values(ask(model, json_request(asked), json_request(asked | {"inputs": [TEXT, "the"]})))
    assert single[0]["generated_text"].startswith(TEXT)
    assert len(several) == 2
    unknown = ask(model, json_request({"inputs": TEXT, "parameters": {"max_new_tokenz": 4}}))[0]
    assert unknown.code == 424
    assert "max_new_tokenz" in unknown.data.decode()


def test_answers_of_sequence_models(make):
    model = load(make("T5ForConditionalGeneration"))
    ((found,),) = values(ask(model, json_request({"inputs": TEXT, "parameters": {"max_new_tokens": 3}})))
    assert set(found) == {"generated_text"}


def test_images(tmp_path):
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16
        )
        config.id2label = {0: "cat", 1: "dog"}
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    write_model(tmp_path, {"preprocessor_config.json": json.dumps(processor)})
    (found,) = values(ask(load(tmp_path), request(png(np.zeros((9, 9, 3), np.uint8)), "image/png")))
    assert {one["label"] for one in found[0]} == {"cat", "dog"}


def test_other_forms_of_answers(make):
    model = load(make("BertModel"), "option.task=feature-extraction")
    message = request(TEXT, "text/plain", "tensor/npz")
    (answer,) = ask(model, message)
    assert answer.get("content-type") == "tensor/npz"
    assert answer.data.startswith(b"PK")
    (answer,) = ask(
        load(make("BertForSequenceClassification", id2label={0: "low", 1: "high"})), request(TEXT, "text/plain", "text/csv")
    )
    assert answer.data.decode().splitlines()[0] == "label,score"


def test_a_folder_below(make, tmp_path):
    folder = make("BertForSequenceClassification", id2label={0: "low", 1: "high"})
    write_model(tmp_path, {f"weights/{file.name}": file.read_bytes() for file in folder.iterdir()})
    model = load(tmp_path, "engine=Python\noption.model_id=weights\noption.dtype=fp16\noption.entryPoint=djl_python.huggingface")
    assert ask(model, json_request({"inputs": TEXT}))[0].code == 200


BUILT_ON = """
from djl_python.huggingface import HuggingFaceService

service = HuggingFaceService()

def handle(inputs):
    if not service.initialized:
        service.initialize(inputs.get_properties())
    if inputs.is_empty():
        return None
    return service.inference(inputs).add_property("built", "on")
"""


def test_handlers_that_build_on_it(make, tmp_path):
    folder = make("BertForSequenceClassification", id2label={0: "low", 1: "high"})
    write_model(tmp_path, {file.name: file.read_bytes() for file in folder.iterdir()} | {"model.py": BUILT_ON})
    model = load(tmp_path)
    (single,) = ask(model, json_request({"inputs": TEXT, "parameters": {"top_k": 1}}))
    assert single.get("built") == "on"
    assert len(json.loads(single.data)) == 1


@pytest.mark.parametrize(
    ("properties", "expected"),
    [("option.task=singing", "has no task 'singing'; it has "), ("option.task=image-classification", "image-classification: ")],
)
def test_what_cannot_be_loaded(make, properties, expected):
    with pytest.raises(InvalidModelError, match=expected):
        load(make("BertForSequenceClassification", id2label={0: "low", 1: "high"}), properties)


def test_broken_weights(make, tmp_path):
    folder = make("BertForSequenceClassification", id2label={0: "low", 1: "high"})
    write_model(tmp_path, {file.name: file.read_bytes() for file in folder.iterdir()} | {"model.safetensors": b"broken"})
    with pytest.raises(InvalidModelError, match="text-classification: ") as caught:
        load(tmp_path)
    assert str(tmp_path) not in caught.value.message
