"""The spelling of TorchServe: `models:` with defaults, and `dag:`."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from flowyard.schemas.errors import FlowyardError, HandlerError, NodeError, WorkerDiedError
from flowyard.schemas.messages import Message
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.payload import Payload
from flowyard.workflows.check import check, compile_workflow
from flowyard.workflows.instructions import Answer, AnswerError, StartCall
from flowyard.workflows.plan import Plan
from flowyard.workflows.run import Run

SPEC = """
models:
  min-workers: 1
  max-workers: 4
  batch-size: 3
  max-batch-delay: 5000
  retry-attempts: 3
  timeout-ms: 5000
  inc: {url: nodes.mar}
  dbl: {url: "file:///store/nodes.mar", batch-size: 8, retry-attempts: 0, timeout-ms: 200, max-workers: 1}
dag:
  pre: [inc, dbl]
  inc: [join]
  dbl: [join]
"""
HANDLER = b"""
def pre(data, context): ...
def join(data, ctx): ...
def one(data): ...
def three(a, b, c): ...
def many(*args): ...
"""


class Files:
    def exists(self, path: str) -> bool:
        return path in self.names()

    def read(self, path: str) -> bytes | None:
        return HANDLER if path == "handler.py" else None

    def names(self) -> Iterable[str]:
        return ["handler.py", "a", "a.mar", "nodes.mar"]


def compiled(text: str) -> Plan:
    return compile_workflow(text.encode(), "spec.yaml", Files(), "handler.py")


class FilesOfOthers(Files):
    """The handler's file has a name that is no module's."""

    def read(self, path: str) -> bytes | None:
        return HANDLER if path == "pred-err.py" else None

    def names(self) -> Iterable[str]:
        return ["pred-err.py", "a", "a.mar", "nodes.mar"]


def test_a_handler_file_need_not_have_the_name_of_a_module():
    plan = compile_workflow(SPEC.encode(), "spec.yaml", FilesOfOthers(), "pred-err.py")
    assert plan.functions == {"pre": "pred-err.py:pre", "join": "pred-err.py:join"}


def found(text: str, handler: str | None = "handler.py") -> list[str]:
    return [str(problem).removeprefix("spec.yaml:") for problem in check(text.encode(), "spec.yaml", Files(), handler).problems]


def run(plan: Plan, body: Any, **results: Any) -> Any:
    """Runs a plan whose calls give `results`; returns the calls' arguments by step, and the answer."""
    seen: dict[str, Any] = {}
    one = Run(plan, Payload.of(body), {}, {}, None)
    todo = one.start(0.0)
    for instruction in todo:
        if isinstance(instruction, StartCall):
            (arg,) = instruction.args
            seen[instruction.step] = arg.message() or arg.value()
            todo += one.done(instruction.call_id, Payload.of(results[instruction.step]), 0.0)
        elif isinstance(instruction, Answer):
            seen["answer"] = instruction.payload.value()
    return seen


def test_settings_of_all_models_and_of_one() -> None:
    plan = compiled(SPEC)
    assert plan.models == {
        "inc": ModelSpec(url="nodes.mar", min_worker=1, max_worker=4, batch_size=3, max_batch_delay=5000),
        "dbl": ModelSpec(url="file:///store/nodes.mar", min_worker=1, max_worker=1, batch_size=8, max_batch_delay=5000),
    }
    assert plan.functions == {"pre": "handler:pre", "join": "handler:join"}
    assert (plan.name, plan.spelling) == ("", "torchserve")
    settings = {step.name: (step.timeout_s, step.retries) for step in plan.steps}
    assert settings["pre"] == settings["inc"] == settings["join"] == (5.0, 3)
    assert settings["dbl"] == (0.2, 0)


def test_without_settings_those_of_torchserve_count() -> None:
    plan = compiled("models: {inc: {url: a.mar}}\ndag: {inc: []}")
    assert plan.models["inc"] == ModelSpec(url="a.mar", batch_size=1, max_batch_delay=50)
    assert (plan.steps[0].timeout_s, plan.steps[0].retries) == (10.0, 1)


def test_one_parent_gives_its_output_several_a_row_of_named_bytes() -> None:
    assert run(compiled(SPEC), b"5", pre="5", inc="6", dbl={"n": 10}, join="16") == {
        "pre": b"5",
        "inc": "5",
        "dbl": "5",
        "join": Message(contents=(("inc", b"6"), ("dbl", b'{"n":10}'))),
        "answer": "16",
    }


