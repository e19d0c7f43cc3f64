"""Fused nodes: what a worker of functions computes in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from flowyard.engines.base import Call, Outcome, Stream
from flowyard.engines.fused import FusedNodes, Several
from flowyard.engines.rows import RowBatcher
from flowyard.schemas.errors import FlowyardError, InternalError, InvalidInputError, InvalidModelError, NodeError
from flowyard.schemas.frames import Context, WireRefused, WireSeveral
from flowyard.schemas.fusion import FUSED, LOAD_FUSED, FusedModel, FusedNode, Fusion
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import Signature, TensorSpec
from flowyard.schemas.values import Encoded, decode

MODEL = FusedModel("OnnxRuntime", "/", "m.onnx", ModelSpec(), 1)


class Functions:
    """Functions by name; notes the calls of each batch."""

    signature = None

    def __init__(self, **functions: Any) -> None:
        self.functions = functions
        self.batches: list[list[str]] = []

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        self.batches.append([call.callee for call in batch])
        return [self._one(call) for call in batch]

    def _one(self, call: Call) -> Outcome:
        try:
            return self.functions[call.callee](*call.args)
        except FlowyardError as error:
            return error

    def unload(self) -> None:
        self.functions = {}


class Model:
    """Doubles; notes what it got."""

    signature = None

    def __init__(self) -> None:
        self.got: list[list[Any]] = []
        self.loaded = True

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        self.got.append([call.args[0] for call in batch])
        return [np.asarray(call.args[0], np.float32) * 2 for call in batch]

    def unload(self) -> None:
        self.loaded = False


def fused(functions: Functions, *nodes: FusedNode, model: Any = None) -> FusedNodes:
    def load(what: FusedModel) -> Any:
        assert what == MODEL
        if isinstance(model, Exception):
            raise model
        return model

    return FusedNodes(functions, Fusion(nodes, {"m": MODEL} if model is not None else {}), load)


def values(outcome: Outcome) -> list[Any]:
    """What a call gives back, in either form."""
    if isinstance(outcome, WireSeveral):
        return [decode(Encoded(result.tree)) for result in outcome.results]
    assert isinstance(outcome, Several), outcome
    return [decode(result) for result in outcome.results]


def call(*args: Any) -> Call:
    return Call(FUSED, list(args), Context(request_id="r"))


F = FusedNode("f", "function", (-1,), False)
M = FusedNode("m", "model", (0,), True)


def test_a_batch_goes_from_node_to_node_at_once() -> None:
    functions, model = Functions(f=lambda value: np.full((1, 3), value, np.float32)), Model()
    nodes = fused(functions, F, M, model=model)
    outcomes = nodes.predict([call(1), call(2)])
    assert [values(outcome)[0].tolist() for outcome in outcomes] == [[[2, 2, 2]], [[4, 4, 4]]]
    assert (functions.batches, len(model.got)) == ([["f", "f"]], 1)
    assert len(nodes.times) == 2
    assert all(node.began <= node.ended and node.cpu_s >= 0 for node in nodes.times)


def test_functions_are_called_by_themselves_as_ever_in_the_same_batch() -> None:
    functions = Functions(f=lambda value: value + 1, g=lambda value: value * 10)
    nodes = fused(functions, F, FusedNode("g", "function", (0,), True))
    outcomes = nodes.predict([call(1), Call("g", [5]), call(2)])
    assert (values(outcomes[0]), outcomes[1], values(outcomes[2])) == ([20], 50, [30])
    assert nodes.predict([Call("g", [5])]) == [50]
    assert nodes.times == ()


def test_a_call_that_fails_fails_alone_and_says_at_which_node() -> None:
    def picky(value: int) -> int:
        if value == 2:
            raise NodeError("no")
        return value

    functions = Functions(f=lambda value: value + 1, g=picky, h=lambda value: value)
    nodes = fused(functions, F, FusedNode("g", "function", (0,), False), FusedNode("h", "function", (1,), True))
    good, bad = nodes.predict([call(0), call(1)])
    assert values(good) == [1]
    assert isinstance(bad, NodeError)
    assert (bad.message, bad.fused_node) == ("no", 1)
    assert functions.batches[-1] == ["h"]
    assert isinstance(nodes.predict([call(1)])[0], NodeError)


def test_what_one_node_does_to_a_value_no_other_sees() -> None:
    def spoil(value: dict[str, Any]) -> Any:
        value["list"].append("spoilt")
        return value

    kept: dict[str, Any] = {"list": []}
    nodes = fused(
        Functions(give=lambda value: kept, spoil=spoil, look=lambda one, other: [one, other]),
        FusedNode("give", "function", (-1,), False),
        FusedNode("spoil", "function", (0,), True),
        FusedNode("spoil", "function", (-1,), False),
        FusedNode("look", "function", (0, -1), True),
    )
    (outcome,) = nodes.predict([call({"list": [1]})])
    assert values(outcome) == [{"list": ["spoilt"]}, [{"list": []}, {"list": [1]}]]
    assert kept == {"list": []}


def test_values_change_on_their_way_as_between_workers() -> None:
    seen: list[Any] = []
    nodes = fused(
        Functions(f=lambda value: (np.float64(1.5), np.zeros(2), value), g=seen.append),
        F,
        FusedNode("g", "function", (0,), True),
    )
    nodes.predict([call("x")])
    ((number, array, text),) = seen
    assert (type(seen[0]), type(number), number, text) == (list, float, 1.5, "x")
    assert not array.flags.writeable


def test_what_is_no_value_fails_its_node() -> None:
    nodes = fused(Functions(f=lambda value: object(), g=lambda value: value), F, FusedNode("g", "function", (0,), True))
    (error,) = nodes.predict([call(1)])
    assert isinstance(error, NodeError)
    assert error.fused_node == 0
    assert error.message.startswith("returned a object")


def test_an_array_that_is_not_contiguous_arrives_whole() -> None:
    model = Model()
    nodes = fused(Functions(f=lambda value: np.arange(6, dtype=">f4").reshape(2, 3).T), F, M, model=model)
    (outcome,) = nodes.predict([call(0)])
    assert values(outcome)[0].tolist() == [[0, 6], [2, 8], [4, 10]]


def test_functions_without_arguments_and_models_of_several() -> None:
    nodes = fused(Functions(f=lambda: 3, g=lambda one, other: one + other), FusedNode("f", "function", (), False),
                  FusedNode("g", "function", (0, -1), True))  # fmt: skip
    assert [values(one) for one in nodes.predict([call(1), call(2)])] == [[4], [5]]


class Pieces(Stream):
    def __init__(self, *pieces: Any) -> None:
        self.left = iter(pieces)

    def __next__(self) -> Any:
        piece = next(self.left)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        self.left = iter(())


def test_pieces_are_collected_on_their_way_and_handed_on_as_the_answer() -> None:
    functions = Functions(f=lambda value: Pieces(1, 2), g=lambda value: Pieces(value, 3))
    (stream,) = fused(functions, F, FusedNode("g", "function", (0,), True)).predict([call(0)])
    assert isinstance(stream, Stream)
    assert list(stream) == [[1, 2], 3]
    (error,) = fused(Functions(f=lambda value: Pieces(1, NodeError("no"))), F, M, model=Model()).predict([call(0)])
    assert isinstance(error, NodeError)
    assert error.fused_node == 0


@pytest.mark.parametrize("failure", [InvalidModelError("no such file"), MemoryError(), ValueError("x")])
def test_where_a_model_cannot_be_loaded_nothing_is_computed(failure: Exception) -> None:
    functions = Functions(f=lambda value: value)
    nodes = fused(functions, F, M, model=failure)
    assert nodes.predict([Call(LOAD_FUSED, []), call(1)]) == [WireRefused(), WireRefused()]
    assert functions.batches == []
    assert nodes.predict([Call("f", [1])]) == [1]


def test_models_are_loaded_once_and_unloaded() -> None:
    model = Model()
    nodes = fused(Functions(f=lambda value: value), F, M, model=model)
    assert nodes.predict([Call(LOAD_FUSED, [])]) == [True]
    assert model.got == []
    nodes.unload()
    assert not model.loaded


def test_an_engine_that_breaks_fails_its_batch() -> None:
    class Broken(Model):
        def predict(self, batch: Sequence[Call]) -> list[Outcome]:
            raise RuntimeError("broken")

    nodes = fused(Functions(f=lambda value: value), F, M, model=Broken())
    assert [type(outcome) for outcome in nodes.predict([call(1), call(2)])] == [InternalError, InternalError]


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (3,), (), (0, 3)])
@pytest.mark.parametrize("weights", [None, (1.0, 3.0)])
def test_the_means_of_a_batch_are_those_of_its_calls(shape: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
    random = np.random.default_rng(7)
    arrays = [[random.standard_normal(shape).astype(np.float32) for _ in range(2)] for _ in range(5)]
    nodes = [FusedNode("f", "function", (-1,), False), FusedNode("f", "function", (-2,), False),
             FusedNode("mean", "ensemble", (0, 1), True, weights)]  # fmt: skip
    together = fused(Functions(f=lambda value: value), *nodes).predict([call(*pair) for pair in arrays])
    for outcome, pair in zip(together, arrays, strict=True):
        (got,) = values(outcome)
        (alone,) = values(fused(Functions(f=lambda value: value), *nodes).predict([call(*pair)])[0])
        assert (got.shape, got.dtype) == (alone.shape, alone.dtype)
        np.testing.assert_array_equal(got, alone)


def test_an_ensemble_is_made_of_what_models_and_functions_give() -> None:
    functions, model = Functions(f=lambda value: np.full((1, 2), value, np.float32), g=lambda value: value), Model()
    nodes = [F, FusedNode("m", "model", (0,), False), FusedNode("mean", "ensemble", (0, 1), True, (1.0, 3.0))]
    assert values(fused(functions, *nodes, model=model).predict([call(2)])[0])[0].tolist() == [[3.5, 3.5]]
    votes = fused(functions, FusedNode("g", "function", (-1,), False), FusedNode("vote", "ensemble", (0,), True))
    good, bad = votes.predict([call(["a", "b", "b"]), call([])])
    assert values(good) == ["b"]
    assert isinstance(bad, InvalidInputError)
    assert (bad.message, bad.fused_node) == ("ensemble of nothing", 1)
    (broken,) = votes.predict([call([{"a": "x"}, {"a": None}])])
    assert isinstance(broken, InvalidInputError)


class TensorRows:
    """A model of tensors: doubles rows of three numbers, and notes how many it got at a time."""

    def __init__(self, *, fails: bool = False, strings: bool = False) -> None:
        spec = TensorSpec(name="x", dtype="float32", shape=(-1, 3))
        self.signature = Signature(inputs=(spec,), outputs=(spec,))
        self.runs: list[int] = []

        def run(arrays):
            self.runs.append(len(arrays[0]))
            if fails and len(arrays[0]) > 1:
                raise ValueError("only one at a time")
            return {"y": arrays[0].astype(str).astype(object) if strings else arrays[0] * 2}

        self.rows = RowBatcher(run, lambda error: NodeError(str(error)), self.signature, row_wise=True)

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        return self.rows.predict(batch)

    def unload(self) -> None:
        self.runs = []


def rows_of_calls(nodes, functions, given, **models):
    fusion = Fusion(nodes, dict.fromkeys(models, MODEL))
    loading = iter(models.values())
    fused = FusedNodes(Functions(**functions), fusion, lambda _: next(loading))
    outcomes = fused.predict([Call(FUSED, [value]) for value in given])
    return [str(one) if isinstance(one, FlowyardError) else [result.tolist() for result in values(one)] for one in outcomes]


def row(value):
    if value == "ragged":
        return np.ones((2, 3), np.float32)
    if value == "list":
        return [[1.0, 1.0, 1.0]]
    if value == "bad":
        raise InvalidInputError("a bad one")
    return np.full((1, 3), value, np.float32)


TWO_MODELS = (
    FusedNode("row", "function", (-1,), False),
    FusedNode("a", "model", (0,), False),
    FusedNode("b", "model", (0,), True),
    FusedNode("mean", "ensemble", (1, 2), True, (1.0, 3.0)),
)


@pytest.mark.parametrize(
    "values",
    [[1], [1, 2, 3], [1, "ragged", 3], ["ragged", "ragged"], [1, "list"], ["list", "list"], [1, "bad", 3], ["bad"], [0.1] * 9],
)
@pytest.mark.parametrize("fails", [False, True])
def test_arrays_of_one_shape_go_from_node_to_node_as_one_with_the_results_that_each_has_alone(values, fails):
    together = rows_of_calls(TWO_MODELS, {"row": row}, values, a=TensorRows(fails=fails), b=TensorRows())
    alone = [rows_of_calls(TWO_MODELS, {"row": row}, [value], a=TensorRows(fails=fails), b=TensorRows())[0] for value in values]
    assert together == alone


def test_each_model_runs_once_for_a_batch_of_arrays_of_one_shape():
    a, b = TensorRows(), TensorRows()
    results = rows_of_calls(TWO_MODELS, {"row": row}, [1, 2, 3], a=a, b=b)
    assert (a.runs, b.runs) == ([3], [3])
    assert results == [[[[2.0 * value] * 3]] * 2 for value in (1, 2, 3)]


def test_strings_go_from_node_to_node_one_by_one():
    nodes = (FusedNode("row", "function", (-1,), False), FusedNode("a", "model", (0,), True))
    assert rows_of_calls(nodes, {"row": row}, [1, 2], a=TensorRows(strings=True)) == [[[["1.0"] * 3]], [[["2.0"] * 3]]]
