"""Handlers written for DJL Serving: how they are initialised, called, batched and streamed, and how they fail."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
import threading

import numpy as np
import pytest

from flowyard.engines.base import Call, ModelSource
from flowyard.engines.djl import loader
from flowyard.schemas.codecs import ndlist
from flowyard.schemas.devices import CPU
from flowyard.schemas.errors import EngineOutOfMemoryError, InvalidInputError, InvalidModelError, NodeError, OutOfMemoryError
from flowyard.schemas.messages import Message

ECHO = """
from djl_python import Input, Output

calls = []

def handle(inputs: Input):
    if inputs.is_empty():
        return None
    calls.append(inputs)
    output = Output().add_property("x-batch", inputs.get_batch_size())
    for index, member in enumerate(inputs.get_batches()):
        if member.contains_key("fail"):
            raise ValueError("no")
        output.add(member.get_as_bytes(), batch_index=index) if inputs.is_batch() else output.add(member.get_as_bytes())
    return output
"""


@pytest.fixture
def load(tmp_path):
    path, modules, loaded = list(sys.path), set(sys.modules), []

    def write_and_load(code, properties=None, name="model.py"):
        (tmp_path / name).write_text(textwrap.dedent(code))
        source = ModelSource(root=str(tmp_path), path=str(tmp_path / name), properties=properties or {})
        loaded.append(loader.load(source, CPU))
        return loaded[-1]

    yield write_and_load
    for model in loaded:
        model.unload()
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        if module.startswith("model"):
            del sys.modules[module]


def call(data=b"", callee="", contents=(), **properties):
    return Call(callee, [Message(properties=tuple(properties.items()), contents=(*contents, ("data", data)))])


def test_a_request_as_the_handler_sees_it(load, tmp_path):
    model = load(
        """
        from djl_python import Output

        def handle(inputs):
            if inputs.is_empty():
                return None
            return Output().add_as_json({
                "properties": inputs.get_properties(), "keys": inputs.get_content().get_keys(), "q": inputs.get_as_string("q"),
                "data": inputs.get_as_string(), "type": inputs.get_property("CONTENT-TYPE"), "size": inputs.get_batch_size(),
                "function": inputs.get_function_name(), "kind": type(inputs.get_as_bytes()).__name__,
            })
        """
    )
    (answer,) = model.predict([call(b"hello", contents=(("q", b"1"), ("q", b"2")), **{"Content-Type": "text/plain"})])
    assert json.loads(answer.data) == {
        "properties": {
            "Content-Type": "text/plain",
            "device_id": "-1",
            "cluster_size": 1,
            "model_dir": str(tmp_path),
            "handler": "handle",
        },
        "keys": ["q", "q", "data"],
        "q": "1",
        "data": "hello",
        "type": "text/plain",
        "size": 1,
        "function": "handle",
        "kind": "bytearray",
    }


def test_the_first_call_has_no_content_but_the_options(load):
    model = load(
        """
        from djl_python import Output
        seen = []

        def go(inputs):
            if inputs.is_empty():
                seen.append(dict(inputs.get_properties()))
                return None
            return Output().add_as_json(seen)
        """,
        {"handler": "go", "model_id": "m", "dtype": "fp16"},
    )
    (answer,) = model.predict([call(b"x")])
    (seen,) = json.loads(answer.data)
    assert seen.items() >= {"model_id": "m", "dtype": "fp16", "handler": "go", "device_id": "-1"}.items()


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("def handle(inputs): raise ValueError('no')", InvalidModelError, "invoke handler failure: model.py:1: ValueError: no"),
        ("def handle(inputs): raise MemoryError", EngineOutOfMemoryError, "OOM"),
        ("from djl_python import Output\ndef handle(i): return Output(507, 'full')", EngineOutOfMemoryError, "OOM"),
        (
            "from djl_python import Output\ndef handle(i): return Output().error('bad')",
            InvalidModelError,
            "invoke handler failure",
        ),
        ("import nothing_of_the_kind\ndef handle(i): ...", InvalidModelError, "nothing_of_the_kind"),
        ("def other(i): ...", InvalidModelError, "model.py has no function 'handle'"),
        ("def handle(", InvalidModelError, "model.py:1: SyntaxError"),
        ("def handle(i): raise SystemExit(3)", InvalidModelError, "SystemExit"),
    ],
)
def test_what_fails_while_loading(load, code, error, words):
    with pytest.raises(error) as caught:
        load(code)
    assert type(caught.value) is error
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("return None", Message(204, "No content")),
        ("return Output().add('a').add('b', 'data')", Message(200, "OK", (), ((None, b"a"), ("data", b"b")))),
        ("return Output(201, 'made').add_property('n', 1)", Message(201, "made", (("n", "1"),))),
        ("return Output().add({'a': [1, 2.5]})", Message(200, "OK", (), ((None, b'{\n  "a":[\n    1,\n    2.5\n  ]\n}'),))),
        ("return Output(404, None)", Message(404, "")),
    ],
)
def test_answers(load, code, answer):
    model = load(f"from djl_python import Output\ndef handle(inputs):\n    {code} if not inputs.is_empty() else None")
    assert model.predict([call(b"x")]) == [answer]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise ValueError('boom')", "boom"),
        ("return 'text'", "Invalid output type: <class 'str'>"),
        ("raise SystemExit('bye')", "bye"),
        ("return Output().add_as_json(float('nan'))", "Out of range float values are not JSON compliant"),
        ("return inputs.get_as_json()", "Expecting value"),
        ("return inputs.get_as_bytes('q')", "q"),
    ],
)
def test_what_goes_wrong_in_a_handler_is_told_as_djl_tells_it(load, code, error):
    model = load(f"from djl_python import Output\ndef handle(inputs):\n    if inputs.is_empty(): return None\n    {code}")
    (answer,) = model.predict([call(b"x")])
    assert (answer.code, answer.get("content-type")) == (424, "application/json")
    told = json.loads(answer.data)
    assert (told["code"], told["message"]) == (424, "invoke handler failure")
    assert error in told["error"]


@pytest.mark.parametrize("raised", ["MemoryError()", "RuntimeError('CUDA error: out of memory')"])
def test_out_of_memory(load, raised):
    model = load(f"def handle(inputs):\n    if inputs.is_empty(): return None\n    raise {raised}")
    (outcome,) = model.predict([call(b"x")])
    assert isinstance(outcome, OutOfMemoryError)


def test_a_batch_is_one_call_for_a_handler_that_knows_batches(load):
    model = load(ECHO)
    answers = model.predict([call(b"a"), call(b"b", **{"x-n": "2"})])
    assert [answer.data for answer in answers] == [b"a", b"b"]
    assert {answer.get("x-batch") for answer in answers} == {"2"}
    (inputs,) = sys.modules["model"].calls
    assert inputs.get_properties().items() >= {"batch_size": "2", "batch_001.x-n": "2"}.items()
    assert inputs.get_content().get_keys() == ["batch_000.data", "batch_001.data"]


def test_one_that_fails_does_not_take_its_batch_along(load):
    answers = load(ECHO).predict([call(b"a"), call(b"b", contents=(("fail", b"1"),)), call(b"c")])
    assert [answer.code for answer in answers] == [200, 424, 200]
    assert [answers[0].data, answers[2].data] == [b"a", b"c"]


def test_handlers_that_know_no_batches_get_their_requests_one_by_one(load):
    model = load(
        """
        from djl_python import Output

        def handle(inputs):
            return None if inputs.is_empty() else Output().add(inputs.get_as_string().upper())
        """
    )
    assert [answer.data for answer in model.predict([call(b"a"), call(b"b")])] == [b"A", b"B"]


def test_a_batch_that_is_not_answered_in_full_is_done_one_by_one(load):
    model = load(
        """
        from djl_python import Output

        def handle(inputs):
            if inputs.is_empty():
                return None
            first = inputs.get_batches()[0]
            return Output().add(first.get_as_bytes(), batch_index=0 if inputs.is_batch() else None)
        """
    )
    assert [answer.data for answer in model.predict([call(b"a"), call(b"b")])] == [b"a", b"b"]


def test_another_function_by_name(load):
    model = load("def handle(i): ...\ndef extra(i):\n    from djl_python import Output\n    return Output(message='extra')")
    found, missing = model.predict([call(callee="extra"), call(callee="none")])
    assert found.reason == "extra"
    assert isinstance(missing, InvalidInputError)


def test_what_is_no_message_is_refused(load):
    (outcome,) = load(ECHO).predict([Call("", [{"a": 1}])])
    assert isinstance(outcome, InvalidInputError)


def test_a_stream_begins_with_status_and_headers(load):
    model = load(
        """
        from djl_python import Output
        done = []

        def handle(inputs):
            if inputs.is_empty():
                return None
            output = Output(201).add_property("content-type", "text/x")
            formatter = None if inputs.contains_key("plain") else str.upper
            return output.add_stream_content(iter(["a", "b"]), formatter).finalize(done.append, 1)
        """
    )
    (stream,) = model.predict([call()])
    assert list(stream) == [Message(201, "OK", (("content-type", "text/x"),)), b"A", b"B"]
    assert sys.modules["model"].done == [1]
    (stream,) = model.predict([call(contents=(("plain", b"1"),))])
    assert stream.collect() == Message(201, "OK", (("content-type", "text/x"),), (("data", b"ab"),))


def test_a_stream_in_lines_of_json_and_one_that_breaks(load):
    model = load(
        """
        from djl_python import Output

        def pieces():
            yield "a"
            yield b"raw"
            yield {"n": 1}
            raise ValueError("broken")

        def handle(inputs):
            if inputs.is_empty():
                return None
            if inputs.contains_key("raw"):
                return Output().add_stream_content(pieces(), None)
            return Output().add_stream_content(iter(["x"]))
        """
    )
    (stream,) = model.predict([call()])
    assert list(stream)[1:] == [b'{"outputs": "x"}\n']
    (stream,) = model.predict([call(contents=(("raw", b"1"),))])
    assert [next(stream) for _ in range(4)][1:] == [b"a", b"raw", b'{\n  "n":1\n}']
    with pytest.raises(NodeError, match="ValueError: broken"):
        next(stream)


def test_arrays_images_and_tables(load):
    model = load(
        """
        from djl_python import Output
        from djl_python.encode_decode import decode, encode

        def handle(inputs):
            if inputs.is_empty():
                return None
            data = decode(inputs, inputs.get_property("content-type"))
            output = Output()
            encode(output, data["inputs"], inputs.get_property("accept"))
            return output
        """
    )
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    (answer,) = model.predict([call(ndlist.encode([array]), **{"content-type": "tensor/ndlist", "accept": "tensor/ndlist"})])
    assert answer.get("content-type") == "tensor/ndlist"
    assert np.array_equal(ndlist.decode(answer.data), array)
    (answer,) = model.predict([call(b"inputs\na\nb\n", **{"content-type": "text/csv", "accept": "application/json"})])
    assert json.loads(answer.data) == ["a", "b"]
    (answer,) = model.predict([call(b"a,b\n1,2\n", **{"content-type": "text/csv"})])
    assert "header line" in json.loads(answer.data)["error"]


ASYNC = """
import asyncio
import json

