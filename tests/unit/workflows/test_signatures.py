"""Signatures along the edges: what cannot fit on any request, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.tensors import DTYPES, Signature, TensorSpec
from flowyard.workflows.check import check, compile_workflow
from flowyard.workflows.signatures import check_signatures, signature_of

HEAD = "name: w\nmodels: {a: a.onnx, b: b.onnx}\nfunctions: {f: s:f}\nworkflow:\n"
CHAIN = "  x: [a, in]\n  out: [b, x]\n"


def tensor(name: str, dtype: str = "float32", *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def found(nodes: str, gives: list[TensorSpec], takes: list[TensorSpec]) -> list[str]:
    plan = compile_workflow((HEAD + nodes).encode(), "w.yaml", None)
    signatures = {"a": Signature(outputs=tuple(gives)), "b": Signature(inputs=tuple(takes))}
    return [str(problem) for problem in check_signatures(plan, signatures)]


def fits(gives: TensorSpec, takes: TensorSpec) -> bool:
    return not found(CHAIN, [gives], [takes])


def test_a_problem_names_both_nodes_and_the_place_of_the_one_that_takes() -> None:
    assert found(CHAIN, [tensor("y", "float32", -1, 10)], [tensor("x", "float32", -1, 64)]) == [
        'w.yaml:6:3: error: node "out": model "b" takes x: float32[?, 64], and node "x", model "a", gives y: float32[?, 10]'
    ]


DTYPES_THAT_FIT = [
    ("float32", "float32"), ("float64", "float32"), ("int64", "float16"), ("int64", "int8"), ("uint8", "int32"), ("bool", "int8"),
    ("bool", "float32"), ("float32", "complex64"), ("", "int64"), ("float32", ""), ("odd", "bool"),
]  # fmt: skip
DTYPES_THAT_DO_NOT = [
    ("float32", "int64"),
    ("complex64", "float32"),
    ("int64", "bool"),
    ("string", "float32"),
    ("int8", "string"),
]


@pytest.mark.parametrize(("gives", "takes"), DTYPES_THAT_FIT)
def test_dtypes_that_can_be_converted_fit(gives: str, takes: str) -> None:
    assert fits(tensor("y", gives, -1), tensor("x", takes, -1))


@pytest.mark.parametrize(("gives", "takes"), DTYPES_THAT_DO_NOT)
def test_dtypes_that_cannot_do_not(gives: str, takes: str) -> None:
    assert not fits(tensor("y", gives, -1), tensor("x", takes, -1))


SHAPES = [
    ((-1, 3), (-1, 3), True),
    ((-1, 3), (-1, 4), False),
    ((-1, -1), (8, 4), True),
    ((2, 3), (3, 3), False),
    ((3,), (-1, 3), True),
    ((3,), (1, 3), True),
    ((3,), (2, 3), False),
    ((3,), (-1, 4), False),
    ((-1, 3), (3,), True),
    ((1, 3), (3,), True),
    ((2, 3), (3,), False),
    ((-1, 1, 3), (3,), False),
    ((), (-1, -1), False),
    ((), (), True),
]


@pytest.mark.parametrize(("gives", "takes", "expected"), SHAPES)
def test_shapes(gives: tuple[int, ...], takes: tuple[int, ...], expected: bool) -> None:
    assert fits(TensorSpec(name="y", shape=gives), TensorSpec(name="x", shape=takes)) is expected
    assert fits(TensorSpec(name="y"), TensorSpec(name="x", shape=takes))
    assert fits(TensorSpec(name="y", shape=gives), TensorSpec(name="x"))


BAD = ([tensor("y", "string", 2)], [tensor("x", "float32", 2)])
EDGES = [
    (CHAIN, 1),
    ("  x: [a, in]\n  y: x\n  z: [id, y]\n  out: [b, z]\n", 1),
    ("  out: [b, [a, in]]\n", 1),
    ("  out: [b, [id, [a, in]]]\n", 1),
    ("  out: {call: [b, [a, in]], fallback: in}\n", 1),
    ("  out: {call: in, when: in, else: [b, [a, in]]}\n", 1),
    ("  out: [b, [f, [a, in]]]\n", 0),
    ("  out: [b, [pick, [a, in], {value: q}]]\n", 0),
    ("  x: [a, in]\n  out: [b, x.q]\n", 0),
    ("  out: [map, b, [a, in]]\n", 0),
    ("  out: [b, in]\n", 0),
    ("  out: [b, [switch, in, {p: [a, in]}]]\n", 0),
    ("  x: [a, in]\n  out: [f, x]\n  unused: [b, x]\n", 0),
]


@pytest.mark.parametrize(("nodes", "count"), EDGES)
def test_only_models_that_are_fed_directly_are_compared(nodes: str, count: int) -> None:
    assert len(found(nodes, *BAD)) == count


def test_several_arguments_are_compared_in_order() -> None:
    takes = [tensor("p", "string", 2), tensor("q", "float32", 2)]
    assert [problem.split(": ")[3] for problem in found("  x: [a, in]\n  out: [b, x, x]\n", BAD[0], takes)] == [
        'model "b" takes q'
    ]


BOXES, SCORES = tensor("boxes", "float32", -1, 4), tensor("scores", "float32", -1)


def test_several_outputs_are_compared_by_name() -> None:
    assert found(CHAIN, [BOXES, SCORES], [SCORES, BOXES]) == []
    assert found(CHAIN, [BOXES, SCORES], [tensor("scores", "int64", -1), BOXES]) == [
        'w.yaml:6:3: error: node "out": model "b" takes scores: int64[?], and node "x", model "a", gives scores: float32[?]'
    ]
    assert found(CHAIN, [BOXES, SCORES], [BOXES]) == [
        'w.yaml:6:3: error: node "out": model "b" takes "boxes", and node "x", model "a", gives "boxes", "scores"'
    ]
    assert found(CHAIN, [tensor("data"), SCORES], [BOXES]) == []


def test_a_path_takes_one_of_several_outputs() -> None:
    assert found("  x: [a, in]\n  out: [b, x.boxes]\n", [BOXES, SCORES], [BOXES]) == []
    assert len(found("  x: [a, in]\n  out: [b, x.scores]\n", [BOXES, SCORES], [tensor("x", "int64", -1)])) == 1
    assert found("  x: [a, in]\n  y: x\n  out: [b, y.boxs]\n", [BOXES, SCORES], [BOXES]) == [
        'w.yaml:7:3: error: node "out": node "x", model "a", has no output "boxs" (did you mean "boxes"?)'
    ]
    assert found("  x: [a, in]\n  y: x.boxes\n  out: [b, y.more]\n", [BOXES, SCORES], [BOXES]) == []


def test_what_is_not_known_is_no_problem() -> None:
    assert found(CHAIN, [], [BOXES]) == []
    assert found(CHAIN, [BOXES], []) == []
    assert found(CHAIN, [BOXES], [BOXES, SCORES]) == []
    assert check_signatures(compile_workflow((HEAD + CHAIN).encode(), "w", None), {}) == ()


def test_declared_signatures_are_compared_at_registration() -> None:
    text = """
