"""Good files: what is read, in which spelling."""

import json

import pytest

from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import TensorSpec
from flowyard.workflows.check import check, compile_workflow
from flowyard.workflows.definition import Definition
from flowyard.workflows.drawing import to_dot, to_mermaid

DIGITS = """
name: digits
version: "1.0"
models: {cnn: cnn.pt, mlp: mlp.onnx}
functions: {decode: steps:decode, label: steps:label}
workflow:
  image: [decode, in]
  a: [cnn, image]
  b: [mlp, image]
  scores: [ensemble, a, b]
  out: [label, scores]
"""


def read(text: str, filename: str = "workflow.yaml") -> Definition:
    checked = check(text.encode(), filename, None)
    assert [str(problem) for problem in checked.problems if problem.severity == "error"] == []
    assert checked.definition is not None
    return checked.definition


def test_the_example_compiles() -> None:
    plan = compile_workflow(DIGITS.encode(), "workflow.yaml", None)
    assert (plan.name, plan.version) == ("digits", "1.0")
    assert plan.models == {"cnn": ModelSpec(url="cnn.pt"), "mlp": ModelSpec(url="mlp.onnx")}
    assert plan.functions == {"decode": "steps:decode", "label": "steps:label"}
    assert plan.steps[plan.out].name == "out"


def test_every_setting_of_a_model_is_read() -> None:
    definition = read("""
name: w
version: 1.10
timeout: 1m
models:
  m: {url: a.onnx, engine: OnnxRuntime, device: [gpu0, 1], batch_size: 16, max_batch_delay: 5ms, batching: fill, min_worker: 1,
      max_worker: 2, job_queue_size: 10, max_idle_time: 1m, timeout: 500ms, trusted: true, options: {class: "net:Net", n: 3},
      arguments: {topK: 5}, inputs: [{name: x, dtype: float32, shape: [null, 3, -1]}], outputs: [{name: y}]}
  r: {model: ocr:2}
workflow: {a: [r, in], out: [m, a]}
""")
    assert definition.models["m"] == ModelSpec(
        url="a.onnx", engine="OnnxRuntime", device="gpu0;1", batch_size=16, max_batch_delay=5, batching="fill", min_worker=1,
        max_worker=2, job_queue_size=10, max_idle_time=60, timeout=0.5, trusted=True, options={"class": "net:Net", "n": "3"},
        arguments={"topK": "5"}, inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 3, -1)),),
        outputs=(TensorSpec(name="y"),),
    )  # fmt: skip
    assert definition.models["r"] == ModelSpec(model="ocr:2")
    assert (definition.version, definition.timeout_s) == ("1.10", 60.0)


def test_a_djl_file_reads_as_it_stands() -> None:
    text = json.dumps(
        {
            "name": "djl",
            "version": "0.1",
            "models": {
                "a": {"modelUrl": "file://{model_dir}/a.zip", "engineName": "PyTorch", "loadOnDevices": "gpu0;gpu1",
                      "queueSize": 7,
                      "batchSize": 2, "maxBatchDelayMillis": 100, "maxIdleSeconds": 60, "minWorkers": -1, "maxWorkers": 4},
                "b": "{model_dir}/b.zip",
            },
            "workflow": {"x": ["a", "in"], "out": ["b", ["id", "x"]]},
        },
        indent="\t",
    )  # fmt: skip
    definition = read(text, "workflow.json")
    assert definition.models["a"] == ModelSpec(
        url="a.zip", engine="PyTorch", device="gpu0;gpu1", job_queue_size=7, batch_size=2, max_batch_delay=100, max_idle_time=60,
        max_worker=4,
    )  # fmt: skip
    assert definition.models["b"] == ModelSpec(url="b.zip")


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2.0), ("300ms", 0.3), ("1m", 60.0), ("1.5", 1.5), ("1h", 3600.0)])
def test_durations(text: str, seconds: float) -> None:
    assert read(f"name: w\ntimeout: {text}\nworkflow: {{out: [id, in]}}").timeout_s == pytest.approx(seconds)


def test_models_shadow_functions_and_both_shadow_built_ins() -> None:
    plan = compile_workflow(
        b"name: w\nmodels: {a: a.pt}\nfunctions: {a: s:a, merge: s:m}\nworkflow: {out: [a, [merge, in]]}", "w", None
    )
    assert [step.callees[0].kind for step in plan.steps] == ["function", "model"]


def test_the_plan_has_only_what_out_needs() -> None:
    plan = compile_workflow(b"name: w\nworkflow: {spare: [id, in], a: [id, in], out: [id, a]}", "w", None)
    assert [step.name for step in plan.steps] == ["a", "out"]


def test_a_drawing_shows_nodes_callees_and_conditional_arrows() -> None:
    text = "name: w\nmodels: {m: m.pt}\nworkflow: {a: [m, in], out: {call: [m, a], when: a.x, else: in}}"
    plan = compile_workflow(text.encode(), "w", None)
    assert to_dot(plan).splitlines()[3:] == [
        '  in [label="in", shape=oval];',
        '  s0 [label="a: m"];',
        '  s1 [label="out: m", shape=oval];',
        "  in -> s0;",
        "  s0 -> s1;",
        "  s0 -> s1 [style=dashed];",
        "  in -> s1 [style=dashed];",
        "}",
    ]
    assert to_mermaid(plan) == (
        "flowchart LR\n  in([in])\n"
        '  s0["a: m"]\n  s1(["out: m"])\n'
        "  in --> s0\n  s0 --> s1\n  s0 -.-> s1\n  in -.-> s1\n"
    )  # fmt: skip