from djl_python import Output
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output

together = asyncio.Event()
here = 0

async def tokens(count):
    for number in range(count):
        yield create_stream_chunk_output({"n": number}, number == count - 1)

async def handle(batch):
    global here
    if batch.is_empty():
        return None
    (inputs,) = batch.get_batches()
    what = inputs.get_as_string()
    if what == "wait":
        here += 1
        if here == 3:
            together.set()
        await asyncio.wait_for(together.wait(), 20)
    if what.isdigit():
        return tokens(int(what))
    if what == "fail":
        raise ValueError("no")
    if what == "code":
        return create_non_stream_output("", error="bad", code=400)
    if what == "plain":
        return Output().add("as it is")
    return create_non_stream_output({"did": what}, properties={"x-a": 1})
"""


def test_asynchronous_handlers_of_a_batch_are_awaited_together(load):
    answers = load(ASYNC, {"async_mode": "true"}).predict([call(b"wait") for _ in range(3)])
    assert [json.loads(answer.data) for answer in answers] == [{"did": "wait"}] * 3
    assert answers[0].properties == (("Content-Type", "application/json"), ("x-a", "1"))


def test_asynchronous_streams_and_failures(load):
    model = load(ASYNC, {"async_mode": "true"})
    whole, failed, code, plain = model.predict([call(b"2"), call(b"fail"), call(b"code"), call(b"plain")])
    assert (whole.get("content-type"), whole.data) == ("application/jsonlines", b'{"n": 0}\n{"n": 1}\n')
    assert (failed.code, json.loads(failed.data)["message"]) == (424, "Async Inference Failure invoke handler failure")
    assert json.loads(failed.data)["error"] == "no"
    assert (code.code, json.loads(code.data)["error"]) == (400, "bad")
    assert plain.data == b"as it is"


YIELDING = """
from djl_python import Output
from djl_python.async_utils import create_stream_chunk_output

