"""What every adapter promises, run against each of them with a real model."""

import sys

import numpy as np
import pytest

from flowyard.engines import discovery
from flowyard.engines.base import Call, ModelSource
from flowyard.schemas.devices import CPU, Device
from flowyard.schemas.errors import FlowyardError, InvalidInputError, InvalidModelError
from flowyard.schemas.values import decode, encode

ROW = [1.0, 0.0, 2.0]
EXPECTED = [11.0, 14.0]
GPU = Device("gpu", 7)


@pytest.fixture
def model(kind):
    loaded = discovery.find(kind.engine).load(kind.source(), CPU)
    yield loaded
    loaded.unload()
    for name in ("steps", "model", "net"):
        sys.modules.pop(name, None)


@pytest.fixture
def tensor_model(tensor_kind):
    loaded = discovery.find(tensor_kind.engine).load(tensor_kind.source(), CPU)
    yield loaded
    loaded.unload()
    sys.modules.pop("net", None)


def call(*args):
    """A call as it arrives in a worker: its arrays are read-only."""
    return Call("", [decode(encode(arg)) for arg in args])


def rows(count, start=0):
    return np.arange(start, start + 3 * count, dtype=np.float32).reshape(count, 3)


def test_recognises_its_own_file(kind):
    engine = discovery.find(kind.engine)
    place = kind.root / kind.path.replace("steps:Model", "steps.py")
    assert engine.recognise(place) == place
    assert engine.recognise(kind.root / "absent") is None


def test_a_single_call(model):
    (outcome,) = model.predict([call(np.array([ROW], dtype=np.float32))])
    np.testing.assert_array_equal(outcome, [EXPECTED])


def test_a_batch_equals_single_calls(model):
    calls = [call(rows(1)), call(rows(2, 3)), call(rows(1, 9))]
    together = model.predict(calls)
    for one, outcome in zip(calls, together, strict=True):
        np.testing.assert_array_equal(outcome, model.predict([one])[0])
    again = model.predict(list(reversed(calls)))
    for first, second in zip(together, reversed(again), strict=True):
        np.testing.assert_array_equal(first, second)


def test_one_bad_call_fails_alone(model):
    good, bad = call(rows(1)), call(np.zeros((1, 5), dtype=np.float32))
    outcomes = model.predict([good, bad, good, call("text")])
    assert isinstance(outcomes[1], FlowyardError)
    assert isinstance(outcomes[3], FlowyardError)
    for outcome in (outcomes[0], outcomes[2]):
        np.testing.assert_array_equal(outcome, [[13.0, 16.0]])


def test_results_can_be_passed_on(model):
    (outcome,) = model.predict([call(rows(2))])
    assert decode(encode(outcome)).shape == (2, 2)


def test_a_missing_file_is_refused(kind):
    source = ModelSource(root=str(kind.root), path="absent" + kind.path[-5:], spec=kind.spec)
    with pytest.raises(InvalidModelError):
        discovery.find(kind.engine).load(source, CPU)


def test_signature(tensor_model, tensor_kind):
    (spec,) = tensor_model.signature.inputs
    assert spec.name == "x"
    if tensor_kind.spec.inputs or tensor_kind.path.endswith(("onnx", "pt2")):
        assert (spec.dtype, spec.shape) == ("float32", (-1, 3))


def test_by_name_and_wrapped(tensor_model):
    for argument in ({"x": [ROW]}, {"inputs": [ROW]}, {"data": {"x": [ROW]}}, {"instances": [ROW], "parameters": {}}):
        (outcome,) = tensor_model.predict([call(argument)])
        np.testing.assert_array_equal(outcome, [EXPECTED])


def test_a_row_gives_a_row(tensor_model):
    outcomes = tensor_model.predict([call(ROW), call([ROW]), call(ROW)])
    assert [outcome.shape for outcome in outcomes] == [(2,), (1, 2), (2,)]
    assert outcomes[0].tolist() == outcomes[2].tolist() == EXPECTED


def test_bytes_are_refused_with_advice(tensor_model):
    (outcome,) = tensor_model.predict([call(b"\x89PNG")])
    assert isinstance(outcome, InvalidInputError)
    assert 'input "x"' in outcome.message
    assert "4 bytes" in outcome.message
    assert "send JSON" in outcome.message


def test_a_device_that_is_not_there(tensor_kind):
    with pytest.raises(InvalidModelError, match="gpu7"):
        discovery.find(tensor_kind.engine).load(tensor_kind.source(), GPU)