name: w
models:
  a: {url: a.pt, outputs: [{name: y, dtype: float32, shape: [null, 10]}]}
  b: {url: b.pt, inputs: [{name: x, dtype: float32, shape: [null, 64]}]}
workflow: {x: [a, in], out: [b, x]}
"""
    checked = check(text.encode(), "w.yaml", None)
    assert checked.plan is None
    assert [str(problem) for problem in checked.problems] == [
        'w.yaml:6:24: error: node "out": model "b" takes x: float32[?, 64], and node "x", model "a", gives y: float32[?, 10]'
    ]


SIZES = st.sampled_from([-1, 1, 2, 3])
TENSORS = st.builds(
    lambda dtype, shape: TensorSpec(name="t", dtype=dtype, shape=tuple(shape)),
    st.sampled_from(sorted(DTYPES - {"string"})),
    st.lists(SIZES, max_size=3),
)


@given(gives=TENSORS, takes=TENSORS, size=st.integers(1, 3), drop=st.booleans())
def test_what_an_engine_accepts_is_never_a_problem(gives: TensorSpec, takes: TensorSpec, size: int, drop: bool) -> None:
    from flowyard.engines.inputs import prepare

    value = np.ones([size if axis < 0 else axis for axis in gives.shape or ()], gives.dtype)
    if drop and value.ndim and len(value) == 1:
        value = value[0, ...]
    try:
        prepare([value], [takes])
    except InvalidInputError:
        return
    assert fits(gives, takes)


WHOLE = """
name: w
models:
  a: {url: a.pt, inputs: [{name: x, dtype: float32, shape: [null, 2]}], outputs: [{name: y, dtype: float32, shape: [null, 3]}]}
  b: {url: b.pt, inputs: [{name: p}, {name: q, dtype: int64}], outputs: [{name: u}, {name: v, dtype: bool}]}
functions: {f: steps:f}
workflow:
"""


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs"),
    [
        ("{out: [a, in]}", "x: float32[?, 2]", "y: float32[?, 3]"),
        ("{body: in, z: [id, body], r: [a, z], out: r}", "x: float32[?, 2]", "y: float32[?, 3]"),
        ("{out: [a, in.image]}", "image: float32[?, 2]", "y: float32[?, 3]"),
        ("{out: [b, in.left, in.right]}", "left: any[?], right: int64[?]", "u: any[?], v: bool[?]"),
        ("{r: [b, in], out: r.v}", "p: any[?], q: int64[?]", "v: bool[?]"),
        ("{out: [f, [a, [f, in]]]}", "", ""),
        ("{out: [merge, [a, in], [b, in]]}", "x: float32[?, 2], p: any[?], q: int64[?]", ""),
        ("{out: {call: [a, in], when: in.z, else: in}}", "x: float32[?, 2]", ""),
        ("{out: {call: [a, in], fallback: in}}", "x: float32[?, 2]", ""),
        ("{r: {call: in, when: in.z}, out: [a, r]}", "", "y: float32[?, 3]"),
        ("{out: [a, 'in.list[0]']}", "", "y: float32[?, 3]"),
        ("{out: [a, in.headers.x]}", "", "y: float32[?, 3]"),
    ],
)
def test_the_signature_of_a_whole_workflow(nodes: str, inputs: str, outputs: str) -> None:
    plan = compile_workflow(WHOLE.replace("workflow:\n", f"workflow: {nodes}").encode(), "w", None)
    found = signature_of(plan, {})
    assert ", ".join(map(str, found.inputs)) == inputs
    assert ", ".join(map(str, found.outputs)) == outputs