def test_what_leaves_return_is_parsed_where_it_is_json_and_text_elsewhere() -> None:
    plan = compiled("models: {inc: {url: a.mar}, dbl: {url: a.mar}}\ndag: {pre: [inc, dbl]}")
    answers = {"inc": Message(contents=((None, b'{"a": [1]}'),)), "dbl": Message(contents=((None, b"plain \xff"),))}
    assert run(plan, 1, pre=1, **answers)["answer"] == {"inc": {"a": [1]}, "dbl": "plain \ufffd"}


@pytest.mark.parametrize("error", [NodeError("no"), HandlerError("Prediction failed"), WorkerDiedError("dead")])
def test_a_node_is_tried_again_whatever_went_wrong(error: FlowyardError) -> None:
    plan = compiled("models: {retry-attempts: 2, inc: {url: a.mar}}\ndag: {inc: }")
    one = Run(plan, Payload.of(1), {}, {}, None)
    todo, calls, answer = one.start(0.0), 0, None
    for instruction in todo:
        if isinstance(instruction, StartCall):
            calls += 1
            todo += one.failed(instruction.call_id, error, 0.0)
        elif isinstance(instruction, AnswerError):
            answer = instruction.error
    assert (calls, type(answer)) == (3, type(error))
    assert not isinstance(answer, HandlerError) or (answer.node, answer.message) == ("inc", "Prediction failed")


def test_several_leaves_give_one_mapping_by_name() -> None:
    plan = compiled("models: {inc: {url: a.mar}, dbl: {url: a.mar}}\ndag: {pre: [inc, dbl]}")
    assert run(plan, 1, pre=1, inc=2, dbl=3)["answer"] == {"inc": 2, "dbl": 3}


@pytest.mark.parametrize("dag", ["{inc: }", "{inc: []}", "{inc: [out]}"])
def test_a_graph_may_be_a_single_node_or_end_in_one_called_out(dag: str) -> None:
    spec = f"models: {{inc: {{url: a.mar}}, out: {{url: a.mar}}}}\ndag: {dag}"
    assert run(compiled(spec), 1, inc=2, out=2)["answer"] == 2


def test_a_file_may_say_its_name_and_version() -> None:
    plan = compiled("name: w\nversion: 1.0\nmodels: {inc: {url: a.mar}}\ndag: {inc: []}")
    assert (plan.name, plan.version) == ("w", "1.0")


NATIVE = """
name: chain
models:
  inc: {url: nodes.mar, batch_size: 1, max_batch_delay: 50}
  dbl: {url: nodes.mar, batch_size: 1, max_batch_delay: 50}
functions: {pre: "handler:pre"}
workflow:
  pre: {call: [pre, in], timeout: 10s, retries: 1}
  inc: {call: [inc, pre], timeout: 10s, retries: 1}
  dbl: {call: [dbl, inc], timeout: 10s, retries: 1}
  out: dbl
"""
DJL = """{"name": "chain", "models": {"inc": {"modelUrl": "{model_dir}/nodes.mar", "batchSize": 1, "maxBatchDelayMillis": 50},
    "dbl": {"modelUrl": "nodes.mar", "batchSize": 1, "maxBatchDelayMillis": 50}},
  "functions": {"pre": "handler:pre"},
  "workflow": {"pre": ["pre", "in"], "inc": ["inc", "pre"], "dbl": ["dbl", "inc"], "out": "dbl"}}"""
TORCHSERVE = """
name: chain
models: {inc: {url: nodes.mar}, dbl: {url: nodes.mar}}
dag: {pre: [inc], inc: [dbl]}
"""


def bare(plan: Plan, **changes: Any) -> Plan:
    """A plan without what belongs to the spelling: places, and here timeouts and retries, which DJL does not have."""
    steps = tuple(msgspec.structs.replace(step, line=0, column=0, **changes) for step in plan.steps)
    return msgspec.structs.replace(plan, steps=steps, spelling="native", file="")


def test_three_spellings_give_one_plan() -> None:
    native, torchserve = (compile_workflow(text.encode(), "w.yaml", None, "handler.py") for text in (NATIVE, TORCHSERVE))
    djl = compile_workflow(DJL.encode(), "w.json", None)
    assert torchserve.spelling == "torchserve"
    assert bare(native) == bare(torchserve)
    assert bare(djl) == bare(native, timeout_s=None, retries=0)