async def handle(batch):
    if batch.is_empty():
        return None
    (inputs,) = batch.get_batches()
    return pieces(inputs.get_as_string())

async def pieces(what):
    if what == "nothing":
        return
    if what == "bad first":
        yield Output().error("bad", 400)
    yield create_stream_chunk_output("one", False)
    if what == "fails":
        raise SystemExit("no")
    yield {"bad later": Output().error("bad", 400), "a number": 7}.get(what, create_stream_chunk_output("two", True))
    yield create_stream_chunk_output("never", True)
"""


@pytest.mark.parametrize(
    ("what", "pieces", "failure"),
    [
        ("well", [b"one\n", b"two\n"], None),
        ("nothing", None, "yielded nothing"),
        ("fails", [b"one\n"], "no"),
        ("bad first", None, "Async Inference Failure"),
        ("bad later", [b"one\n"], "Async Inference Failure"),
        ("a number", [b"one\n"], "Invalid output type: <class 'int'>"),
    ],
)
def test_what_asynchronous_handlers_yield(load, what, pieces, failure):
    model = load(YIELDING, {"async_mode": "true"})
    received = []

    async def take():
        answer = await model.answer(call(what.encode()))
        while (piece := await anext(answer, None)) is not None:
            received.append(piece)

    raised = None
    try:
        asyncio.run_coroutine_threadsafe(take(), model.loop).result(20)
    except NodeError as error:
        raised = error
    assert (raised is None) is (failure is None), received
    assert failure is None or failure in str(raised)
    assert received[1:] == (pieces or [])
    assert bool(received) is (pieces is not None)


def test_the_loop_of_asynchronous_handlers_ends_with_the_model(load):
    before = threading.active_count()
    model = load(ASYNC, {"async_mode": "true"})
    assert threading.active_count() == before + 1
    model.unload()
    assert threading.active_count() == before
