"""Single models of every engine, registered by URL and by upload."""

from __future__ import annotations

import pytest
import torch
from support.archives import linear_onnx, zipped

PYTHON = """
class Model:
    def load(self, device):
        self.device = device

    def predict(self, batch):
        return [{"doubled": item["x"] * 2, "device": self.device, "batch": len(batch)} for item in batch]
"""


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@pytest.fixture(scope="module")
def store(server):
    (server.model_store / "linear.onnx").write_bytes(linear_onnx([[1.0, 10.0], [2.0, 20.0]]))
    (server.model_store / "doubler").mkdir()
    (server.model_store / "doubler" / "model.py").write_text(PYTHON)
    torch.export.save(
        torch.export.export(Doubled(), (torch.zeros(2, 3),), dynamic_shapes={"x": {0: torch.export.Dim("n")}}),
        server.model_store / "doubled.pt2",
    )
    return server.model_store


def test_onnx_by_url(http, store):
    assert http.post("/models", params={"url": "linear.onnx"}).json() == {"status": 'Model "linear_onnx" registered.'}
    for body in ([[1, 1]], {"x": [[1, 1]]}, {"inputs": [[1, 1]]}, {"instances": [[1, 1]]}, {"data": [[1, 1]]}):
        assert http.post("/predictions/linear_onnx", json=body).json() == [[3.0, 30.0]]
    assert http.post("/predictions/linear_onnx", json=[1, 1]).json() == [3.0, 30.0]
    assert http.delete("/models/linear_onnx").status_code == 200


def test_onnx_by_file_url_and_json_body(http, store):
    answer = http.post("/models", json={"url": (store / "linear.onnx").as_uri(), "model_name": "byjson", "batch_size": 4})
    assert answer.json() == {"status": 'Model "byjson" registered.'}
    (info,) = http.get("/models/byjson").json()
    assert info["models"][0]["batchSize"] == 4
    assert info["models"][0]["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 2]}]


@pytest.mark.parametrize("how", ["raw", "form"])
def test_onnx_by_upload(http, store, how):
    model = (store / "linear.onnx").read_bytes()
    if how == "raw":
        answer = http.post("/models", params={"model_name": "raw"}, content=model)
    else:
        answer = http.post("/models", data={"model_name": "form"}, files={"file": ("linear.onnx", model)})
    assert answer.json() == {"status": f'Model "{how}" registered.'}
    assert http.post(f"/predictions/{how}", json=[[1, 1]]).json() == [[3.0, 30.0]]
    (info,) = http.get(f"/models/{how}").json()
    assert info["url"].startswith("upload:sha256:")


def test_an_upload_without_a_name_asks_for_one(http, store):
    answer = http.post("/models", content=(store / "linear.onnx").read_bytes())
    assert answer.status_code == 400
    assert "model_name" in answer.json()["message"]


def test_torch_export(http, store):
    assert http.post("/models", params={"url": "doubled.pt2", "model_name": "doubled"}).status_code == 200
    assert http.post("/predictions/doubled", json=[[1, 2, 3]]).json() == [[2.0, 4.0, 6.0]]
    wrong = http.post("/predictions/doubled", json=[["a", "b", "c"]])
    assert (wrong.status_code, wrong.json()["type"]) == (400, "TranslateException")
    assert "float32[?, 3]" in wrong.json()["message"]


def test_python_model_in_a_folder(http, store):
    assert http.post("/models", params={"url": "doubler"}).json() == {"status": 'Model "doubler" registered.'}
    assert http.post("/predictions/doubler", json={"x": 21}).json() == {"doubled": 42, "device": "cpu", "batch": 1}
    failed = http.post("/predictions/doubler", json={"y": 21})
    assert (failed.status_code, failed.json()["type"]) == (424, "TranslateException")
    assert "KeyError" in failed.json()["message"]


def test_versions_take_turns_and_can_be_named(http, store):
    for version, factor in (("v1", 1.0), ("v2", 2.0)):
        params = {"model_name": "versioned", "model_version": version}
        assert http.post("/models", params=params, content=linear_onnx([[factor]])).status_code == 200
    assert {tuple(http.post("/predictions/versioned", json=[1]).json()) for _ in range(4)} == {(1.0,), (2.0,)}
    assert [http.post(f"/predictions/versioned/{version}", json=[1]).json() for version in ("v1", "v2")] == [[1.0], [2.0]]
    assert [info["version"] for info in http.get("/models/versioned").json()] == ["v1", "v2"]
    assert http.delete("/models/versioned/v1").status_code == 200
    assert http.post("/predictions/versioned", json=[1]).json() == [2.0]


def test_a_workflow_may_call_a_registered_model(http, store):
    assert http.post("/models", params={"url": "linear.onnx", "model_name": "shared"}).status_code == 200
    text = "name: caller\nmodels: {m: {model: shared}}\nworkflow:\n  out: [m, in]\n"
    assert http.post("/workflows", content=zipped({"workflow.yaml": text})).status_code == 200
    assert http.post("/predictions/caller", json=[[1, 1]]).json() == [[3.0, 30.0]]
    assert http.delete("/models/shared").status_code == 200
    gone = http.post("/predictions/caller", json=[[1, 1]])
    assert gone.status_code == 404
    assert "shared" in gone.json()["message"]


def test_a_workflow_that_calls_a_model_nobody_registered_is_refused(http):
    text = "name: lonely\nmodels: {m: {model: nobody}}\nworkflow:\n  out: [m, in]\n"
    answer = http.post("/workflows", content=zipped({"workflow.yaml": text}))
    assert 400 <= answer.status_code < 500
    assert "nobody" in answer.json()["message"]


def test_lists_come_in_pages(http, store):
    for name in ("page-a", "page-b", "page-c"):
        assert http.post("/models", params={"url": "linear.onnx", "model_name": name}).status_code == 200
    names, token = [], "0"
    while token is not None:
        page = http.get("/models", params={"limit": 2, "next_page_token": token}).json()
        names += [item["modelName"] for item in page["models"]]
        token = page.get("nextPageToken")
    assert [name for name in names if name.startswith("page-")] == ["page-a", "page-b", "page-c"]


def test_health_names_every_model(http, store):
    http.post("/models", params={"url": "linear.onnx", "model_name": "healthy"})
    answer = http.get("/ping")
    assert answer.status_code == 200
    assert answer.json()["healthy"] == {"status": "Healthy"}


def test_the_api_describes_itself(http):
    document = http.get("/schema").json()
    assert document["openapi"].startswith("3.1")
    assert {"/models", "/models/{name}", "/workflows", "/workflows/{name}", "/predictions/{name}", "/ping"} <= set(
        document["paths"]
    )
    assert http.options("/").json() == document
