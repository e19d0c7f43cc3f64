"""Models that predictions bring along, from URLs that the settings allow."""

from __future__ import annotations

import pytest
from support.archives import zipped
from support.server import running

DOUBLE = "def predict(value):\n    return value * 2\n"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    """A server that loads what matches, and is in its model store."""
    folder = tmp_path_factory.mktemp("demand")
    with running(folder, env={"FLOWYARD_MODEL_URL_PATTERN": r"(/outside/)?[a-z]+\.zip"}) as server:
        for name in ("one", "two", "three", "four", "Five"):
            (server.model_store / f"{name}.zip").write_bytes(zipped({"model.py": DOUBLE}))
        yield server.client


def test_the_url_comes_in_a_header(open_server):
    answer = open_server.post("/predictions/first", json=4, headers={"model_url": "one.zip", "device": "cpu"})
    assert (answer.status_code, answer.json()) == (200, 8)
    # From then on it is registered.
    assert open_server.post("/predictions/first", json=5).json() == 10
    assert open_server.get("/models/first").json()[0]["url"] == "one.zip"


def test_the_url_comes_in_the_query_or_a_form(open_server):
    assert open_server.post("/predictions/second?model_url=two.zip", json=4).json() == 8
    form = {"model_name": "third", "model_url": "three.zip"}
    answer = open_server.post("/invocations", data=form)
    # The model takes no mappings; that it says so shows that it runs.
    assert answer.status_code == 424
    assert open_server.post("/predictions/third", json=1).json() == 2


WRONG = [
    ({}, 404, "Parameter model_url is required."),
    ({"model_url": "Five.zip"}, 404, "Permission denied: Five.zip"),
    ({"model_url": "four.zip/../Five.zip"}, 404, "Permission denied: four.zip/../Five.zip"),
    ({"model_url": "/outside/four.zip"}, 403, ""),
    ({"model_url": "nothing.zip"}, 404, ""),
    ({"model_url": "four.zip", "engine_name": "None"}, 400, ""),
    ({"model_url": "four.zip", "device": "gpu77"}, 400, ""),
]


@pytest.mark.parametrize(("headers", "status", "message"), WRONG)
def test_what_is_not_allowed_is_not_loaded(open_server, headers, status, message):
    answer = open_server.post("/predictions/wrong", json=1, headers=headers)
    assert answer.status_code == status
    assert answer.json()["message"].startswith(message)
    assert open_server.get("/models/wrong").status_code == 404


def test_a_question_loads_nothing(open_server):
    assert open_server.options("/predictions/asked", headers={"model_url": "four.zip"}).status_code == 404
    assert open_server.get("/models/asked").status_code == 404


def test_without_the_setting_nothing_is_loaded(http):
    answer = http.post("/predictions/none", json=1, headers={"model_url": "one.zip"})
    assert (answer.status_code, answer.json()["message"]) == (404, "Model or workflow not found: none")
