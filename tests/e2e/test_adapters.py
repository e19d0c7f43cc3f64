"""Adapters of a model, with a handler that remembers them: registered, changed, used and removed, in every worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from support.archives import linear_onnx, zipped
from support.server import running, wait_until

from flowyard.platform.client import AdapterSpec, Client, InvalidRequestError

ADAPTECHO = Path(__file__).parents[1] / "contract/recorded/djl/fixtures/models/adaptecho"
A1 = {"name": "a1", "src": "src1", "echooption": "opt"}


def files():
    return {str(path.relative_to(ADAPTECHO)): path.read_text() for path in ADAPTECHO.rglob("*") if path.is_file()}


def register(http, name, **parameters):
    archive = zipped(files())
    answer = http.post("/models", params={"model_name": name, **parameters}, content=archive)
    assert answer.status_code == 200, answer.text


def predict(http, name, adapter, body="x"):
    return http.post(f"/predictions/{name}", params={"adapter": adapter}, content=body)


def names(http, model):
    return [adapter["name"] for adapter in http.get(f"/models/{model}/adapters").json()["adapters"]]


def error(answer):
    return answer.status_code, answer.json()["type"], answer.json()["message"]


@pytest.fixture(scope="module")
def model(http):
    """A model with two workers."""
    register(http, "adaptecho", min_worker=2, max_worker=2)
    return "adaptecho"


def test_an_adapter_is_registered_changed_and_removed(http, model):
    base = f"/models/{model}/adapters"
    answer = http.post(base, params=A1)
    assert (answer.status_code, answer.json()) == (200, {"status": "Adapter a1 registered"})
    assert http.get(f"{base}/a1").json() == {"name": "a1", "src": "src1", "preload": True, "pin": False}
    assert predict(http, model, "a1").text == "a1optx"
    assert http.post("/invocations", params={"model_name": model, "adapter": "a1"}, content="y").text == "a1opty"
    answer = http.post(f"{base}/a1/update", params={"pin": "true", "preload": "FALSE", "src": "src2"})
    assert answer.json() == {"status": "Adapter a1 updated"}
    assert http.get(f"{base}/a1").json() == {"name": "a1", "src": "src2", "preload": False, "pin": True}
    # What was not said stays as it was.
    assert predict(http, model, "a1").text == "a1optx"
    assert http.delete(f"{base}/a1").json() == {"status": "Adapter a1 unregistered"}
    assert "a1" not in names(http, model)
    assert predict(http, model, "a1").status_code == 424


def test_every_worker_knows_it_also_those_that_come_later(http, model):
    http.post(f"/models/{model}/adapters", params={**A1, "name": "all"})
    assert http.put(f"/models/{model}", params={"min_worker": 4, "max_worker": 4}).status_code == 200
    assert {predict(http, model, "all", str(turn)).text for turn in range(40)} == {f"allopt{turn}" for turn in range(40)}
    http.post(f"/models/{model}/adapters/all/update", params={"echooption": "new"})
    assert {predict(http, model, "all").text for _ in range(40)} == {"allnewx"}
    http.delete(f"/models/{model}/adapters/all")


def test_a_folder_of_the_model_holds_adapters_that_it_begins_with(http, model):
    assert names(http, model) == ["myBuiltinAdapter"]
    assert predict(http, model, "myBuiltinAdapter").text == "myBuiltinAdapterx"
    shown = http.get(f"/models/{model}/adapters/myBuiltinAdapter").json()
    assert shown == {"name": "myBuiltinAdapter", "src": "adapters/myBuiltinAdapter", "preload": True, "pin": False}


def test_a_request_for_one_that_is_not_there_fails_by_its_name(http, model):
    assert error(predict(http, model, "zz")) == (424, "TranslateException", "The adapter zz has not been registered")


def test_lists_come_in_pages(http, model):
    for number in range(3):
        http.post(f"/models/{model}/adapters", params={**A1, "name": f"p{number}"})
    first = http.get(f"/models/{model}/adapters", params={"limit": 2}).json()
    assert [adapter["name"] for adapter in first["adapters"]] == ["myBuiltinAdapter", "p0"]
    second = http.get(f"/models/{model}/adapters", params={"limit": 2, "next_page_token": first["nextPageToken"]}).json()
    assert [adapter["name"] for adapter in second["adapters"]] == ["p1", "p2"]
    assert "nextPageToken" not in second
    for number in range(3):
        http.delete(f"/models/{model}/adapters/p{number}")


def test_an_alias_takes_the_place_of_the_name_in_messages(http, model):
    alias = {"X-Amzn-SageMaker-Adapter-Alias": "friendly"}
    answer = http.get(f"/models/{model}/adapters/zz", headers=alias)
    assert error(answer) == (404, "BadRequestException", "The adapter friendly was not found")
    http.post(f"/models/{model}/adapters", params={**A1, "name": "aliased"}, headers=alias)
    answer = http.post(f"/models/{model}/adapters", params={**A1, "name": "aliased"}, headers=alias)
    assert answer.json()["message"].startswith("The adapter friendly already exists.")
    http.delete(f"/models/{model}/adapters/aliased")


WRONG = [
    ("POST", "", {"src": "s"}, 400, "BadRequestException", "The parameter name is required"),
    ("POST", "", {"name": "a"}, 400, "BadRequestException", "The parameter src is required"),
    ("POST", "", {"name": "a", "src": ""}, 400, "BadRequestException", "The parameter src is required"),
    ("POST", "", {"name": "a", "src": "s3://b/a"}, 409, "IllegalArgumentException", "URL adapters are not currently supported"),
    ("POST", "", {"name": "a", "src": "s", "error": "true"}, 424, "BadRequestException", "invoke handler failure"),
    ("POST", "", {"name": "a", "src": "s", "oom": "true"}, 507, "BadRequestException", ""),
    ("POST", "/zz/update", {"src": "s"}, 404, "BadRequestException", "The adapter zz was not found"),
    ("POST", "/myBuiltinAdapter/update", {"error": "1"}, 424, "BadRequestException", "invoke handler failure"),
    ("POST", "/myBuiltinAdapter/update", {"oom": "1"}, 507, "BadRequestException", ""),
    ("POST", "/myBuiltinAdapter/update", {"src": "http://x/a"}, 409, "IllegalArgumentException", "URL adapters are not curr"),
    ("GET", "/zz", {}, 404, "BadRequestException", "The adapter zz was not found"),
    ("DELETE", "/zz", {}, 404, "BadRequestException", "The adapter zz was not found"),
    ("GET", "", {"limit": "x"}, 400, "BadRequestException", "Parameter limit"),
    ("GET", "", {"what": "x"}, 400, "BadRequestException", "Unknown parameter: what"),
    ("PUT", "", {}, 405, "MethodNotAllowedException", "Requested method is not allowed"),
    ("PUT", "/zz", {}, 405, "MethodNotAllowedException", "Requested method is not allowed"),
    ("POST", "", {"name": "a/b", "src": "s"}, 400, "BadRequestException", "Parameter name"),
    ("POST", "", {"name": "a", "src": "s", "pin": "maybe"}, 400, "BadRequestException", "Parameter pin: 'maybe' is not allowed"),
    ("POST", "/myBuiltinAdapter/update", {"preload": "1"}, 400, "BadRequestException", "Parameter preload: '1' is not allowed"),
    ("POST", "", {"name": "a" * 201, "src": "s"}, 400, "BadRequestException", "Parameter name"),
]


@pytest.mark.parametrize(("method", "path", "params", "status", "kind", "message"), WRONG)
def test_what_is_wrong_is_told_and_changes_nothing(http, model, method, path, params, status, kind, message):
    before = http.get(f"/models/{model}/adapters").json()
    answer = http.request(method, f"/models/{model}/adapters{path}", params=params)
    assert error(answer)[:2] == (status, kind)
    assert answer.json()["message"].startswith(message)
    assert http.get(f"/models/{model}/adapters").json() == before


SET = "/models/adaptecho/default/adapters"
LISTED = {"name": "a", "src": "s"}
WRONG_SETS = [
    (SET, b"", 400, "The body is not the JSON document that is expected here"),
    (SET, b"[]", 400, "Expected `object`, got `array`"),
    (SET, b"{}", 400, "missing required field `adapters`"),
    (
        SET,
        {"adapters": [{"name": "a"}]},
        400,
        "missing required field `src` - at `$.adapters[0]`",
    ),
    (SET, {"adapters": [{**LISTED, "rank": 8}]}, 400, "unknown field `rank`"),
    (SET, {"adapters": [{**LISTED, "options": {"a": [1]}}]}, 400, "$.adapters[0].options[...]"),
    (SET, {"adapters": [LISTED, LISTED]}, 400, "The adapter a is listed twice."),
    (SET, {"adapters": [{"name": "a/b", "src": "s"}]}, 400, "Parameter name: 'a/b'"),
    (SET, {"adapters": [{"name": "a", "src": "s3://b/a"}]}, 409, "URL adapters are not"),
    (SET, {"adapters": [{**LISTED, "options": {"pin": 3}}]}, 400, "Parameter pin: '3'"),
    (SET, {"adapters": [], "model": "zz"}, 404, "The model zz was not found in adaptecho"),
    (f"{SET}?x=1", {"adapters": []}, 400, "Unknown parameter: x."),
    ("/models/adaptecho/v9/adapters", {"adapters": []}, 404, "Model or workflow not found: adaptecho"),
    ("/models/nowhere/default/adapters", {"adapters": []}, 404, "Model or workflow not found: nowhere"),
    (
        SET,
        {"adapters": [{**LISTED, "options": {"error": True}}]},
        424,
        'adapter "a": invoke handl',
    ),
    (SET, {"adapters": [{**LISTED, "options": {"oom": True}}]}, 507, ""),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), WRONG_SETS)
def test_a_set_that_is_wrong_is_told_and_changes_nothing(http, model, path, body, status, message):
    before = http.get(f"/models/{model}/adapters").json()
    answer = http.put(path, content=body if isinstance(body, bytes) else json.dumps(body))
    assert (answer.status_code, message in answer.json()["message"]) == (status, True), answer.text
    assert http.get(f"/models/{model}/adapters").json() == before


def test_the_client_sets_all_of_a_version_at_once(http, server):
    register(http, "together", model_version="v1")
    with Client(server.urls[0]) as client:
        wanted = [AdapterSpec(name=name, src="s", options={"echooption": name.upper()}) for name in ("b", "c")]
        assert "together" in client.set_adapters("together", "v1", wanted).status
        assert [adapter.name for adapter in client.list_adapters("together")] == ["b", "c"]
        assert predict(http, "together", "c").text == "cCx"
        with pytest.raises(InvalidRequestError, match="listed twice"):
            client.set_adapters("together", "v1", [*wanted, wanted[0]])
        client.set_adapters("together", "v1", [])
        assert list(client.list_adapters("together")) == []


def test_one_that_is_there_is_refused_before_the_handler_hears_of_it(http, model):
    http.post(f"/models/{model}/adapters", params={**A1, "name": "twice"})
    answer = http.post(f"/models/{model}/adapters", params={**A1, "name": "twice", "echooption": "other"})
    assert error(answer)[:2] == (409, "IllegalArgumentException")
    assert answer.json()["message"] == (
        "The adapter twice already exists. If you want to replace it, please unregistering before registering a new adapter"
        " with the same name."
    )
    assert predict(http, model, "twice").text == "twiceoptx"
    http.delete(f"/models/{model}/adapters/twice")


def test_models_without_lora_and_models_that_are_not_there(http, model):
    http.post("/models", params={"model_name": "plain"}, content=linear_onnx([[2.0]]))
    assert error(http.get("/models/plain/adapters")) == (400, "BadRequestException", "LoRA is not enabled.")
    assert error(http.get("/models/nope/adapters")) == (404, "BadRequestException", "The model nope was not found")
    answer = http.get("/adapters")
    assert error(answer)[:2] == (400, "BadRequestException")
    assert answer.json()["message"].startswith("The adapter must be prefixed with a model unless")


def pids(http, model):
    (info,) = http.get(f"/models/{model}").json()
    workers = [worker for group in info["models"][0]["workerGroups"] for worker in group["workers"]]
    return {worker["pid"] for worker in workers if worker["state"] != "starting"}


def test_a_worker_that_dies_is_replaced_by_one_that_knows_all(http, model):
    http.post(f"/models/{model}/adapters", params={**A1, "name": "lasting"})
    before = wait_until(lambda: pids(http, model))
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(pids(http, model) - {killed}) == len(before))
    assert {predict(http, model, "lasting").text for _ in range(30)} == {"lastingoptx"}
    http.delete(f"/models/{model}/adapters/lasting")


def test_they_survive_the_death_of_the_server_and_without_a_prefix_the_startup_model_is_meant(tmp_path):
    shutil.copytree(ADAPTECHO, tmp_path / "adaptecho")
    with running(tmp_path, "--load", f"adaptecho={tmp_path}/adaptecho") as server:
        assert server.client.post("/adapters", params=A1).json() == {"status": "Adapter a1 registered"}
        assert server.client.post("/adapters/a1/update", params={"echooption": "two"}).status_code == 200
        assert server.client.delete("/adapters/myBuiltinAdapter").status_code == 200
        server.kill()
        server.start()
        listed = server.client.get("/adapters").json()["adapters"]
        assert listed == [{"name": "a1", "src": "src1", "preload": True, "pin": False}]
        assert predict(server.client, "adaptecho", "a1").text == "a1twox"
        assert predict(server.client, "adaptecho", "myBuiltinAdapter").status_code == 424


def workflow(**changes):
    described = {
        "name": "adapted",
        "models": {"m": "{model_dir}/adaptecho"},
        "configs": {"adapters": {"w1": {"model": "m", "src": "url1", "options": {"echooption": "weo"}}}},
        "workflow": {"out": ["adapter", "w1", "in"]},
    } | changes
    return zipped(
        {"workflow.json": json.dumps(described), "plain.py": "def f(value):\n    return value\n"}
        | {f"adaptecho/{name}": text for name, text in files().items()}
    )


def test_a_workflow_brings_adapters_along(http):
    answer = http.post("/workflows", content=workflow())
    assert answer.status_code == 200, answer.text
    assert http.post("/predictions/adapted", content="x").text == "w1weox"
    # The workflow decides which adapter it is, not the client.
    assert http.post("/predictions/adapted", params={"adapter": "zz"}, content="x").text == "w1weox"
    assert http.post("/predictions/adapted", content=b'{"a": 1}', headers={"content-type": "application/json"}).text == (
        'w1weo{"a": 1}'
    )
    # It is a model like any other, under its name in the file.
    assert names(http, "m") == ["myBuiltinAdapter", "w1"]


def test_the_template_of_a_model_with_one_adapter(http, server):
    shutil.copytree(ADAPTECHO, server.model_store / "adaptecho")
    parameters = {"template": "adapter", "adapter": "a", "url": "dummy", "model": str(server.model_store / "adaptecho")}
    answer = http.post("/workflows", params=parameters)
    assert (answer.status_code, answer.json()) == (200, {"status": 'Workflow "a" registered.'})
    assert http.post("/predictions/a", content="x").text == "ax"
    assert names(http, "adapted") == ["myBuiltinAdapter", "a"]


def test_adapters_of_a_workflow_that_cannot_be_are_refused(http):
    cannot = {"adapters": {"w1": {"model": "m", "src": "s3://b/a"}}}
    answer = http.post("/workflows", content=workflow(name="bad1", configs=cannot))
    assert answer.status_code == 400
    assert 'adapter "w1": URL adapters are not currently supported' in answer.json()["message"]
    answer = http.post("/workflows", content=workflow(name="bad3", models={"m": "plain:f"}))
    assert (answer.status_code, answer.json()["type"]) == (400, "MalformedModelException"), answer.text
    assert answer.json()["message"] == 'adapter "w1": Adapters are only currently supported for Python models'
    failing = {"adapters": {"w1": {"model": "m", "src": "s", "options": {"error": "1"}}}}
    answer = http.post("/workflows", content=workflow(name="bad2", configs=failing))
    assert answer.status_code == 400
    assert 'adapter "w1"' in answer.json()["message"]
    assert http.get("/workflows/bad2").status_code == 404


def test_a_model_may_find_adapters_by_itself(http):
    dynamic = {"m": {"modelUrl": "{model_dir}/adaptecho", "dynamicAdapters": True}}
    out = {"out": ["m", "in"]}
    assert http.post("/workflows", content=workflow(name="dynamic", models=dynamic, workflow=out)).status_code == 200
    answer = predict(http, "dynamic", "unheard-of")
    assert answer.status_code == 424
    assert answer.json()["error"] == "'unheard-of'"


BLIND = """
from djl_python import Output
def handle(inputs):
    return None if inputs.is_empty() else Output().add("x")
"""


def test_a_handler_that_knows_no_adapters(http):
    archive = zipped({"model.py": BLIND, "serving.properties": "engine=Python\noption.enable_lora=true\n"})
    assert http.post("/models", params={"model_name": "blind"}, content=archive).status_code == 200
    answer = http.post("/models/blind/adapters", params=A1)
    assert error(answer) == (400, "TranslateException", "the model has no function 'register_adapter'")
    assert http.get("/models/blind/adapters").json() == {"adapters": []}


def test_a_handler_that_is_asynchronous(http):
    awaited = files()["model.py"].replace("def handle(request: Input) -> Output | None:", "async def handle(request):")
    properties = files()["serving.properties"] + "\noption.async_mode=true\n"
    archive = zipped({"model.py": awaited, "serving.properties": properties})
    answer = http.post("/models", params={"model_name": "awaited"}, content=archive)
    assert answer.status_code == 200, answer.text
    assert http.post("/models/awaited/adapters", params=A1).json() == {"status": "Adapter a1 registered"}
    assert predict(http, "awaited", "a1").text == "a1optx"
    assert http.post("/models/awaited/adapters", params={**A1, "name": "b", "error": "1"}).status_code == 424
