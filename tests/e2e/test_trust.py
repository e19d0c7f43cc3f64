"""Files that run code when they are read, and packages that an archive asks for."""

from __future__ import annotations

import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from support.archives import linear_onnx, zipped
from support.server import running

HANDLER = """
engine=Python
option.entryPoint=djl_python.sklearn_handler
option.model_format={}
option.trust_insecure_model_files=true
"""


class Ran:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Doubled(torch.nn.Module):
    def forward(self, x):
        return 2 * x


def script():
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the format is deprecated; whoever serves it has it already
        torch.jit.save(torch.jit.script(Doubled()), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    return tmp_path_factory.mktemp("evil") / "ran"


def files(evil):
    """What runs code when it is read, by the name that it is registered under."""
    ran, estimator = Ran(str(evil)), LinearRegression().fit(np.eye(2), [1.0, 2.0])
    folder = {"serving.properties": HANDLER.format("pickle"), "model.pkl": pickle.dumps(ran)}
    joblib = {"serving.properties": HANDLER.format("joblib"), "model.joblib": pickle.dumps(ran)}
    workflow = "name: x\nmodels: {m: model.pt}\nworkflow:\n  out: [m, in]\n"
    return {
        "weights.pt": saved({"w": torch.zeros(1), "evil": ran}),
        "bare.pt": pickle.dumps(ran),
        "bare.pth": pickle.dumps(ran, 0),
        "sklearn.zip": zipped(folder),
        "joblib.zip": zipped(joblib),
        "estimator.zip": zipped(folder | {"model.pkl": pickle.dumps(estimator)}),
        "flow.zip": zipped({"workflow.yaml": workflow, "model.pt": saved({"w": torch.zeros(1), "evil": ran})}),
        "bare.pkl": pickle.dumps(ran),
        "bare.joblib": pickle.dumps(ran),
    }


#: No engine takes these files alone.
UNKNOWN = ("bare.pkl", "bare.joblib")
NAMES = ["weights.pt", "bare.pt", "bare.pth", "sklearn.zip", "joblib.zip", "estimator.zip", "flow.zip", "bare.pkl", "bare.joblib"]


@pytest.fixture(scope="module")
def careful(tmp_path_factory, evil):
    with running(tmp_path_factory.mktemp("careful")) as server:
        for name, content in files(evil).items():
            (server.model_store / name).write_bytes(content)
        (server.model_store / "linear.onnx").write_bytes(linear_onnx([[1.0]]))
        (server.model_store / "script.pt").write_bytes(script())
        yield server


@pytest.mark.parametrize("name", NAMES)
def test_pickles_are_not_read(careful, evil, name):
    answer = careful.client.post("/models", params={"url": name, "model_name": "m"})
    assert answer.status_code == (404 if name in UNKNOWN else 400), answer.text
    if not name.startswith("bare"):
        assert "trusted" in answer.json()["message"]
    assert not evil.exists()
    assert careful.client.get("/models/m").status_code == 404


@pytest.mark.parametrize("name", NAMES)
def test_trust_is_the_operators_to_give(careful, evil, name):
    answer = careful.client.post("/models", params={"url": name, "model_name": "m", "trusted": "true"})
    assert answer.status_code == 403, answer.text
    assert "allow_trusted" in answer.json()["message"]
    assert not evil.exists()


@pytest.mark.parametrize("name", ["linear.onnx", "script.pt"])
def test_what_runs_no_code_loads_freely(careful, name):
    assert careful.client.post("/models", params={"url": name, "model_name": "free"}).status_code == 200
    assert careful.client.delete("/models/free").status_code == 200


def test_a_trusted_model_is_read(tmp_path, evil):
    with running(tmp_path, env={"FLOWYARD_ALLOW_TRUSTED": "true"}) as server:
        for name, content in files(tmp_path / "ran").items():
            (server.model_store / name).write_bytes(content)
        refused = server.client.post("/models", params={"url": "estimator.zip"})
        assert refused.status_code == 400
        assert "trusted=true" in refused.json()["message"]
        assert server.client.post("/models", params={"url": "estimator.zip", "trusted": "true"}).status_code == 200
        found = server.client.post("/predictions/estimator", json=[[1, 0]]).json()
        assert found["predictions"] == pytest.approx([1.0])
        assert not (tmp_path / "ran").exists()
        # The whole workflow is trusted where its registration is; what the file does is its author's business.
        server.client.post("/models", params={"url": "flow.zip", "trusted": "true"})
        assert (tmp_path / "ran").exists()


WHEEL = {
    "greeting.py": "def greet(x):\n    return f'hello {x}'\n",
    "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
    "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "greeting-1.0.dist-info/RECORD": "greeting.py,,\n",
}
FLOW = {
    "workflow.yaml": "name: hello\nfunctions: {greet: steps:greet}\nworkflow:\n  out: [greet, in]\n",
    "steps.py": "from greeting import greet\n",
    "requirements.txt": "greeting==1.0\n",
    "requirements/greeting-1.0-py3-none-any.whl": zipped(WHEEL),
}
ALLOWED = {"FLOWYARD_INSTALL_REQUIREMENTS": "true", "FLOWYARD_PIP_ARGS": "--no-index"}


def test_requirements_are_not_installed(tmp_path):
    with running(tmp_path) as server:
        answer = server.client.post("/workflows", content=zipped(FLOW))
        assert answer.status_code == 400
        assert "greeting" in answer.json()["message"]
        assert "install_requirements" in answer.json()["message"]
        assert not (server.state_dir / "requirements").exists()


MAR = {
    "MAR-INF/MANIFEST.json": '{"model": {"modelName": "hello", "handler": "h.py", "requirementsFile": "needs.txt"}}',
    "h.py": "from greeting import greet\ndef handle(data, context): return data and [greet(row['body']) for row in data]",
    "needs.txt": "greeting==1.0\n",
    "requirements/greeting-1.0-py3-none-any.whl": zipped(WHEEL),
}


@pytest.mark.parametrize("allowed", [True, False])
def test_requirements_that_a_manifest_of_torchserve_names(tmp_path, allowed):
    with running(tmp_path, env=ALLOWED if allowed else None) as server:
        answer = server.client.post("/models", content=zipped(MAR))
        if allowed:
            assert server.client.post("/predictions/hello", json="you").text == "hello you"
        else:
            assert answer.status_code == 400
            assert "setting install_requirements" in answer.json()["message"]


def test_requirements_are_installed_for_their_archive_only(tmp_path):
    # What a version that can be rolled back needs stays.
    with running(tmp_path, env=ALLOWED | {"FLOWYARD_ROLLBACK_VERSIONS": "0"}) as server:
        answer = server.client.post("/workflows", content=zipped(FLOW))
        assert answer.status_code == 200, answer.text
        assert server.client.post("/predictions/hello", json="you").text == "hello you"
        without = {name: content for name, content in FLOW.items() if not name.startswith("requirements")}
        without["workflow.yaml"] = without["workflow.yaml"].replace("name: hello", "name: other")
        answer = server.client.post("/workflows", content=zipped(without))
        assert answer.status_code == 400
        server.kill()
        server.start()
        assert server.client.post("/predictions/hello", json="again").text == "hello again"
        assert server.client.delete("/workflows/hello").status_code == 200
        assert not list((server.state_dir / "requirements").iterdir())


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        ("nothing-of-that-name==1.0\n", ["requirements.txt", "nothing-of-that-name"]),
        ("not a requirement ===\n", ["requirements.txt"]),
        ("-r other.txt\n", ["requirements.txt", "other.txt"]),
    ],
)
def test_requirements_that_cannot_be_installed(tmp_path, requirements, words):
    with running(tmp_path, env=ALLOWED) as server:
        answer = server.client.post("/workflows", content=zipped(FLOW | {"requirements.txt": requirements}))
        assert answer.status_code == 400, answer.text
        assert all(word in answer.json()["message"] for word in words)
        assert str(tmp_path) not in answer.text
        assert server.client.get("/workflows").json() == {"workflows": []}


def test_requirements_that_take_too_long(tmp_path):
    slow = {"setup.py": "import time\ntime.sleep(1000)\n", "requirements.txt": "./\n"}
    env = ALLOWED | {"FLOWYARD_REQUIREMENTS_TIMEOUT_S": "5", "FLOWYARD_PIP_ARGS": "--no-index --no-build-isolation"}
    with running(tmp_path, env=env) as server:
        answer = server.client.post("/workflows", content=zipped(FLOW | slow))
        assert answer.status_code == 400, answer.text
        assert "requirements_timeout_s" in answer.json()["message"]
