"""The built-in functions, through a run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Drive = Callable[..., Any]
CAT, DOG = {"className": "cat", "probability": 0.8}, {"className": "dog", "probability": 0.2}

RESULTS = [
    ("[id, in]", 3, 3),
    ("[pick, in, {value: 'a[1].b'}]", {"a": [0, {"b": 5}]}, 5),
    ("[pick, in.a, {value: b}]", {"a": {"b": 5}}, 5),
    ("[pick, in, {value: 'a.b'}]", 3, None),
    ("[merge, in.a, in.b]", {"a": {"x": 1, "y": 1}, "b": {"y": 2}}, {"x": 1, "y": 2}),
    ("[merge, in.a, in.b]", {"a": [1], "b": [2, 3]}, [1, 2, 3]),
    ("[ensemble, in.a, in.b]", {"a": 1, "b": 4}, 2.5),
    ("[ensemble, in]", [1, 4], 2.5),
    ("[ensemble, in.a, in.b, {value: {weights: [3, 1]}}]", {"a": 1, "b": 5}, 2.0),
    ("[ensemble, in.a, in.b, {value: mean}]", {"a": [1, 2], "b": [3, 6]}, [2.0, 4.0]),
    ("[ensemble, in.a, in.b]", {"a": {"x": 1.0}, "b": {"x": 0.5, "y": 1.0}}, {"x": 0.75, "y": 0.5}),
    (
        "[ensemble, in.a, in.b]",
        {"a": [CAT, DOG], "b": [{**DOG, "probability": 1.0}]},
        [{"className": "dog", "probability": 0.6}, {"className": "cat", "probability": 0.4}],
    ),
    (
        "[ensemble, in.a, in.b]",
        {"a": [{"label": "x", "score": 1}], "b": [{"class": "x", "score": 0}]},
        [{"label": "x", "score": 0.5}],
    ),
    ("[ensemble, in, {value: vote}]", ["a", "b", "b"], "b"),
    ("[ensemble, in, {value: vote}]", ["b", "a"], "b"),
    ("[ensemble, in, {value: {method: vote, weights: [3, 1, 1]}}]", [True, False, False], True),
    ("[ensemble, in, {value: vote}]", [{"x": 0.9, "y": 0.1}, {"x": 0.4, "y": 0.6}, {"y": 1.0}], "y"),
    ("[ensemble, in, {value: vote}]", [[CAT, DOG], [CAT]], "cat"),
    ("[ensemble, in, {value: vote}]", [[1, 2], [1, 3], [0, 3]], [1, 3]),
    ("[ensemble, in, {value: vote}]", [[[0.1, 0.9]], [[0.2, 0.8]], [[0.9, 0.1]]], [1]),
    ("[unbatch, [batch, in.a, in.b]]", {"a": [1, 2], "b": [3, 4]}, [[1, 2], [3, 4]]),
    ("[unbatch, [batch, in]]", [1, 2], [1, 2]),
    ("[unbatch, in]", ["x"], ["x"]),
]


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("call", "body", "expected"), RESULTS)
def test_a_built_in_gives_its_result_without_a_call(drive: Drive, call: str, body: Any, expected: Any) -> None:
    (answer,) = drive(f"out: {call}", body).start()
    value = plain(answer["answer"])
    assert value == (pytest.approx(expected) if isinstance(expected, (float, dict)) else expected)


def test_the_mean_of_arrays_keeps_their_dtype(drive: Drive) -> None:
    body = {"a": np.array([1, 2], dtype=np.float32), "b": np.array([3, 6], dtype=np.float32)}
    (answer,) = drive("out: [ensemble, in.a, in.b]", body).start()
    assert answer["answer"].dtype == np.float32
    assert answer["answer"].tolist() == [2.0, 4.0]


WRONG = [
    ("[merge, in.a, in.b]", {"a": {}, "b": []}, "merge takes mappings only or lists only, not dict, list"),
    ("[merge, in]", 3, "merge takes mappings only or lists only, not int"),
    ("[ensemble, in]", [], "ensemble of nothing"),
    ("[ensemble, in]", [1, "a"], "ensemble takes numbers, tensors, scores or classifications of one kind, not int, str"),
    ("[ensemble, in]", [[1, 2], [1]], "ensemble takes tensors of one shape, not [2], [1]"),
    ("[ensemble, in]", [[[1], [1, 2]], [1]], "ensemble: lists that are no tensors"),
    ("[ensemble, in]", [{"a": "x"}], "ensemble: a mapping whose values are not all numbers"),
    ("[ensemble, in]", [[{"a": 1}]], "ensemble: a classification without className or label or class"),
    ("[ensemble, in]", [[{"label": 1, "score": 1}]], "ensemble: a classification needs a string as label and a number as score"),
    ("[ensemble, in]", [True, False], "ensemble: booleans have no mean, they can vote"),
    ("[ensemble, in, {value: {weights: [1, 2]}}]", [1, 2, 3], "ensemble: 2 weights for 3 members"),
    ("[ensemble, in, {value: vote}]", [{}], "ensemble: an empty mapping has no top label"),
    ("[batch, in]", [], "batch takes 1 to 10000 tensors, not 0"),
    ("[batch, in]", [[1], [1, 2]], "batch takes tensors of one shape, not [1], [2]"),
    ("[batch, in]", ["a", "b"], "batch takes tensors or even lists of numbers, not str"),
    ("[unbatch, in]", {"a": 1}, "unbatch takes a tensor with an axis to take apart, not dict"),
    ("[unbatch, in]", np.zeros(10_001), "unbatch makes at most 10000 items, not 10001"),
]


@pytest.mark.parametrize(("call", "body", "message"), WRONG, ids=range(len(WRONG)))
def test_a_built_in_refuses_what_it_does_not_take_and_names_the_node(drive: Drive, call: str, body: Any, message: str) -> None:
    assert drive(f"out: {call}", body).start() == [{"error": f'InvalidInputError: node "out": {message}'}]


VALUES = [
    None,
    True,
    3,
    -1,
    1e400,
    10**30,
    "x",
    b"x",
    [],
    {},
    [[]],
    [None],
    {"a": None},
    np.zeros((0, 3)),
    np.array(1.5),
    np.array(["a"], dtype=object),
    np.array([1 + 2j]),
]
CALLS = [
    "[merge, in.a, in.b]",
    "[ensemble, in.a, in.b]",
    "[ensemble, in.a, in.b, {value: vote}]",
    "[ensemble, in.a]",
    "[batch, in.a, in.b]",
    "[unbatch, in.a]",
    "[pick, in.a, {value: 'a[0].b || length(@)'}]",
    "[map, merge, in.a]",
    "[switch, in.a, {x: in.b}]",
]


@pytest.mark.parametrize("call", CALLS)
def test_built_ins_are_total(drive: Drive, call: str) -> None:
    for first in VALUES:
        for second in VALUES:
            (answer,) = drive(f"out: {call}", {"a": first, "b": second}).start()
            assert "answer" in answer or answer["error"].startswith("InvalidInputError")
