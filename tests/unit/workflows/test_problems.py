"""Bad files: every problem, its place and its fix."""

import pytest

from flowyard.schemas.errors import InvalidWorkflowError
from flowyard.workflows.check import check, compile_workflow

HEAD = "name: w\nmodels: {cnn: cnn.pt, mlp: mlp.onnx}\nfunctions: {label: steps:label}\nworkflow:\n"


def found(text: str, filename: str = "workflow.yaml") -> list[str]:
    return [str(problem).removeprefix(filename + ":") for problem in check(text.encode(), filename, None).problems]


NODES = [
    ("out: [cn, in]", ['5:9: error: unknown model or function "cn" (did you mean "cnn"?)']),
    (
        "image: [id, in]\n  out: [cnn, imgae]",
        ['6:14: error: unknown reference "imgae" (did you mean "image"?)', '5:3: warning: nobody uses node "image"'],
    ),
    ("out: [cnn, mlp]", ['5:14: error: unknown reference "mlp" (to call it, write [mlp, in])']),
    ("out: [cnn, xyzzy]", ['5:14: error: unknown reference "xyzzy" (for a string, write {value: ...})']),
    ("out: [merge, a, b]\n  a: [merge, b, in]\n  b: [id, a]", ["6:3: error: a cycle: a -> b -> a"]),
    ("out: [cnn, out]", ["5:3: error: a cycle: out -> out"]),
    ("out: [id, in, in]", ["5:9: error: `id` takes 1 argument, not 2"]),
    ("out: [id]", ["5:9: error: `id` takes 1 argument, not 0"]),
    ("out: [ensemble]", ["5:9: error: `ensemble` takes at least 1 argument, not 0"]),
    (
        "out: [id, in.x]\n  a: [cnn]",
        ['6:7: error: model "cnn" takes at least 1 argument, not 0', '6:3: warning: nobody uses node "a"'],
    ),
    ("a: [cnn, in]", ["4:1: error: no node `out`"]),
    ("out: {value: 3}", ["5:3: error: `out` does not depend on `in`: every answer would be the same"]),
    ("out: [cnn, {value: 3}]", ["5:3: error: `out` does not depend on `in`: every answer would be the same"]),
    ("out: [cnn, in]\n  extra: [mlp, in]", ['6:3: warning: nobody uses node "extra"']),
    (
        "in: [cnn, in]\n  out: [cnn, in]",
        ["5:3: error: a node cannot be called `in`: that is the request"],
    ),
    (
        "out: [cnn, in.foo(a)]",
        ['5:14: error: JMESPath "foo(a)": unknown function foo()'],
    ),
    (
        "out: [cnn, 'in.length(a, b)']",
        ['5:14: error: JMESPath "length(a, b)": length() takes 1 argument(s), not 2'],
    ),
    ("out: [pick, in, {value: 'a['}]", None),
    ("out: [pick, in, in]", ['5:19: error: `pick`: the path must be a literal: {value: "path"}']),
    ("out: [cnn, in.a..b]", None),
    ("out: []", ["5:8: error: an empty call; write [callee, argument, ...]"]),
    ("out: [[cnn, in], in]", ["5:9: error: a callee must be the name of a model or function, not a list"]),
    ("out: [{workflow: w}, in]", ['5:9: error: a cycle: the workflow "w" calls itself']),
    ("out: [map, {workflow: w}, in]", ['5:14: error: a cycle: the workflow "w" calls itself']),
    ("out: [{workflow: x}, in, in]", ['5:9: error: workflow "x" takes 1 argument, not 2']),
    ("out: [{workflow: x y}, in]", ["5:20: error: `workflow` must be the name of a registered workflow: name[:version]"]),
    ("out: [{workflow: x, version: 2}, in]", ["5:23: error: unknown key `version` next to `workflow`"]),
    ("out: [adapter, a1, in]", ['5:18: error: no adapter "a1" in `configs.adapters`']),
    ("out: [adapter, [cnn, in], in]", ["5:19: error: `adapter` takes the name of an adapter first"]),
    ("out: [adapter, in]", ["5:9: error: `adapter` takes 2 arguments, not 1"]),
    ("out: [map, adapter, in]", ["5:14: error: `adapter` cannot be applied to one value"]),
    ("out: {call: [cnn, in], cache: soon}", ["5:33: error: `cache` must be a duration like 2s, 300ms or 1m"]),
    ("out: {call: [cnn, in], cache: 0}", ["5:33: error: `cache` must be more than 0 and at most a day"]),
    ("out: {call: [cnn, in], cache: {tll: 1s}}", ['5:34: error: `cache`: unknown key `tll` (did you mean "ttl"?)']),
    (
        "out: {call: [cnn, in], cache: {ttl: -1, max_entries: 0}}",
        ["5:39: error: `ttl` must be more than 0 and at most a day", "5:56: error: `max_entries`: expected `int` >= 1"],
    ),
    ("out: {call: [merge, in], cache: true}", ['5:3: warning: node "out": `cache` has no effect on `merge`']),
    ("out: {call: in, cache: true}", ['5:3: warning: node "out": `cache` has no effect on a reference']),
    ("out: {call: [cnn, in], retry: 1}", ['5:26: error: node "out": unknown key `retry` (did you mean "retries"?)']),
    ("out: {call: [cnn, in], retries: 99}", ["5:35: error: `retries` must be a whole number from 0 to 10"]),
    ("out: {call: [cnn, in], timeout: soon}", ["5:35: error: `timeout` must be a duration like 2s, 300ms or 1m"]),
    ("out: {call: [cnn, in], timeout: 0}", ["5:35: error: `timeout` must be more than 0 and at most a day"]),
    ("out: {when: 'in.a'}", ['5:3: error: node "out" has no `call`']),
    ("out: {call: [cnn, in], else: in}", ['5:26: error: node "out" has `else` but no `when`']),
    (
        "out: {call: [cnn, in], when: '@'}",
        [
            (
                '5:32: error: `when` of node "out": JMESPath "@": `@` needs the name of a node before it '
                "(write numbers as `1`, strings as 'x')"
            )
        ],
    ),
    ("out: {call: [cnn, in], when: 'sure < `1`'}", ['5:32: error: unknown reference "sure" (strings stand in single quotes)']),
    ("out: [switch, in, in]", ["5:21: error: `switch` takes a key and a mapping of branches"]),
    ("out: [cnn, {a: in}]", ["5:14: error: a mapping is no argument here; write {value: ...} for a literal one"]),
    ("out: [map, cn, in]", ['5:14: error: unknown model or function "cn" (did you mean "cnn"?)']),
    ("out: [map, switch, in]", ["5:14: error: `switch` cannot be applied to one value"]),
    ("out: [functionsApply, in, in]", ["5:25: error: `functionsApply` takes a list of names first"]),
    (
        "out: [ensemble, in, in, {value: median}]",
        ['5:27: error: `ensemble`: `method` must be `mean` or `vote` (did you mean "mean"?)'],
    ),
    ("out: [ensemble, in, in, {value: {weights: [1]}}]", ["5:27: error: `ensemble`: 1 weights for 2 members"]),
    ("out: [cnn, in]\n  out: [mlp, in]", ['6:3: error: duplicate key "out", first at line 5']),
]


