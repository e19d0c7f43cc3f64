"""Models without code, as DJL has them, through a server: a folder with serving.properties and a TorchScript or ONNX file."""

import concurrent.futures
import io
from pathlib import Path

import numpy as np
import pytest
from support.archives import zipped
from support.djl import SYNSET, image_onnx, png, text_files, text_onnx, write_model, write_pretrained

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
DIGIT_CLASSES = "\n".join(f"digit {n}" for n in range(10))
DIGIT_PROPERTIES = """\
# Handwritten digits.
engine=PyTorch
application=cv/image_classification
flag=GRAYSCALE
resize=8,8,AREA
topK=2
"""
WHITE = png(np.full((2, 2, 3), 255, np.uint8))


def register(http, name, files, **parameters):
    return http.post("/models", params={"model_name": name, **parameters}, content=zipped(files))


def test_an_image_classifier_of_torchscript(http):
    files = {"digits.pt": (DIGITS / "cnn.pt").read_bytes(), "serving.properties": DIGIT_PROPERTIES, "synset.txt": DIGIT_CLASSES}
    answer = register(http, "djl_digits", {f"digits/{name}": content for name, content in files.items()}, batch_size=8)
    assert (answer.status_code, answer.json()) == (200, {"status": 'Model "djl_digits" registered.'})

    def ask(number):
        if number == 3:
            return http.post("/predictions/djl_digits", content=b"no image", headers={"content-type": "image/png"})
        return http.post("/predictions/djl_digits", content=(DIGITS / "images" / f"{number}.png").read_bytes())

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(10)))
    bad = answers[3]
    assert (bad.status_code, bad.json()["type"]) == (400, "TranslateException")
    assert bad.json()["message"].startswith("Input is not an Image data type: cannot identify the format")
    for number in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        assert answers[number].headers["content-type"] == "application/json"
        best, second = answers[number].json()
        assert best["className"] == f"digit {number}"
        assert best["probability"] > second["probability"]


def test_an_image_in_a_form_and_in_json(http):
    register(
        http,
        "djl_form",
        {"m.onnx": image_onnx(), "serving.properties": "task=image-classification", "synset.txt": "\n".join(SYNSET)},
    )
    answer = http.post("/predictions/djl_form", files={"data": ("white.png", WHITE, "image/png")})
    assert answer.json()[0] == {"className": "fish", "probability": 3}
    answer = http.post("/predictions/djl_form", json={"image_url": "http://127.0.0.1/white.png"})
    assert (answer.status_code, answer.json()["type"]) == (400, "TranslateException")


def test_a_text_classifier_of_onnx(http):
    files = {
        "model.onnx": text_onnx(),
        "serving.properties": "application=nlp/text_classification\nbatchifier=padding\nbatch_size=4",
    }
    assert register(http, "djl_texts", files | text_files(("low", "high"))).status_code == 200
    single = http.post("/predictions/djl_texts", content=b"the list", headers={"content-type": "text/plain"})
    assert [one["className"] for one in single.json()] == ["high", "low"]
    listed = http.post("/predictions/djl_texts", json={"inputs": ["the list", "the list of values"]})
    assert listed.json()[0] == single.json()
    assert len(listed.json()) == 2
    wrong = http.post("/predictions/djl_texts", json={"text": "the list"})
    assert (wrong.status_code, wrong.json()["message"]) == (400, 'Missing "inputs" in json.')


def test_tensors_where_nothing_is_said(http):
    assert register(http, "djl_tensors", {"model.onnx": image_onnx(), "serving.properties": "minWorkers=1"}).status_code == 200
    buffer = io.BytesIO()
    np.savez(buffer, np.ones((2, 3, 4, 4), np.float32))
    answer = http.post("/predictions/djl_tensors", content=buffer.getvalue(), headers={"content-type": "tensor/npz"})
    assert answer.headers["content-type"] == "tensor/npz"
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content))["scores"], [[1, 2, 3]] * 2)
    answer = http.post("/predictions/djl_tensors", content=buffer.getvalue(), headers={"accept": "application/json"})
    assert "content-type" not in answer.headers or answer.headers["content-type"].startswith("application/json")
    assert answer.json() == {"predictions": [[1, 2, 3]] * 2}
    for content, kind, message in (
        (b"garbage that is long", "", "Input is not a NDList data type"),
        (b'{"x": 1}', "application/json", "Input is not a supported json format"),
    ):
        wrong = http.post("/predictions/djl_tensors", content=content, headers={"content-type": kind} if kind else {})
        assert (wrong.status_code, wrong.json()["type"], wrong.json()["message"]) == (400, "TranslateException", message)


