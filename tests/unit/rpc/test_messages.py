"""The compiled messages, and what requests of management mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc_tools import protoc

from flowyard.platform import rpc
from flowyard.platform.http.torchserve.parameters import Parameters
from flowyard.platform.rpc.management import parameters_of
from flowyard.platform.rpc.messages import MANAGEMENT, message_class
from flowyard.platform.rpc.open_inference import answer_of
from flowyard.schemas.errors import InternalError

ROOM = Path(rpc.__file__).parent


def test_the_compiled_messages_are_those_of_the_protos(tmp_path):
    files = ["inference.proto", "management.proto", "open_inference_grpc.proto", "google/rpc/error_details.proto"]
    compiled = tmp_path / "protos.binpb"
    known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOM / 'protos'}", f"-I{known}", "--include_imports", f"--descriptor_set_out={compiled}", *files]
    assert protoc.main(arguments) == 0
    assert compiled.read_bytes() == (ROOM / "protos.binpb").read_bytes(), "run make protos"


def given(name: str, **fields: object) -> Parameters:
    return parameters_of(message_class(f"{MANAGEMENT}.{name}")(**fields))


def test_what_is_empty_zero_or_negative_is_not_given():
    nothing = given("RegisterModelRequest", batch_size=0, initial_workers=-1, url="")
    assert [nothing.integer(name) for name in ("batch_size", "initial_workers", "startup_timeout")] == [None] * 3
    assert nothing.text("url", "handler") is None
    assert nothing.flag("synchronous", default=True) is False
    said = given("RegisterModelRequest", batch_size=2, url="x.mar", synchronous=True)
    assert (said.integer("batch_size"), said.text("url"), said.flag("synchronous", default=False)) == (2, "x.mar", True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"outputs": 1}',
        b'{"outputs": [{"name": "a", "datatype": "FP16", "shape": [1], "data": [1.0]}]}',
        b'{"outputs": [{"name": "a", "datatype": "INT32", "shape": [1], "data": ["x"]}]}',
        b'{"outputs": [{"name": "a", "datatype": "INT32", "shape": [1], "data": [4294967296]}]}',
        b'{"outputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": [1]}]}',
        b'{"outputs": [{"name": "a", "datatype": "INT32", "shape": ["x"], "data": [1]}]}',
    ],
)
def test_an_answer_that_is_none_of_the_protocol(body):
    with pytest.raises(InternalError, match="the model's answer is none of the Open Inference Protocol"):
        answer_of(body)
