"""Workflows and models of the server that a file calls."""

from collections.abc import Callable
from typing import Any

import pytest

from flowyard.schemas.errors import NodeError
from flowyard.schemas.payload import Payload
from flowyard.workflows.check import compile_workflow
from flowyard.workflows.instructions import StartCall
from flowyard.workflows.plan import Registered
from flowyard.workflows.run import Run

TEXT = """
name: w
models:
  m: m.pt
  ocr: {model: "ocr:2"}
  faces: {workflow: "faces:1.0"}
workflow:
  a: [faces, in]
  b: [{workflow: plates}, in]
  c: [map, {workflow: plates}, [functionsApply, [{workflow: "x:3"}, faces, m], in]]
  out: [ocr, a, b, c]
"""


def test_a_plan_lists_what_has_to_be_registered_each_once() -> None:
    assert compile_workflow(TEXT.encode(), "w", None).references == (
        Registered("model", "ocr:2", 5, 8),
        Registered("workflow", "faces:1.0", 6, 10),
        Registered("workflow", "plates", 9, 7),
        Registered("workflow", "x:3", 10, 50),
    )


def test_a_local_name_of_a_workflow_is_no_model() -> None:
    assert set(compile_workflow(TEXT.encode(), "w", None).models) == {"m", "ocr"}


@pytest.mark.parametrize(
    ("callee", "reference"),
    [("{workflow: 'x:2'}", "x:2"), ("faces", "faces:1.0"), ("{workflow: 7}", "7"), ("{workflow: 'w:1'}", "w:1")],
)
def test_a_call_of_a_workflow_names_it_with_its_version(callee: str, reference: str) -> None:
    text = f"name: w\nversion: 2\nmodels: {{faces: {{workflow: 'faces:1.0'}}}}\nworkflow: {{out: [{callee}, in]}}"
    run = Run(compile_workflow(text.encode(), "w", None), Payload.of(1), {}, {}, None)
    (call,) = run.start(0.0)
    assert isinstance(call, StartCall)
    assert (call.kind, call.callee, call.step) == ("workflow", reference, "out")


def test_a_workflow_is_mapped_retried_and_cached_like_a_model(drive: Callable[..., Any]) -> None:
    run = drive("out: {call: [map, {workflow: x}, in], fallback: {value: 0}, cache: true}", [1, 2])
    assert run.start() == [("out:x", 1), ("out:x+", 2)]
    assert run.fail("out:x", NodeError("bad")) == ["cancel out:x+", {"answer": 0}]


def test_a_branch_may_be_called_workflow(drive: Callable[..., Any]) -> None:
    assert drive("out: [switch, in, {workflow: in}]", "workflow").start() == [{"answer": "workflow"}]
