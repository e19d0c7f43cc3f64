"""Registrations that must not succeed: a 4xx that says what is wrong and where, and nothing left behind."""

from __future__ import annotations

import pytest
from support.archives import linear_onnx, zipped
from support.server import children, wait_until

ONNX = linear_onnx([[1.0], [2.0]])
STEPS = "def one(x):\n    return x\n"
GOOD = "name: good\nfunctions: {one: steps:one}\nworkflow:\n  out: [one, in]\n"


def workflow(text: str, **files: str | bytes) -> bytes:
    named = {name.replace("__", "."): content for name, content in files.items()}
    return zipped({"workflow.yaml": text, "steps.py": STEPS} | named)


ARCHIVES = {
    "not an archive": (b"\x00\x01\x02 nothing of ours" * 9, ["workflow"]),
    "a truncated zip": (workflow(GOOD)[:-30], ["zip"]),
    "an empty body": (b"", ["url"]),
    "a zip without a workflow": (zipped({"model.onnx": ONNX}), ["workflow.yaml"]),
    "a path out of the archive": (zipped({"workflow.yaml": GOOD, "../steps.py": STEPS}), ["../steps.py"]),
    "no YAML": (workflow("name: [x"), ["workflow.yaml:2", "not YAML"]),
    "no name": (workflow("functions: {one: steps:one}\nworkflow: {out: [one, in]}"), ["name"]),
    "an unknown callee": (
        workflow("name: x\nfunctions: {one: steps:one}\nworkflow:\n  out: [onne, in]\n"),
        ["workflow.yaml:4", "onne", 'did you mean "one"'],
    ),
    "an unknown reference": (
        workflow("name: x\nfunctions: {one: steps:one}\nworkflow:\n  image: [one, in]\n  out: [one, imag]\n"),
        ["workflow.yaml:5", "imag", 'did you mean "image"'],
    ),
    "a cycle": (
        workflow("name: x\nfunctions: {one: steps:one}\nworkflow:\n  a: [one, b]\n  b: [one, a]\n  out: [merge, a, in]\n"),
        ["a -> b -> a"],
    ),
    "no out": (workflow("name: x\nfunctions: {one: steps:one}\nworkflow:\n  a: [one, in]\n"), ["out"]),
    "too many arguments": (
        workflow("name: x\nfunctions: {one: steps:one}\nworkflow:\n  out: [one, in, in]\n"),
        ["workflow.yaml:4", "one", "argument"],
    ),
    "a missing model file": (
        workflow("name: x\nmodels: {m: modell.onnx}\nworkflow:\n  out: [m, in]\n", model__onnx=ONNX),
        ["workflow.yaml:2", "modell.onnx", "model.onnx"],
    ),
    "a missing function": (
        workflow("name: x\nfunctions: {two: steps:two}\nworkflow:\n  out: [two, in]\n"),
        ["workflow.yaml:2", "two"],
    ),
    "a missing module": (
        workflow("name: x\nfunctions: {one: stepps:one}\nworkflow:\n  out: [one, in]\n"),
        ["workflow.yaml:2", "stepps"],
    ),
    "a module that cannot be imported": (
        zipped({"workflow.yaml": GOOD, "steps.py": "import nothing_of_that_name\n" + STEPS}),
        ["steps.py:1", "nothing_of_that_name"],
    ),
    "a model that is none": (
        workflow("name: x\nmodels: {m: model.onnx}\nworkflow:\n  out: [m, in]\n", model__onnx=b"\x08\x07 not a model"),
        ['model "m"', "model.onnx"],
    ),
    "a device that is not here": (
        workflow("name: x\nmodels: {m: {url: model.onnx, device: gpu99}}\nworkflow:\n  out: [m, in]\n", model__onnx=ONNX),
        ["gpu99", "cpu"],
    ),
    "an engine that does not exist": (
        workflow("name: x\nmodels: {m: {url: model.onnx, engine: Onyx}}\nworkflow:\n  out: [m, in]\n", model__onnx=ONNX),
        ["Onyx", "OnnxRuntime"],
    ),
    "a key that does not exist": (
        workflow("name: x\nmodels: {m: {url: model.onnx, batchsize: 3}}\nworkflow:\n  out: [m, in]\n", model__onnx=ONNX),
        ["workflow.yaml:2", "batchsize", "batch_size"],
    ),
    "a model that leaves the archive": (
        workflow("name: x\nmodels: {m: ../../other/model.onnx}\nworkflow:\n  out: [m, in]\n"),
        ["../../other/model.onnx"],
    ),
    "a model at a path that is not allowed": (
        workflow("name: x\nmodels: {m: 'file:///etc/hostname'}\nworkflow:\n  out: [m, in]\n"),
        ["allowed_paths"],
    ),
    "a trusted model": (
        workflow("name: x\nmodels: {m: {url: model.onnx, trusted: true}}\nworkflow:\n  out: [m, in]\n", model__onnx=ONNX),
        ["allow_trusted"],
    ),
    "one bad model of two": (
        workflow(
            "name: x\nmodels: {good: model.onnx, bad: bad.onnx}\nworkflow:\n  a: [good, in]\n  out: [bad, a]\n",
            model__onnx=ONNX,
            bad__onnx=b"\x08\x07 not a model",
        ),
        ['model "bad"'],
    ),
}


