"""The ready-made handlers of scikit-learn and XGBoost models, with and without functions of the model's own; sessions."""

from __future__ import annotations

import json
import pickle
import sys
import time

import numpy as np
import pytest
import skops.io
import xgboost
from sklearn.linear_model import LinearRegression

from flowyard.engines.base import Call, ModelSource
from flowyard.engines.djl import loader
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.messages import Message
from flowyard.schemas.models import ModelSpec

ROWS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
TARGETS = ROWS @ [1.0, 10.0]


@pytest.fixture
def load(tmp_path):
    path, modules = list(sys.path), set(sys.modules)

    def load_model(entry="djl_python.sklearn_handler", trusted=False, **properties):
        source = ModelSource(root=str(tmp_path), path=entry, spec=ModelSpec(trusted=trusted), properties=properties)
        return loader.load(source, CPU)

    yield load_model
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        # Those that hold a model.
        if module.startswith("model") or module.endswith(("sklearn_handler", "xgboost_handler")):
            del sys.modules[module]


@pytest.fixture
def estimator():
    return LinearRegression().fit(ROWS, TARGETS)


def ask(model, body, **headers):
    properties = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    (answer,) = model.predict([Call("", [Message(properties=properties, contents=(("data", body),))])])
    return answer


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b'{"inputs": [[1, 1]]}', "application/json"), (b'{"instances": [[1, 1]]}', "application/json"), (b"1,1\n", "text/csv")],
)
def test_an_estimator_from_skops(load, tmp_path, estimator, body, content_type):
    skops.io.dump(estimator, tmp_path / "model.skops")
    answer = ask(load(), body, content_type=content_type)
    assert json.loads(answer.data)["predictions"] == pytest.approx([11.0])
    table = ask(load(), body, content_type=content_type, accept="text/csv")
    assert (table.get("content-type"), float(table.data)) == ("text/csv", pytest.approx(11.0))


def test_a_booster_from_json(load, tmp_path):
    booster = xgboost.train({"base_score": 0.5}, xgboost.DMatrix(ROWS, label=TARGETS), num_boost_round=2)
    booster.save_model(tmp_path / "model.json")
    answer = ask(load("djl_python.xgboost_handler"), b'{"inputs": [[1, 1], [0, 0]]}', content_type="application/json")
    expected = booster.predict(xgboost.DMatrix([[1, 1], [0, 0]])).tolist()
    assert json.loads(answer.data)["predictions"] == pytest.approx(expected)


@pytest.mark.parametrize("what", ["nothing", "option", "trusted"])
def test_pickles_need_trust_from_both_sides(load, tmp_path, estimator, what):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(estimator))
    options = {"trust_insecure_model_files": "true"} if what == "option" else {}
    with pytest.raises(InvalidModelError, match="pickle files can run code"):
        load(model_format="pickle", trusted=what == "trusted", **options)


@pytest.mark.parametrize("model_format", ["pickle", "cloudpickle", "joblib"])
def test_pickles_with_trust(load, tmp_path, estimator, model_format):
    name = "model.joblib" if model_format == "joblib" else "model.pkl"
    (tmp_path / name).write_bytes(pickle.dumps(estimator))
    model = load(model_format=model_format, trust_insecure_model_files="true", trusted=True)
    assert json.loads(ask(model, b"[[1, 0]]").data)["predictions"] == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"model_format": "onnx"}, "'onnx' is not one of skops, joblib, pickle, cloudpickle"),
        ({}, "one file of format skops (option.model_format) is expected, found none"),
    ],
)
def test_models_that_cannot_be_loaded(load, properties, words):
    with pytest.raises(InvalidModelError) as caught:
        load(**properties)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"[[1, 1]]", {"accept": "image/png"}, "Accept: 'image/png' is not supported"),
        (b'[["a"]]', {}, "rows of numbers are expected"),
        (b"[[[1]]]", {}, "rows of numbers are expected"),
        (b"a,b\n", {"content_type": "text/csv"}, "no number"),
        (b"{", {}, "Expecting"),
    ],
)
def test_requests_that_are_no_rows(load, tmp_path, estimator, body, headers, words):
    skops.io.dump(estimator, tmp_path / "model.skops")
    answer = ask(load(), body, **headers)
    assert answer.code == 424
    assert words in json.loads(answer.data)["error"]