@pytest.mark.parametrize(("nodes", "expected"), NODES, ids=[nodes for nodes, _ in NODES])
def test_a_bad_node_is_refused_with_its_place_and_a_fix(nodes: str, expected: list[str] | None) -> None:
    problems = found(HEAD + "  " + nodes)
    if expected is None:
        assert len(problems) == 1
        assert "error" in problems[0]
        assert "JMESPath" in problems[0]
    else:
        assert sorted(problems) == sorted(expected)


OUT = "workflow: {out: [m, in]}\n"
FILES = [
    (
        "name: w\n" + "models: {m: {url: a.pt, batchsize: 3}}\n" + OUT,
        ['2:25: error: model "m": unknown key `batchsize` (did you mean "batch_size"?)'],
    ),
    ("name: w\nmodels: {m: {url: a.pt, batch_size: 0}}\n" + OUT, ["2:37: error: `batch_size`: expected `int` >= 1"]),
    ("name: w\nmodels: {m: {url: a.pt, batching: slow}}\n" + OUT, ["2:35: error: `batching`: invalid enum value 'slow'"]),
    (
        "name: w\nmodels: {m: {url: a.pt, min_worker: 3, max_worker: 2}}\n" + OUT,
        ['2:13: error: model "m": min_worker 3 is more than max_worker 2'],
    ),
    ("name: w\nmodels: {m: {engine: X}}\n" + OUT, ['2:13: error: model "m" needs `url` or `model`']),
    (
        "name: w\nmodels: {m: {url: a, model: b}}\n" + OUT,
        ['2:13: error: model "m" has both `url` and `model`; one of them says which model it is'],
    ),
    ("name: w\nmodels: {m: 3}\n" + OUT, ['2:13: error: model "m" must be a URL or a mapping, not a number']),
    (
        "name: w\nmodels: {m: {url: a, inputs: [{name: x, dtype: flaot32}]}}\n" + OUT,
        ['2:48: error: unknown dtype `flaot32` (did you mean "float32"?)'],
    ),
    (
        "name: w\nmodels: {m: {url: a, translator: x}}\n" + OUT,
        ['2:22: error: model "m": `translator` names a Java class, which cannot run here'],
    ),
    (
        "name: w\nfunctions: {f: ai.djl.F}\nmodels: {m: a}\n" + OUT,
        [
            (
                '2:16: error: function "f" must be `module:callable`, not "ai.djl.F" '
                "(a Python module of the archive and a function in it)"
            )
        ],
    ),
    ("nmae: w\nmodels: {m: a}\n" + OUT, ['1:1: error: unknown key `nmae` (did you mean "name"?)', "1:1: error: no `name`"]),
    (
        "name: -w\nmodels: {m: a}\n" + OUT,
        ['1:7: error: the name "-w" may have letters, digits, `_`, `.` and `-`, 128 at most, and starts with a letter or digit'],
    ),
    ("name: w\ntimeout: 2 weeks\nmodels: {m: a}\n" + OUT, ["2:10: error: `timeout` must be a duration like 2s, 300ms or 1m"]),
    ("name: w\non_error: ignore\nmodels: {m: a}\n" + OUT, ["2:11: error: `on_error` must be `fail` or `pass`"]),
    ("name: w\nmodels: [m]\nworkflow: {out: [id, in]}", ["2:9: error: `models` must be a mapping, not a list"]),
    (
        "name: w\nmodels: {m: {url: a, inputs: [{name: x}, {name: y}]}}\nworkflow: {out: [m, in, in, in]}",
        ['3:18: error: model "m" takes 1 argument or 2, not 3'],
    ),
    ("name: w\n", ["1:1: error: no `workflow`"]),
    ("name: w\nworkflow:\n", ["2:1: error: no node `out`"]),
    (
        "name: w\nmodels: {m: a}\nfunctions: {m: s:f, id: s:f}\n" + OUT,
        [
            '3:16: warning: the model "m" hides the function of the same name',
            '3:25: warning: "id" hides the built-in of the same name',
        ],
    ),
    ("- name", ["1:1: error: a workflow file is a mapping with `name` and `workflow`"]),
]