def test_arguments_of_the_url(http, server):
    files = {"digits.pt": (DIGITS / "cnn.pt").read_bytes(), "serving.properties": DIGIT_PROPERTIES, "synset.txt": DIGIT_CLASSES}
    url = write_model(server.model_store / "digits_url", files).as_uri()
    answer = http.post("/models", params={"url": f"{url}?topK=1&applySoftmax=true", "model_name": "djl_url"})
    assert answer.status_code == 200, answer.text
    (found,) = http.post("/predictions/djl_url", content=(DIGITS / "images" / "4.png").read_bytes()).json()
    # Softmax over probabilities leaves little of them.
    assert found == {"className": "digit 4", "probability": pytest.approx(0.232, abs=0.001)}
    answer = http.post("/models", params={"url": f"{url}?translator=com.example.Mine", "model_name": "djl_mine"})
    assert (answer.status_code, "argument translator: 'com.example.Mine'" in answer.json()["message"]) == (400, True)


def test_tensors_by_the_open_inference_protocol(http):
    register(http, "djl_v2", {"model.onnx": image_onnx(), "serving.properties": "engine=OnnxRuntime"})
    (taken,) = http.get("/v2/models/djl_v2").json()["inputs"]
    assert (taken["name"], taken["datatype"]) == ("x", "FP32")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3, 1, 2], "data": [2] * 6}
    (given,) = http.post("/v2/models/djl_v2/infer", json={"inputs": [tensor]}).json()["outputs"]
    assert (given["name"], given["shape"], given["data"]) == ("scores", [1, 3], [2, 4, 6])


def test_a_model_of_hugging_face(http, tmp_path):
    write_pretrained(tmp_path, "BertForSequenceClassification", {"id2label": {0: "low", 1: "high"}})
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    answer = register(http, "djl_pretrained", files | {"serving.properties": "engine=Python\noption.task=text-classification"})
    assert answer.json() == {"status": 'Model "djl_pretrained" registered.'}
    answer = http.post("/predictions/djl_pretrained", json={"inputs": ["the list", "a"], "parameters": {"top_k": 2}})
    assert answer.headers["content-type"] == "application/json"
    assert [sorted(one["label"] for one in each) for each in answer.json()] == [["high", "low"]] * 2
    answer = http.post("/predictions/djl_pretrained", content=b"the list", headers={"content-type": "text/plain"})
    assert [set(one) for one in answer.json()] == [{"label", "score"}]
    wrong = http.post("/predictions/djl_pretrained", json={"inputs": 5})
    assert (wrong.status_code, wrong.json()["message"]) == (424, "invoke handler failure")
    refused = register(http, "djl_hub", {"serving.properties": "option.model_id=bert-base-uncased"})
    assert refused.status_code == 400, refused.text
    assert "serving.properties:1: key option.model_id: 'bert-base-uncased' is no folder" in refused.json()["message"]
    outside = register(http, "djl_outside", {"serving.properties": "option.model_id=/usr"})
    assert (outside.status_code, "allowed_paths" in outside.json()["message"]) == (403, True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"serving.properties": "#\ntranslatorFactory=com.example.MyFactory"},
            "serving.properties:2: key translatorFactory: 'com.example.MyFactory' is not a supported class",
        ),
        ({"serving.properties": "application=image_classification"}, "needs the file synset.txt"),
        ({"serving.properties": "application=text_embedding"}, "needs the file tokenizer.json"),
        (
            {"serving.properties": "application=image_classification\ntopK=few", "synset.txt": "a"},
            "serving.properties:2: key topK: expected a number from 1 to 100000, got 'few'",
        ),
        (
            {"serving.properties": "application=nlp/poetry"},
            "serving.properties:1: key application: unknown application 'nlp/poetry'",
        ),
        ({"serving.properties": "minWorkers=1", "libs/translator.jar": "x"}, "libs/translator.jar: Java code is not run"),
        ({"serving.properties": "application=fill_mask", "tokenizer.json": "{}"}, "tokenizer.json: "),
    ],
)
def test_what_is_not_supported_is_refused_and_leaves_nothing(http, files, message):
    answer = register(http, "djl_refused", {"model.onnx": image_onnx()} | files)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["message"]
    assert http.get("/models/djl_refused").status_code == 404


def test_in_the_middle_of_a_workflow(http):
    workflow = """
    name: djl_flow
    models:
      digits: {url: digits, arguments: {topK: "1"}}
    functions: {best: "steps:best"}
    workflow:
      found: [digits, in]
      out: [best, found]
    """
    files = {
        "workflow.yaml": workflow,
        "steps.py": "def best(found):\n    return [len(found), found[0]['className']]\n",
        "digits/digits.pt": (DIGITS / "cnn.pt").read_bytes(),
        "digits/serving.properties": DIGIT_PROPERTIES,
        "digits/synset.txt": DIGIT_CLASSES,
    }
    answer = http.post("/workflows", content=zipped(files))
    assert answer.status_code == 200, answer.text
    image = (DIGITS / "images" / "7.png").read_bytes()
    found = http.post("/predictions/djl_flow", content=image, headers={"content-type": "image/png"})
    # The argument of the workflow file wins over that of the model's own.
    assert found.json() == [1, "digit 7"]