def left_behind(server, http) -> list[str]:
    stored = [path.name for path in (server.state_dir / "archives" / "sha256").iterdir()]
    temporary = [path.name for path in (server.state_dir / "archives" / "tmp").iterdir()]
    named = [item["workflowName"] for item in http.get("/workflows").json()["workflows"]]
    return [*stored, *temporary, *named]


@pytest.mark.parametrize("case", ARCHIVES)
def test_is_refused_and_leaves_nothing(server, http, case):
    archive, words = ARCHIVES[case]
    answer = http.post("/workflows", content=archive)
    assert 400 <= answer.status_code < 500, answer.text
    body = answer.json()
    assert (body["code"], set(body) >= {"type", "message"}) == (answer.status_code, True)
    assert all(word in body["message"] for word in words), body["message"]
    assert "Traceback" not in body["message"]
    assert str(server.state_dir) not in answer.text
    assert left_behind(server, http) == []
    wait_until(lambda: not children(server.process.pid))


def test_every_problem_of_a_file_is_told_at_once(http):
    text = "name: x\nfunctions: {one: steps:one}\nworkflow:\n  a: [onne, in]\n  b: [one, aa]\n  out: [one, in, in]\n"
    problems = http.post("/workflows", content=workflow(text)).json()["problems"]
    assert {problem["line"] for problem in problems if problem.get("severity", "error") == "error"} >= {4, 5, 6}


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("url=nothing.onnx", 404, ["Invalid model url: nothing.onnx"]),
        ("url=/etc/hostname", 403, ["allowed_paths"]),
        ("url=../../etc/hostname", 403, ["allowed_paths"]),
        ("url=file:///etc/hostname", 403, ["allowed_paths"]),
        ("url=http://127.0.0.1:9/x.onnx", 403, ["allowed_urls"]),
        ("url=s3://bucket/x.onnx", 403, ["allowed_urls"]),
        ("url=djl://bucket/x.onnx", 400, ["djl:"]),
        ("url=%00", 400, ["url"]),
        ("url=linear.onnx&batch_size=0", 400, ["batch_size", "'0'", "1 to 65536"]),
        ("url=linear.onnx&min_worker=many", 400, ["min_worker", "many"]),
        ("url=linear.onnx&modelname=x", 400, ["modelname", "model_name"]),
        ("url=linear.onnx&model_name=a/b", 400, ["a/b"]),
        ("url=linear.onnx&model_name=x&model_version=a%20b", 400, ["a b"]),
        ("url=linear.onnx&device=gpu99", 400, ["gpu99"]),
        ("url=linear.onnx&device=GPU0", 400, ["GPU0"]),
        ("url=linear.onnx&engine=Onyx", 400, ["Onyx"]),
        ("url=linear.onnx&engine=PyTorch", 400, ["PyTorch"]),
        ("url=linear.onnx&trusted=true", 403, ["allow_trusted"]),
        ("url=linear.onnx&synchronous=perhaps", 400, ["synchronous", "true or false"]),
        ("url=folder", 404, ["readme.txt"]),
    ],
)
def test_bad_parameters_of_a_model(server, http, query, status, words):
    (server.model_store / "linear.onnx").write_bytes(ONNX)
    (server.model_store / "folder").mkdir(exist_ok=True)
    (server.model_store / "folder" / "readme.txt").write_text("no model here")
    answer = http.post(f"/models?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert all(word in answer.json()["message"] for word in words), answer.json()["message"]
    assert left_behind(server, http) == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/models/nobody", 404),
        ("GET", "/models/nobody/1.0", 404),
        ("DELETE", "/models/nobody", 404),
        ("DELETE", "/workflows/nobody", 404),
        ("GET", "/models?limit=-1", 400),
        ("GET", "/models?limit=ten", 400),
        ("GET", "/workflows?limit=2147483648", 400),
        ("GET", "/models?next_page_token=-1", 400),
        ("GET", "/models?page=2", 400),
        ("GET", "/nothing", 404),
        ("PATCH", "/models", 405),
    ],
)
def test_other_mistakes(http, method, path, status):
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert answer.headers["x-request-id"]


def test_the_same_name_twice_is_a_conflict_and_the_first_goes_on(http):
    assert http.post("/workflows", content=workflow(GOOD)).status_code == 200
    again = http.post("/workflows", content=workflow(GOOD + "# another\n"))
    assert (again.status_code, again.json()["message"]) == (409, "Workflow good is already registered.")
    assert http.post("/predictions/good", json=[1]).json() == [1]
    assert http.delete("/workflows/good").json() == {"status": 'Workflow "good" unregistered'}
    assert http.post("/predictions/good", json=[1]).status_code == 404
