"""Calls that are alike, computed as one array: they get what they would have got in the usual way, or are left to it."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyard.engines import worker
from flowyard.engines.alike import AlikeCalls
from flowyard.engines.rows import RowBatcher
from flowyard.platform.http.bodies import payload_of
from flowyard.schemas import frames
from flowyard.schemas.errors import FlowyardError, InvalidInputError, NodeError
from flowyard.schemas.payload import Payload
from flowyard.schemas.tensors import Signature, TensorSpec
from flowyard.schemas.values import aligned_memory

#: Numbers of a row: of small ones the contents go in the tree.
WIDTHS = (16, 80)
USUAL = worker._Decoding(own=False, messages=False, json_as_text=True)


class Model:
    """Gives each row's first `out` numbers, doubled; with `fails`, none."""

    def __init__(self, out=3, *, width=80, declared=True, max_rows=None, dtype="float32", outputs=1, fails=False, extra=0):
        signature = Signature(
            inputs=(TensorSpec(name="x", dtype=dtype, shape=(-1, width)),),
            outputs=tuple(TensorSpec(name=f"y{at}", dtype=dtype) for at in range(outputs)),
        )
        self.runs = []
        self.signature = signature

        def run(arrays):
            (array,) = arrays
            self.runs.append(array.shape)
            if fails:
                raise ValueError("no")
            result = np.concatenate([array[:, :1] * 2] * out, axis=1)
            result = np.concatenate([result, np.zeros((extra, out), result.dtype)]) if extra else result
            return {f"y{at}": result for at in range(outputs)}

        self.rows = RowBatcher(run, lambda error: NodeError(str(error)), signature, row_wise=declared, max_rows=max_rows)

    def predict(self, batch):
        return self.rows.predict(batch)


def frame_of(payloads):
    """The calls and the body, as a worker receives them."""
    calls, buffers = [], []
    for payload in payloads:
        encoded = payload.encoded()
        calls.append(frames.WireCall("", (frames.WireValue(encoded.tree, tuple(map(len, encoded.buffers))),), frames.Context()))
        buffers += encoded.buffers
    packed = b"".join(map(bytes, frames.pack(frames.Predict(1, tuple(calls)), buffers)))
    head, size = frames.read_prefix(packed[: frames.PREFIX_BYTES])
    message = frames.unpack_to_worker(packed[frames.PREFIX_BYTES : frames.PREFIX_BYTES + head])
    body = aligned_memory(size)
    body[:] = packed[frames.PREFIX_BYTES + head :]
    return message, body


def usual(model, message, body):
    outcomes, _, _ = worker.compute(model, worker._calls(message, body, None, USUAL))
    return worker._results(outcomes, None)


def together(model, message, body):
    computed = AlikeCalls(model).compute(message.calls, body)
    return None if computed is None else worker._results(computed.outcomes, None)


def plain(results):
    wire, buffers = results
    return msgspec.msgpack.encode(wire), [bytes(buffer) for buffer in buffers]


numbers = st.floats(-100, 100, width=32)


@st.composite
def payloads(draw, width):
    rows = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["tensor", "json", "json", "flat", "other"]))
    if kind == "other":
        return draw(st.sampled_from([Payload.of(b"x" * 2000), payload_of("application/json", b"[1,2"), Payload.of({"x": 1})]))
    if kind == "flat":
        return payload_of("application/json", json.dumps([draw(numbers)] * width).encode())
    values = np.full((rows, width), draw(numbers), draw(st.sampled_from([np.float32, np.float32, np.float64])))
    return Payload.of(values) if kind == "tensor" else payload_of("application/json", json.dumps(values.tolist()).encode())


@st.composite
def batches(draw):
    width = draw(st.sampled_from(WIDTHS))
    if draw(st.booleans()):
        return width, [draw(payloads(width))] * draw(st.integers(2, 5))
    return width, draw(st.lists(payloads(width), min_size=1, max_size=5))


@given(batches(), st.sampled_from([1, 3, 100]), st.sampled_from([None, 4]))
def test_calls_get_what_they_would_have_got_alone(batch, out, max_rows):
    width, values = batch
    message, body = frame_of(values)
    found = together(Model(out, width=width, max_rows=max_rows), message, body)
    if found is not None:
        assert plain(found) == plain(usual(Model(out, width=width, max_rows=max_rows), message, body))


@pytest.mark.parametrize("out", [3, 100])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["tensor", "json", "flat"])
def test_the_usual_batch_is_one_run(kind, width, rows, out):
    arrays = [np.full((rows, width), number, np.float32) for number in range(4)]
    values = {
        "tensor": [Payload.of(array) for array in arrays],
        "json": [payload_of("application/json", json.dumps(array.tolist()).encode()) for array in arrays],
        "flat": [payload_of("application/json", json.dumps({"x": array[0].tolist()}).encode()) for array in arrays],
    }[kind]
    model = Model(out, width=width)
    message, body = frame_of(values)
    found = together(model, message, body)
    assert found is not None
    assert model.runs == [(4 if kind == "flat" else 4 * rows, width)]
    assert plain(found) == plain(usual(Model(out, width=width), message, body))


@pytest.mark.parametrize(
    "model",
    [
        Model(declared=False),
        Model(max_rows=3),
        Model(dtype="float64"),
        Model(outputs=2),
        Model(extra=1),
        Model(fails=True),
    ],
    ids=["unknown", "too many rows", "other dtype", "two outputs", "other rows", "fails"],
)
def test_what_is_not_certain_is_left_to_the_usual_way(model):
    message, body = frame_of([Payload.of(np.ones((1, 80), np.float32))] * 4)
    assert together(model, message, body) is None
    outcomes, _, _ = worker.compute(model, worker._calls(message, body, None, USUAL))
    assert len(outcomes) == 4


def test_rows_are_joined_once_the_model_is_known_to_work_by_rows():
    model = Model(declared=False)
    message, body = frame_of([Payload.of(np.ones((1, 80), np.float32))] * 4)
    assert together(model, message, body) is None
    usual(model, message, body)
    assert together(model, message, body) is not None


def test_one_broken_request_does_not_touch_the_others():
    texts = [b"[[" + b",".join([b"1"] * 80) + b"]]"] * 2
    message, body = frame_of([payload_of("application/json", text) for text in (texts[0], b"[1],[2]", texts[1])])
    model = Model()
    assert together(model, message, body) is None
    (first, broken, last), _, _ = worker.compute(model, worker._calls(message, body, None, USUAL))
    assert isinstance(broken, InvalidInputError)
    assert not isinstance(first, FlowyardError)
    assert np.array_equal(first, last)
