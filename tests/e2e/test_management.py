"""The management API: parameters in every form, what a workflow may come from, descriptions and lists."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from support.archives import linear_onnx, zipped
from support.server import running, wait_until

ONNX = linear_onnx([[2.0]])
ECHO = "def predict(value):\n    return value\n"
GATED = "import pathlib\nimport time\n\nwhile not pathlib.Path({gate!r}).exists():\n    time.sleep(0.01)\n\n" + ECHO
BROKEN = "import nothing_of_that_name\n\n" + ECHO
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module", autouse=True)
def store(server):
    """A model, a folder with a workflow and a workflow file of another name in the model store."""
    (server.model_store / "m.onnx").write_bytes(ONNX)
    folder = server.model_store / "chain"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(ONNX)
    text = 'name: called_so\nmodels: {m: m.onnx, up: "{model_dir}/../m.onnx"}\nworkflow: {a: [m, in], out: [up, a]}\n'
    (folder / "workflow.yaml").write_text(text)
    document = {"name": "other", "models": {"m": "{model_dir}/m.onnx"}, "workflow": {"out": ["m", "in"]}}
    (server.model_store / "other.json").write_text(json.dumps(document))
    return server.model_store


def describe(client, path):
    (entry,) = client.get(path).json()
    return entry


# ---- parameters ----


def test_json_counts_alone_and_names_far_from_any_known_one_are_ignored(http):
    body = {"url": "m.onnx", "model_name": "from_json", "model_version": "v1", "batch_size": 4, "job_queue_size": 7, "bogus": 1}
    answer = http.post("/models?model_name=from_query&batch_size=x", json=body)
    assert (answer.status_code, answer.json()) == (200, {"status": 'Model "from_json" registered.'})
    (model,) = describe(http, "/models/from_json/v1")["models"]
    assert (model["batchSize"], model["queueSize"]) == (4, 7)


def test_a_form_and_the_query_add_up_and_the_query_wins(http):
    answer = http.post("/models?model_name=from_form", data={"url": "m.onnx", "model_name": "no", "batch_size": "3"})
    assert answer.json() == {"status": 'Model "from_form" registered.'}
    assert describe(http, "/models/from_form")["models"][0]["batchSize"] == 3


def test_a_multipart_form_without_a_file_may_name_the_url(http):
    fields = [("url", (None, "m.onnx")), ("model_name", (None, "from_multipart"))]
    assert http.post("/models", files=fields).json() == {"status": 'Model "from_multipart" registered.'}


def test_what_curl_calls_a_form_is_still_an_archive(http):
    for name, body in (("posted_onnx", ONNX), ("posted_zip", zipped({"model.py": ECHO}))):
        answer = http.post("/models", params={"model_name": name}, content=body, headers=FORM)
        assert answer.json() == {"status": f'Model "{name}" registered.'}


def test_an_empty_body_of_json_leaves_the_query(http):
    answer = http.post("/models?url=m.onnx&model_name=empty_json", headers={"content-type": "application/json"})
    assert answer.json() == {"status": 'Model "empty_json" registered.'}


def test_the_first_of_a_repeated_parameter_counts_and_an_empty_one_is_absent(http):
    answer = http.post("/models?url=m.onnx&model_name=first&model_name=second&batch_size=&engine=")
    assert answer.json() == {"status": 'Model "first" registered.'}


def test_scaling_takes_its_parameters_from_anywhere(http):
    http.post("/models", params={"url": "m.onnx", "model_name": "scaled"})
    text = 'Workflow "scaled" worker scaled. New Worker configuration min workers:1 max workers:2'
    numbers = {"min_worker": 1, "max_worker": 2}
    texts = {key: str(value) for key, value in numbers.items()}
    multipart = {"files": [(key, (None, value)) for key, value in texts.items()]}
    for given in ({"params": numbers}, {"json": numbers}, {"data": texts}, multipart):
        answer = http.put("/models/scaled", **given)
        assert (answer.status_code, answer.json()) == (200, {"status": text})


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "message"),
    [
        ("POST", "/models", {}, b"", 400, "Parameter url is required."),
        ("POST", "/models?model_name=x", {}, b"", 400, "Parameter url is required."),
        ("POST", "/models", JSON, b"", 400, "Parameter url is required."),
        ("POST", "/models", JSON, b'{"model_name": "x"}', 400, "Parameter url is required."),
        ("POST", "/models", JSON, b"{bad", 400, "The body is not a JSON object of parameters"),
        ("POST", "/models", JSON, b"[1]", 400, "The body is not a JSON object of parameters"),
        ("POST", "/models", JSON, b'{"url": "\xff"}', 400, "The body is not a JSON object of parameters"),
        ("POST", "/models", JSON, b'{"url": ' + b"[" * 10_000, 400, "The body is not a JSON object of parameters"),
        (
            "POST",
            "/models",
            JSON,
            b'{"url": "m.onnx", "batchSize": 2}',
            400,
            "Unknown parameter: batchSize. Did you mean batch_size?",
        ),
        ("POST", "/models", JSON, b'{"url": "m.onnx", "batch_size": "2"}', 400, "Parameter batch_size: '2' is not allowed"),
        ("POST", "/models", JSON, b'{"url": 5}', 400, "Parameter url: '5' is not allowed; allowed is text."),
        ("POST", "/models", FORM, b"url=m.onnx&batch_size=0", 400, "a whole number from 1 to 65536"),
        ("POST", "/models?url=nothing.onnx", {}, b"", 404, "Invalid model url: nothing.onnx"),
        ("POST", "/models?url=m.onnx&model_name=-x", {}, b"", 400, "Invalid name: '-x'"),
        ("POST", "/models?url=m.onnx&model_version=_", {}, b"", 400, "Invalid version: '_'"),
        ("POST", "/models?url=m.onnx&template=x", {}, b"", 400, "Unknown parameter: template"),
        ("POST", "/models?url=m.onnx&job_queue_size=1000001", {}, b"", 400, "a whole number from 1 to 1000000"),
        ("POST", "/models?url=m.onnx&max_batch_delay=3600001", {}, b"", 400, "a whole number from 0 to 3600000"),
        ("POST", "/models?url=m.onnx&max_idle_time=3601", {}, b"", 400, "a whole number from 0 to 3600"),
        ("POST", "/models?url=m.onnx&batching=later", {}, b"", 400, "eager or fill"),
        ("POST", "/workflows", {}, b"", 400, "Either parameter url or template is required."),
        ("POST", "/workflows", JSON, b"{}", 400, "Either parameter url or template is required."),
        ("POST", "/workflows?url=m.onnx", {}, b"", 400, "no workflow in m.onnx"),
        ("POST", "/workflows?url=chain&model_name=x", {}, b"", 400, "Unknown parameter: model_name"),
        ("POST", "/workflows?template=nope", {}, b"", 400, "there is no template 'nope'; known are adapter."),
        ("POST", "/workflows?template=adapter&adapter=a", {}, b"", 400, "Parameter model is required"),
        ("POST", "/workflows?template=adapter&adapter=a&model=m&url=u&x=1", {}, b"", 400, "the template has no {x}"),
        ("POST", "/workflows?template=adapter&adapter=%22&model=m&url=u", {}, b"", 400, "may not have quotes"),
        ("POST", "/workflows", JSON, b'{"template": "adapter", "adapter": 5}', 400, "Parameter adapter: '5' is not allowed"),
        ("POST", "/workflows", JSON, b'{"workflow": {"out": ["id", "in"]}}', 400, "name"),
        ("PUT", "/models/nobody", {}, b"no form", 400, "The body is no form of parameters"),
        ("PUT", "/models/nobody", JSON, b"{bad", 400, "The body is not a JSON object of parameters"),
        ("PUT", "/models/nobody", {}, b"", 404, "Model or workflow not found: nobody"),
        ("GET", "/models/nobody", {}, b"", 404, "Workflow not found: nobody"),
        ("GET", "/workflows/nobody/v1", {}, b"", 404, "Workflow not found: nobody/v1"),
        ("DELETE", "/models/nobody/v1", {}, b"", 404, "Model or workflow not found: nobody"),
        ("DELETE", "/models/nobody?force=true", {}, b"", 400, "Unknown parameter: force. This call takes none."),
        ("GET", "/models/nobody?verbose=1", {}, b"", 400, "Unknown parameter: verbose"),
        ("PATCH", "/models/nobody", {}, b"", 405, "Requested method is not allowed, please refer to API document."),
        ("POST", "/models/nobody", {}, b"", 405, "Requested method is not allowed, please refer to API document."),
        ("PUT", "/workflows", {}, b"", 405, "Requested method is not allowed, please refer to API document."),
        ("GET", "/", {}, b"", 404, "Requested resource is not found, please refer to API document."),
        ("GET", "/models/a/b/c", {}, b"", 404, "Requested resource is not found, please refer to API document."),
    ],
)
def test_mistakes(http, method, path, headers, body, status, message):
    answer = http.request(method, path, headers=headers, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, status), answer.text
    assert message in answer.json()["message"]
    assert answer.headers["x-request-id"]


# ---- what a workflow may come from ----


def test_a_workflow_at_a_models_url_takes_the_name_of_the_call_or_of_the_url(http, store):
    assert http.post(f"/models?url={store}/chain").json() == {"status": 'Model "chain" registered.'}
    assert http.post(f"/models?url={store}/chain&model_name=renamed").json() == {"status": 'Model "renamed" registered.'}
    assert http.post(f"/workflows?url={store}/chain").json() == {"status": 'Workflow "called_so" registered.'}
    assert http.post("/predictions/chain", json=[[1.0]]).json() == [[4.0]]
    models = describe(http, "/models/chain")["models"]
    assert [(model["modelName"], model["modelUrl"]) for model in models] == [
        ("m", "m.onnx"),
        ("up", f"file:{store}/chain/../m.onnx"),
    ]


def test_a_workflow_file_may_have_any_name(http, store):
    assert http.post(f"/workflows?url=file:{store}/other.json").json() == {"status": 'Workflow "other" registered.'}
    assert http.post("/predictions/other", json=[[1.0]]).json() == [[2.0]]
    again = http.post(f"/workflows?url=file:{store}/other.json")
    assert (again.status_code, again.json()["message"]) == (409, "Workflow other is already registered.")


def test_a_workflow_may_be_the_body(http, store):
    document = {"name": "inline_json", "models": {"m": f"{store}/m.onnx"}, "workflow": {"out": ["m", "in"]}}
    assert http.post("/workflows", json=document).json() == {"status": 'Workflow "inline_json" registered.'}
    text = f"name: inline_yaml\nmodels: {{m: {store}/m.onnx}}\nworkflow: {{out: [m, in]}}\n"
    answer = http.post("/workflows?max_worker=2", content=text, headers={"content-type": "application/yaml"})
    assert answer.json() == {"status": 'Workflow "inline_yaml" registered.'}
    for name in ("inline_json", "inline_yaml"):
        assert http.post(f"/predictions/{name}", json=[[1.0]]).json() == [[2.0]]
    assert describe(http, "/workflows/inline_yaml")["models"][0]["workerGroups"][0]["maxWorkers"] == 2


def test_templates_of_a_folder(tmp_path):
    folder = tmp_path / "templates"
    folder.mkdir()
    text = 'name: "{name}"\nmodels: {m: "{url}"}\nworkflow: {out: [m, in]}\n'
    (folder / "one.yaml").write_text(text)
    with running(tmp_path, env={"FLOWYARD_WORKFLOW_TEMPLATES": str(folder)}) as server:
        model = server.model_store / "m.onnx"
        model.write_bytes(ONNX)
        query = {"template": "one", "name": "filled", "url": str(model), "min_worker": "2"}
        answer = server.client.post("/workflows", params=query)
        assert (answer.status_code, answer.json()) == (200, {"status": 'Workflow "filled" registered.'})
        assert server.client.post("/predictions/filled", json=[[1.0]]).json() == [[2.0]]
        assert describe(server.client, "/models/filled")["models"][0]["workerGroups"][0]["minWorkers"] == 2
        server.kill()
        server.start()
        assert server.client.post("/predictions/filled", json=[[1.0]]).json() == [[2.0]]


# ---- descriptions and lists ----


def test_a_description_has_djls_fields_in_djls_order_and_ours_after_them(http):
    params = {"url": "m.onnx", "model_name": "described", "model_version": "v1", "batch_size": "8", "max_worker": "3"}
    assert http.post("/models", params=params).status_code == 200
    for _ in range(3):
        http.post("/predictions/described", json=[[1.0]])
    entry = describe(http, "/models/described")
    assert list(entry)[:3] == ["workflowName", "version", "models"]
    (model,) = entry["models"]
    djl = ["modelName", "modelUrl", "batchSize", "maxBatchDelayMillis", "maxIdleSeconds", "queueSize", "requestInQueue"]
    assert list(model)[:10] == [*djl, "status", "loadedAtStartup", "workerGroups"]
    assert [model[key] for key in djl] == ["described", "m.onnx", 8, 100, 60, 1000, 0]
    assert (model["status"], model["loadedAtStartup"], model["engine"]) == ("Healthy", False, "OnnxRuntime")
    assert (model["batches"], model.get("restarts", 0)) == ({"1": 3}, 0)
    (group,) = model["workerGroups"]
    assert list(group) == ["device", "minWorkers", "maxWorkers", "workers"]
    assert (group["device"], group["minWorkers"], group["maxWorkers"]) == ({"deviceType": "cpu", "deviceId": -1}, 1, 3)
    (worker,) = group["workers"]
    assert list(worker) == ["id", "startTime", "status", "pid", "state", "memory"]
    assert worker["status"] == "READY"
    assert worker["memory"] > 1 << 20
    assert (entry["status"], entry["url"]) == ("READY", "m.onnx")


def test_a_lost_worker_is_counted(server, http):
    assert http.post("/models", params={"model_name": "fragile"}, content=zipped({"model.py": ECHO})).status_code == 200

    def model():
        return describe(http, "/models/fragile")["models"][0]

    (worker,) = model()["workerGroups"][0]["workers"]
    assert worker["pid"] in server.workers()
    exits = "import os\n\ndef predict(value):\n    os._exit(1)\n"
    assert http.post("/models", params={"model_name": "leaving"}, content=zipped({"model.py": exits})).status_code == 200
    assert http.post("/predictions/leaving", json=0).status_code == 503
    wait_until(lambda: describe(http, "/models/leaving")["models"][0]["restarts"] == 2)
    assert "restarts" not in model()


def test_progress_is_shown_while_workers_start(http, tmp_path):
    archive = zipped({"model.py": GATED.format(gate=str(tmp_path / "go"))})
    params = {"model_name": "growing", "synchronous": "false", "min_worker": 2}
    assert http.post("/models", params=params, content=archive).status_code == 202
    wanted = {"workersReady": 0, "workersWanted": 2}
    wait_until(lambda: describe(http, "/models/growing").get("progress") == wanted)
    (model,) = describe(http, "/models/growing")["models"]
    assert (model["modelName"], model["status"], model["queueSize"]) == ("growing", "PENDING", 1000)
    wait_until(lambda: [w["status"] for w in describe(http, "/models/growing")["models"][0]["workerGroups"][0]["workers"]])
    assert {w["status"] for w in describe(http, "/models/growing")["models"][0]["workerGroups"][0]["workers"]} == {"PENDING"}
    scaled = http.put("/models/growing", params={"min_worker": 1})
    assert (scaled.status_code, scaled.json()["type"]) == (503, "ServiceUnavailableException")
    assert scaled.json()["message"] == "Model or workflow is not ready: growing"
    (tmp_path / "go").touch()
    wait_until(lambda: describe(http, "/models/growing")["status"] == "READY")
    assert "progress" not in describe(http, "/models/growing")


def test_one_that_failed_says_what_it_would_have_been_and_why(http):
    params = {"model_name": "failing", "synchronous": "false", "batch_size": 2, "max_worker": 2}
    assert http.post("/models", params=params, content=zipped({"model.py": BROKEN})).status_code == 202
    wait_until(lambda: describe(http, "/models/failing")["status"] == "FAILED")
    entry = describe(http, "/models/failing")
    assert "nothing_of_that_name" in entry["reason"]
    (model,) = entry["models"]
    assert (model["modelName"], model["status"], model["batchSize"]) == ("failing", "FAILED", 2)
    group = {"device": {"deviceType": "cpu", "deviceId": -1}, "minWorkers": 1, "maxWorkers": 2, "workers": []}
    assert model["workerGroups"] == [group]
    health = http.get("/ping")
    assert (health.status_code, health.json()["failing"]) == (500, {"status": "FAILED"})
    listed = [item for item in http.get("/workflows").json()["workflows"] if item["workflowName"] == "failing"]
    assert listed == [{"workflowName": "failing", "status": "FAILED"}]
    # Registering again with another failure leaves nothing: nobody waits for the first one any more.
    again = http.post("/models", params={"model_name": "failing"}, content=zipped({"model.py": BROKEN}))
    assert again.status_code == 400
    assert http.get("/models/failing").status_code == 404


def test_one_version_that_failed_is_not_hidden_by_one_that_runs(http):
    archives = [("v1", BROKEN, "false", 202), ("v2", ECHO, "true", 200)]
    for version, source, wait, status in archives:
        params = {"model_name": "half", "model_version": version, "synchronous": wait}
        assert http.post("/models", params=params, content=zipped({"model.py": source})).status_code == status
    wait_until(lambda: describe(http, "/models/half/v1")["status"] == "FAILED")
    assert http.get("/ping").json()["half"] == {"status": "FAILED"}
    assert http.post("/predictions/half", json=1).json() == 1
    assert http.delete("/models/half/v1").status_code == 200
    assert http.get("/ping").json()["half"] == {"status": "Healthy"}


def test_unregistering_what_is_being_registered_ends_it(server, http, tmp_path):
    archive = zipped({"model.py": GATED.format(gate=str(tmp_path / "go"))})
    with ThreadPoolExecutor(1) as thread, httpx2.Client(base_url=http.base_url, timeout=60) as other:
        registering = thread.submit(lambda: other.post("/models", params={"model_name": "fleeting"}, content=archive))
        wait_until(lambda: http.get("/models/fleeting").status_code == 200)
        assert http.delete("/models/fleeting").json() == {"status": 'Workflow "fleeting" unregistered'}
        (tmp_path / "go").touch()
        answer = registering.result()
    text = "Workflow fleeting was unregistered while it was being registered."
    assert (answer.status_code, answer.json()["message"]) == (409, text)
    assert http.get("/models/fleeting").status_code == 404


def test_lists_are_paged_by_name(tmp_path):
    with running(tmp_path) as server:
        client = server.client
        (server.model_store / "m.onnx").write_bytes(ONNX)
        for name, version in (("a", "v1"), ("a", "v2"), ("b", ""), ("c", "")):
            params = {"url": "m.onnx", "model_name": name, "model_version": version}
            assert client.post("/models", params=params).status_code == 200
        first = client.get("/models?limit=2").json()
        assert list(first) == ["nextPageToken", "models"]
        item = {"modelUrl": "m.onnx", "status": "READY"}
        assert first == {
            "nextPageToken": "2",
            "models": [
                {"modelName": "a", "version": "v1", **item},
                {"modelName": "a", "version": "v2", **item},
                {"modelName": "b", **item},
            ],
        }
        second = client.get("/models", params={"limit": 2, "next_page_token": first["nextPageToken"]}).json()
        assert second == {"models": [{"modelName": "c", **item}]}
        assert client.get("/models?limit=0").json() == {"nextPageToken": "0", "models": []}
        assert client.get("/models?next_page_token=50").json() == {"models": []}
        assert len(client.get("/models?limit=1000").json()["models"]) == 4
        workflows = [
            {"workflowName": "a", "version": "v1"},
            {"workflowName": "a", "version": "v2"},
            {"workflowName": "b"},
            {"workflowName": "c"},
        ]
        assert client.get("/workflows").json() == {"workflows": workflows}
        assert client.get("/workflows?limit=1").json() == {"nextPageToken": "1", "workflows": workflows[:2]}
        assert client.get("/models/").json() == client.get("/models").json()


def test_the_openapi_document_states_parameters_ranges_and_answers(http):
    document = http.get("/schema").json()
    register = document["paths"]["/models"]["post"]
    parameters = {parameter["name"]: parameter["schema"] for parameter in register["parameters"]}
    ranges = {
        "min_worker": (0, 1000),
        "max_worker": (0, 1000),
        "batch_size": (1, 65_536),
        "job_queue_size": (1, 1_000_000),
        "max_batch_delay": (0, 3_600_000),
        "max_idle_time": (0, 3600),
    }
    assert {name: (parameters[name]["minimum"], parameters[name]["maximum"]) for name in ranges} == ranges
    assert parameters["batching"]["enum"] == ["eager", "fill"]
    assert {"200", "202", "400", "403", "404", "409", "413"} <= set(register["responses"])
    schemas = document["components"]["schemas"]
    references = [part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]]
    assert set(references) <= set(schemas)
    for path, item in document["paths"].items():
        for operation in item.values():
            named = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}


@pytest.mark.parametrize("path", ["/models", "/workflows"])
def test_a_multipart_form_without_a_boundary_is_refused(http, path):
    answer = http.post(path, content=b"x", headers={"content-type": "multipart/form-data"})
    assert (answer.status_code, answer.json()["message"]) == (400, "The Content-Type multipart/form-data needs a boundary.")
