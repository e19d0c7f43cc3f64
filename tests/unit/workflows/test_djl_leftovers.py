"""Adapters and templates, as DJL Serving has them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.messages import Message
from flowyard.schemas.payload import Payload
from flowyard.workflows.builtin import Adapted
from flowyard.workflows.check import check, compile_workflow
from flowyard.workflows.instructions import StartCall
from flowyard.workflows.plan import Adapter
from flowyard.workflows.run import Run
from flowyard.workflows.templates import TEMPLATES, fill

ADAPTED = """{"name": "w", "models": {"llm": "llm.zip"},
 "configs": {"adapters": {"a1": {"model": "llm", "src": "{model_dir}/a1", "options": {"rank": 8}}}, "other": {}},
 "workflow": {"out": ["adapter", "a1", %s]}}"""


def first_call(argument: str, body: Any) -> StartCall:
    run = Run(compile_workflow((ADAPTED % argument).encode(), "w.json", None), Payload.of(body), {}, {}, None)
    (call,) = run.start(0.0)
    assert isinstance(call, StartCall)
    return call


def test_an_adapter_is_told_to_the_model_in_its_input() -> None:
    call = first_call('"in"', {"prompt": "x"})
    assert (call.kind, call.callee, call.step) == ("model", "llm", "out")
    assert call.args[0].message().contents == (("data", b'{"prompt":"x"}'), ("adapter", b"a1"))


def test_what_a_node_before_gives_is_made_a_message() -> None:
    assert first_call('["id", "in.x"]', {"x": [1]}).args[0].message().contents == (("data", b"[1]"), ("adapter", b"a1"))


def test_a_request_keeps_its_headers_and_loses_an_adapter_of_its_own() -> None:
    given = Message(properties=(("h", "1"),), contents=(("adapter", b"zz"), ("data", b"x")))
    marked = Adapted("a1").mark(Payload.of(given)).message()
    assert (marked.properties, marked.contents) == ((("h", "1"),), (("data", b"x"), ("adapter", b"a1")))


def test_a_plan_lists_the_adapters_that_have_to_be_loaded() -> None:
    checked = check((ADAPTED % '"in"').encode(), "w.json", None)
    assert checked.plan is not None
    assert checked.plan.adapters == {"a1": Adapter(model="llm", src="a1", options={"rank": "8"})}
    assert [str(problem) for problem in checked.problems] == ["w.json:2:101: warning: `configs.other` has no effect here"]


def test_a_function_called_adapter_hides_the_built_in(drive: Callable[..., Any]) -> None:
    text = "name: w\nfunctions: {adapter: s:f}\nworkflow: {out: [adapter, in]}"
    assert compile_workflow(text.encode(), "w", None).steps[0].callees[0].kind == "function"


WRONG = [
    ("{a1: {model: llm}}", ['2:26: error: adapter "a1" needs `src`']),
    ("{a1: {src: x}}", ['2:26: error: adapter "a1" needs `model`']),
    ("{a1: {model: lm, src: x}}", ['2:26: error: adapter "a1": unknown model "lm" (did you mean "llm"?)']),
    ("{a1: {model: llm, src: x, option: {}}}", ['2:47: error: adapter "a1": unknown key `option` (did you mean "options"?)']),
    ("{a1: {model: llm, src: x, options: {a: []}}}", ["2:60: error: `options.a` must be a string, not a list"]),
    ("{a2: {model: llm, src: x}}", ['4:27: error: no adapter "a1" in `configs.adapters`']),
    (
        "[a1]",
        ["2:21: error: `configs.adapters` must be a mapping, not a list", '4:27: error: no adapter "a1" in `configs.adapters`'],
    ),
    ("{a1: x}", ["2:26: error: `configs.adapters.a1` must be a mapping, not a string"]),
]


@pytest.mark.parametrize(("adapters", "expected"), WRONG)
def test_a_bad_adapter_is_refused_with_its_place(adapters: str, expected: list[str]) -> None:
    text = f"name: w\nconfigs: {{adapters: {adapters}}}\nmodels: {{llm: llm.zip}}\nworkflow: {{out: [adapter, a1, in]}}"
    assert [str(problem).removeprefix("w:") for problem in check(text.encode(), "w", None).problems] == expected


def test_the_template_of_djl_gives_a_workflow() -> None:
    text = fill(TEMPLATES["adapter"], {"adapter": "a1", "model": "file:///m/llm", "url": "/m/a1"})
    plan = compile_workflow(text, "workflow.json", None)
    assert (plan.name, plan.adapters["a1"]) == ("a1", Adapter(model="adapted", src="/m/a1"))
    assert plan.models["adapted"].url == "file:///m/llm"


def test_what_is_in_braces_and_no_parameter_stays() -> None:
    text = b'{"a": "{model_dir}/{x}{y}", "b": {"x": "{ x }"}}\xff'
    assert fill(text, {"x": "1"}) == b'{"a": "{model_dir}/1{y}", "b": {"x": "{ x }"}}\xff'


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"y": "1"}, "Parameter y: the template has no {y}; it has x"),
        ({"model_dir": "/etc"}, "Parameter model_dir: the template has no {model_dir}; it has x"),
        ({"x": '", "evil": "'}, "Parameter x: a value may not have quotes, backslashes, braces or line breaks"),
        ({"x": "a\nb: c"}, "Parameter x: a value may not have quotes, backslashes, braces or line breaks"),
    ],
)
def test_a_parameter_cannot_change_more_than_its_place(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        fill(json.dumps({"a": "{x}", "m": "{model_dir}"}).encode(), parameters)
    assert caught.value.message == message