ONE = "models: {inc: {url: a.mar}}\n"
WRONG = [
    ("- 1", ["1:1: error: a workflow spec is a mapping with `models` and `dag`"]),
    (ONE, ["1:1: error: no `dag`"]),
    ("dag: {pre: []}", ["1:1: error: no `models`"]),
    (ONE + "dag: {}", ["2:6: error: `dag` has no nodes"]),
    (ONE + "dag: [inc]", ["2:6: error: `dag` must be a mapping, not a list"]),
    (ONE + "dag: {inc: pre}", ["2:12: error: `dag.inc` must be a list of node names, not a string"]),
    (ONE + "dag: {inc: [3]}", ["2:13: error: a node's name must be a string, not a number"]),
    (ONE + "dag: {inc: []}\ndags: 1", ['3:1: error: unknown key `dags` (did you mean "dag"?)']),
    (ONE + "dag: {inc: [inc]}", ["2:7: error: Self loop exception: inc -> inc"]),
    (ONE + "dag: {pre: [inc], inc: [join], join: [inc]}", ["2:13: error: Not a valid DAG: inc -> join -> inc"]),
    (ONE + "dag: {pre: [join], inc: [join]}",
     ['2:20: error: DAG should have only one start node: nothing leads to "pre", "inc"']),
    (ONE + "dag: {inc: [in]}", None),
    (ONE + "dag: {inc: [out], out: [join]}", None),
    (ONE + "dag: {inc: [jion]}", ['2:13: error: function "jion": no "jion" in handler.py (did you mean "join"?)']),
    (ONE + "dag: {inc: [no-name]}", ['2:13: error: node "no-name" is no model and cannot be a function of handler.py']),
    (ONE + "dag: {inc: [one]}", ['2:13: error: function "one" is called with `data` and `context`, and takes 1']),
    (ONE + "dag: {inc: [three]}", ['2:13: error: function "three" is called with `data` and `context`, and takes 3']),
    (ONE + "dag: {inc: [many]}", []),
    ("models: {inc: {}}\ndag: {inc: []}", ['1:15: error: model "inc" needs `url`']),
    ("models: {inc: {url: a, batchsize: 1}}\ndag: {inc: []}",
     ['1:24: error: model "inc": unknown key `batchsize` (did you mean "batch-size"?)']),
    ("models: {min-worker: 1, inc: {url: a}}\ndag: {inc: []}",
     ['1:10: error: models: unknown key `min-worker` (did you mean "min-workers"?)']),
    ("models: {min-workers: many, inc: {url: a}}\ndag: {inc: []}", ["1:23: error: `min-workers`: expected `int`, got `str`"]),
    ("models: {retry-attempts: 11, inc: {url: a}}\ndag: {inc: []}", ["1:26: error: `retry-attempts`: expected `int` <= 10"]),
    ("models: {inc: {url: a, min-workers: 3, max-workers: 2}}\ndag: {inc: []}",
     ['1:15: error: model "inc": min-workers 3 is more than max-workers 2']),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[text for text, _ in WRONG])
def test_a_bad_spec_is_refused_with_its_place_and_a_fix(text: str, expected: list[str] | None) -> None:
    problems = found(text)
    if expected is None:
        assert any("2:13: error: a node cannot be called" in problem for problem in problems)
    else:
        assert problems == expected


def test_without_a_handler_file_there_are_no_functions() -> None:
    assert found(ONE + "dag: {inc: [merge]}", None) == [
        (
            '2:13: error: node "merge" is no model, and there is no handler file '
            "(functions are in the handler file, which the manifest of the archive names)"
        )
    ]


def test_the_handler_may_be_in_a_folder_and_has_to_be_there() -> None:
    assert compile_workflow((ONE + "dag: {inc: [f]}").encode(), "s", None, "src/handler.py").functions == {"f": "src.handler:f"}
    (problem,) = found(ONE + "dag: {inc: [f]}", "other.py")
    assert problem == '2:13: error: function "f": no module "other" in the archive (did you mean "handler.py"?)'


def test_too_many_nodes_are_refused() -> None:
    dag = "".join(f"  f{at}: [f{at + 1}]\n" for at in range(1000))
    assert found(f"{ONE}dag:\n{dag}")[0] == "3:3: error: 1001 nodes, the limit is 1000"


def test_a_file_with_a_workflow_is_native_whatever_else_it_has() -> None:
    assert found("name: w\nworkflow: {out: [id, in]}") == []
    assert found("name: w\nworkflow: {out: [id, in]}\ndag: {}") == ["3:1: error: unknown key `dag`"]