DECORATED = """
from djl_python.input_parser import init_handler, input_formatter, prediction_handler
from djl_python.output_formatter import output_formatter

@init_handler
def load(model_dir):
    return 3

@input_formatter
def read(inputs, content_type=None):
    return int(inputs.get_as_string())

@prediction_handler
def predict(number, model):
    return number * model

@output_formatter
def write(number):
    return f"<{number}>"
"""
SAGEMAKER = """
def model_fn(model_dir):
    return 3

def input_fn(data, content_type):
    return int(data), content_type

def predict_fn(data, model):
    return data[0] * model, data[1]

def output_fn(prediction, accept):
    return f"<{prediction[0]}> {prediction[1]} {accept}"
"""


def test_functions_that_decorators_mark(load, tmp_path):
    (tmp_path / "model.py").write_text(DECORATED)
    assert ask(load(), b"14").data == b"<42>"


def test_a_file_without_a_handler_adds_to_the_ready_made_one(load, tmp_path, estimator):
    (tmp_path / "model.py").write_text(DECORATED)
    skops.io.dump(estimator, tmp_path / "model.skops")
    assert ask(load(str(tmp_path / "model.py")), b"14").data == b"<42>"


def test_sagemakers_functions(load, tmp_path):
    (tmp_path / "model.py").write_text(SAGEMAKER)
    answer = ask(load(), b"14", content_type="text/plain", accept="text/x")
    assert (answer.data, answer.get("content-type")) == (b"<42> text/plain text/x", "text/x")


@pytest.mark.parametrize("code", [DECORATED.replace("number * model", "1 / 0"), SAGEMAKER.replace("data[0] * model", "1 / 0")])
def test_functions_that_fail(load, tmp_path, code):
    (tmp_path / "model.py").write_text(code)
    assert "division by zero" in json.loads(ask(load(), b"14").data)["error"]


SESSIONS = """
from djl_python import Output, SessionManager

manager = None

def handle(inputs):
    global manager
    if inputs.is_empty():
        manager = SessionManager(inputs.get_properties())
        return None
    action, session_id = inputs.get_as_string(), inputs.get_property("x-session")
    if action == "create":
        session = manager.create_session()
        session.get_as_numpy("state", (2, 2), create=True).fill(1)
        session.put("a/b", {"n": 1})
        return Output().add(session.session_id)
    if action == "close":
        manager.close_session(session_id)
        return Output().add("closed")
    session = manager.get_session(session_id)
    if session is None:
        return Output().add("none")
    state = session.get_as_numpy("state", (2, 2))
    state += 1
    return Output().add_as_json([float(state.sum()), session.get("a/b"), session.get("other", 7)])
"""


@pytest.fixture
def sessions(load, tmp_path):
    def load_model(**properties):
        (tmp_path / "model.py").write_text(SESSIONS)
        return load(str(tmp_path / "model.py"), sessions_path=str(tmp_path / "sessions"), **properties)

    return load_model


def test_a_session_lasts_from_request_to_request_and_from_worker_to_worker(sessions):
    first, second = sessions(), sessions()
    session = ask(first, b"create").data.decode()
    assert json.loads(ask(first, b"use", x_session=session).data) == [8.0, {"n": 1}, 7]
    assert json.loads(ask(second, b"use", x_session=session).data) == [12.0, {"n": 1}, 7]
    assert ask(second, b"close", x_session=session).data == b"closed"
    assert "session not found" in ask(first, b"use", x_session=session).data.decode()


@pytest.mark.parametrize("session", ["../..", "x", "00000000-0000-0000-0000-000000000000"])
def test_sessions_that_there_are_not(sessions, session):
    assert "session not found" in ask(sessions(), b"use", x_session=session).data.decode()
    assert ask(sessions(), b"use", x_session="NEW_SESSION").data == b"none"


def test_sessions_end(sessions, monkeypatch):
    model = sessions(sessions_expiration="5")
    session = ask(model, b"create").data.decode()
    later = time.time() + 6
    monkeypatch.setattr(time, "time", lambda: later)
    assert ask(model, b"use", x_session=session).data == b"none"
    ask(model, b"create")
    assert "session not found" in ask(model, b"use", x_session=session).data.decode()