@pytest.mark.parametrize(("text", "expected"), FILES, ids=[text for text, _ in FILES])
def test_a_bad_setting_is_refused_with_its_place_and_a_fix(text: str, expected: list[str]) -> None:
    assert found(text) == expected


def test_every_problem_of_a_file_is_reported_at_once() -> None:
    assert len(found("name: w\nx: 1\nmodels: {m: {y: 2}}\nworkflow:\n  a: [q, in]\n  out: [r, z]\n")) == 7


def test_more_than_a_thousand_nodes_are_refused() -> None:
    nodes = "".join(f"  n{at}: [id, in]\n" for at in range(1000))
    assert "4:1: error: 1001 nodes, the limit is 1000" in found(HEAD + "  out: [id, in]\n" + nodes)


def test_more_than_ten_thousand_calls_are_refused_however_short_their_text() -> None:
    listed = "[merge, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a]"
    text = (
        f"{HEAD}  x: &a [cnn, in]\n  y: &b {listed}\n  z: &c {listed.replace('*a', '*b')}\n  out: {listed.replace('*a', '*c')}\n"
    )
    assert [problem for problem in found(text) if "error" in problem] == ["5:10: error: more than 10000 calls"]


CYCLES = [
    "out: {call: [cnn, in], when: a.x}\n  a: [mlp, out]",
    "out: {call: [cnn, in], when: in.x, else: [mlp, a]}\n  a: [mlp, out]",
    "out: {call: [cnn, in], fallback: a}\n  a: [mlp, [cnn, out]]",
    "out: [switch, in, {x: a.y, default: in}]\n  a: [mlp, out.x]",
    "out: [map, cnn, [functionsApply, [cnn], a]]\n  a: [mlp, out]",
]


@pytest.mark.parametrize("nodes", CYCLES)
def test_a_cycle_is_found_wherever_it_runs_through(nodes: str) -> None:
    assert found(f"{HEAD}  {nodes}") == ["5:3: error: a cycle: out -> a -> out"]


REFERENCES = [
    ("out: {call: [cnn, in], when: 'a.'}", '5:32: error: `when` of node "out": JMESPath "a.": '),
    ("out: {call: [cnn, in], when: in.x, else: 'in.x['}", '5:44: error: JMESPath "x["'),
    ("out: {call: [cnn, in], fallback: 'in.x['}", '5:36: error: JMESPath "x["'),
    ("out: [switch, in, {a: [cnn, 'in.a b']}]", '5:31: error: JMESPath "a b"'),
    ("out: [pick, in, {value: '[?a'}]", '5:19: error: `pick`: JMESPath "[?a"'),
]


@pytest.mark.parametrize(("nodes", "start"), REFERENCES)
def test_a_jmespath_that_does_not_parse_is_refused_wherever_it_stands(nodes: str, start: str) -> None:
    (problem,) = found(f"{HEAD}  {nodes}")
    assert problem.startswith(start)


def test_compiling_a_bad_file_raises_with_all_problems() -> None:
    with pytest.raises(InvalidWorkflowError) as caught:
        compile_workflow(b"name: w\nworkflow: {out: [a, b]}", "w.yaml", None)
    assert [problem.name for problem in caught.value.problems] == ["a", "b"]
    assert str(caught.value).startswith('w.yaml:2:18: error: unknown model or function "a"')


def test_warnings_alone_refuse_nothing() -> None:
    checked = check((HEAD + "  out: [cnn, in]\n  extra: [mlp, in]").encode(), "w.yaml", None)
    assert checked.plan is not None
    assert [problem.severity for problem in checked.problems] == ["warning"]
