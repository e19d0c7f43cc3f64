"""Handlers written for TorchServe and MMS: how they are found, initialised, called, batched and streamed, and how they fail."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import textwrap
import threading

import pytest

from flowyard.engines.base import AsynchronousModel, Call, ModelSource, Stream
from flowyard.engines.torchserve import loader
from flowyard.engines.torchserve.folder import recognise
from flowyard.schemas.devices import CPU, Device
from flowyard.schemas.errors import EngineOutOfMemoryError, HandlerError, InvalidModelError
from flowyard.schemas.messages import Message
from flowyard.schemas.models import ModelSpec

TORCHSERVE = {"createdOn": "01/01/2024 00:00:00", "runtime": "python", "archiverVersion": "0.12.0"}
MMS = {"specificationVersion": "1.0", "modelServerVersion": "1.0", "runtime": "python"}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Writes an archive's folder and loads it, as a worker does."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    path, modules, loaded = list(sys.path), set(sys.modules), []

    def write_and_load(code="", *, handler="h.py", kind=TORCHSERVE, options=None, device=CPU, files=None, **model):
        manifest = kind | {"model": {"modelName": "m", "handler": handler, "modelVersion": "1.0", **model}}
        written = {"h.py": textwrap.dedent(code), "MAR-INF/MANIFEST.json": json.dumps(manifest), **(files or {})}
        for name, content in written.items():
            if content is None:
                continue
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        found = recognise(tmp_path, options)
        source = ModelSource(
            root=str(tmp_path),
            path="",
            properties=found.parameters | {"model_name": "served"},
            handlers=found.handlers,
            spec=ModelSpec(batch_size=4),
        )
        if str(tmp_path) not in sys.path:
            sys.path.insert(0, str(tmp_path))
        loaded.append(loader.load(source, device))
        return loaded[-1]

    yield write_and_load
    for model in loaded:
        model.unload()
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        if module.split("@")[0] in ("h", "helper"):
            del sys.modules[module]
    if "ts.streaming" in sys.modules:
        monkeypatch.setattr(sys.modules["ts.streaming"]._State, "wanted", False)


def call(body=b"", kind="", *, callee="", contents=None, types=None, **headers):
    properties = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    message = Message(
        properties=(*properties, ("requestId", "r-1")),
        contents=(("body", body),) if contents is None else contents,
        types=(kind,) if types is None else types,
    )
    return Call(callee, [message])


def ask(model, *args, **kwargs):
    (answer,) = model.predict([call(*args, **kwargs)])
    return answer


SHOW = """
class Show:
    def initialize(self, context):
        self.ready = True

    def handle(self, data, context):
        return [{"row": {k: [type(v).__name__, v.decode() if isinstance(v, bytearray) else v] for k, v in row.items()},
                 "headers": context.get_all_request_header(i), "id": context.get_request_id(i),
                 "x": context.get_request_header(i, "X-Probe")} for i, row in enumerate(data)]
"""


@pytest.mark.parametrize(
    ("body", "kind", "seen"),
    [
        (b'{"a": [1, NaN]}', "application/json", ["dict", {"a": [1, float("nan")]}]),
        (b"3", "application/json", ["int", 3]),
        (b"{bad", "application/json", ["bytearray", "{bad"]),
        (b"", "application/json", ["bytearray", ""]),
        (b'{"a": 1}', "Application/Json", ["bytearray", '{"a": 1}']),
        (b'{"a": 1}', "application/vnd.x+json", ["bytearray", '{"a": 1}']),
        (b"h\xc3\xa9", "text/plain", ["str", "hé"]),
        (b"a,b", "text/csv", ["str", "a,b"]),
        (b"x", "TEXT/PLAIN", ["bytearray", "x"]),
        (b"x", "", ["bytearray", "x"]),
        (b"x", "application/octet-stream", ["bytearray", "x"]),
    ],
)
def test_a_body_is_decoded_as_its_type_says(load, body, kind, seen):
    shown = json.loads(ask(load(SHOW), body, kind, x_probe="1").data)
    assert repr(shown) == repr(
        {"row": {"body": seen}, "headers": {"x-probe": "1", "body": {"content-type": kind}}, "id": "r-1", "x": "1"}
    )


def test_text_that_is_none_and_decoding_that_is_switched_off_give_bytes(load):
    code = "def handle(data, context): return data and [str(type(data[0]['body']).__name__)]"
    assert ask(load(code), b"\xff\xfe", "text/plain").data == b"bytearray"
    assert ask(load(code, options={"decode_input_request": "false"}), b"[1]", "application/json").data == b"bytearray"


def test_the_fields_of_a_form_are_the_row_and_the_last_of_a_name_counts(load):
    contents, types = (("a", b"1"), ("a", b"2"), ("j", b"[3]")), ("", "", "application/json")
    shown = json.loads(ask(load(SHOW), contents=contents, types=types).data)
    assert shown["row"] == {"a": ["bytearray", "2"], "j": ["list", [3]]}
    assert json.loads(ask(load(SHOW), contents=(), types=()).data)["row"] == {}


@pytest.mark.parametrize(
    ("code", "handler", "words"),
    [
        ("def handle(data, context): return data and ['f']", "h", "f"),
        ("def handle(data, context): return data and ['f']", "h.py", "f"),
        ("def other(data, context): return data and ['o']", "h.py:other", "o"),
        ("class Any:\n    def handle(self, data, context): return ['c']", "h.py", "c"),
        ("class A: ...\nclass B:\n    def handle(self, data, context): return ['b']", "h.py:B", "b"),
        ("import json\nclass Any:\n    def handle(self, data, context): return ['c']", "some/folder/h.py:handle", "c"),
        (
            """
            class Service:
                initialized = False
                def initialize(self, context): self.initialized = True
                def handle(self, data, context): return [str(self.initialized)]
            _service = Service()
            def handle(data, context):
                if not _service.initialized:
                    _service.initialize(context)
                return None if data is None else _service.handle(data, context)
            """,
            "h.py:handle",
            "True",
        ),
    ],
)
@pytest.mark.parametrize("kind", [TORCHSERVE, MMS], ids=["torchserve", "mms"])
def test_what_a_handlers_name_means(load, code, handler, words, kind):
    assert ask(load(code, handler=handler, kind=kind)).data == words.encode()


@pytest.mark.parametrize(
    ("code", "handler", "error", "words"),
    [
        ("", "", InvalidModelError, "the archive names no handler"),
        ("", "missing.py", InvalidModelError, "there is no file 'missing.py' in the archive, and no default handler"),
        ("", "missing", InvalidModelError, "no module 'missing' in the archive"),
        (
            "",
            "h.py",
            InvalidModelError,
            "h.py: Expected only one class in custom service code or a function entry point, found none",
        ),
        ("class A: ...\nclass B: ...", "h.py", InvalidModelError, "Expected only one class .* found A, B"),
        ("class A: ...", "h.py", InvalidModelError, "Expect handle method in class A"),
        ("def f(): ...", "h.py:g", InvalidModelError, "h.py: there is no function 'g'"),
        ("import nothing_like_it", "h.py", InvalidModelError, "h.py:1: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def handle(", "h.py", InvalidModelError, "h.py:1: SyntaxError"),
        ("def handle(data, context):\n    raise ValueError('no')", "h.py", InvalidModelError, "h.py:2: ValueError: no"),
        ("def handle(data, context): raise SystemExit(3)", "h.py", InvalidModelError, "SystemExit"),
        (
            "def handle(data, context): raise MemoryError('full')",
            "h.py",
            EngineOutOfMemoryError,
            "Out of resources: MemoryError: full",
        ),
        ("def handle(d, c): raise RuntimeError('CUDA error')", "h.py", EngineOutOfMemoryError, "CUDA error"),
        (
            "class A:\n  def initialize(self, c): raise ValueError('no')\n  def handle(self, d, c): ...",
            "h.py",
            InvalidModelError,
            "no",
        ),
        ("import mms.utils.mxnet.image", "h.py", InvalidModelError, "mms.utils.mxnet.image needs MXNet, which is retired"),
    ],
)
def test_what_fails_while_loading(load, code, handler, error, words):
    with pytest.raises(error, match=words) as caught:
        load(code, handler=handler)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vllm_handler", "install vllm in the server's environment, and call it in a handler of the archive's own"),
        ("trt_llm_handler", "install tensorrt_llm in the server's environment"),
        ("dali_image_classifier", "the handler image_classifier takes the same archive"),
        ("dali_handler", "install NVIDIA's package for it"),
        ("densenet_handler", "ts.torch_handler.image_classifier.ImageClassifier does the same"),
    ],
)
def test_a_default_handler_that_is_not_there_says_what_to_do(load, name, words):
    whose = f"ts.torch_handler.{name} of TorchServe is not part of flowyard: "
    with pytest.raises(InvalidModelError, match=rf"^{re.escape(whose)}.*{re.escape(words)}"):
        load(handler=name)
    with pytest.raises(InvalidModelError, match=rf"^h\.py:2: ModuleNotFoundError: {re.escape(whose)}.*{re.escape(words)}"):
        load(f"\nfrom ts.torch_handler.{name} import Handler")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("ts.torch_handler.distributed.base_pippy_handler", "torch.distributed.pipelining"),
        ("ts.handler_utils.distributed.pt_pippy", "torch.distributed.pipelining"),
        ("ts.handler_utils.preprocess.dali", "install NVIDIA's package for it"),
        ("ts.metrics.system_metrics", "handlers have context.metrics"),
        ("ts.model_server", "flowyard torchserve"),
        ("ts.utils.hf_utils", "context.system_properties['model_dir']"),
    ],
)
def test_what_the_package_has_not_says_what_there_is_instead(load, module, words):
    with pytest.raises(InvalidModelError, match=rf"^h\.py:1: .* of TorchServe is not part of flowyard: .*{re.escape(words)}"):
        load(f"import {module}")


def test_a_module_that_is_not_there_may_be_done_without(load):
    load("""
        try:
            import ts.torch_handler.vllm_handler
        except ImportError:
            pass

        def handle(data, context):
            return data
    """)


def test_a_handler_of_the_archive_may_have_the_name_of_one_that_is_not_there(load):
    load(handler="vllm_handler.py", files={"vllm_handler.py": "def handle(data, context):\n    return data"})


def test_a_runtime_of_cpp_is_refused(load):
    with pytest.raises(InvalidModelError, match="the runtime LSP"):
        load(options={"runtime": "LSP"})


def test_mms_goes_on_when_an_objects_initialisation_has_failed(load):
    code = "class A:\n  def initialize(self, c): raise ValueError('no')\n  def handle(self, d, c): return ['on']"
    assert ask(load(code, kind=MMS)).data == b"on"


CONTEXT = """
def handle(data, context):
    return data and [{"name": context.model_name, "manifest": context.manifest, "properties": context.system_properties,
                      "config": getattr(context, "model_yaml_config", "absent")}]
"""


def test_the_context_of_torchserve(load, tmp_path):
    model = load(CONTEXT, files={"c.yaml": "batchSize: 2\nhandler: {topk: 3}"}, configFile="c.yaml", device=Device("gpu", 1))
    told = json.loads(ask(model).data)
    assert told["name"] == "served"
    assert told["manifest"]["model"]["modelName"] == "m"
    assert told["properties"] == {
        "model_dir": str(tmp_path),
        "gpu_id": 1,
        "batch_size": 4,
        "server_name": "MMS",
        "server_version": "0.12.0",
        "limit_max_image_pixels": True,
    }
    assert told["config"] == {"batchSize": 2, "handler": {"topk": 3}}


def test_the_context_of_mms(load, tmp_path):
    told = json.loads(ask(load(CONTEXT, kind=MMS)).data)
    assert told["properties"] == {
        "model_dir": str(tmp_path),
        "gpu_id": None,
        "batch_size": 4,
        "server_name": "MMS",
        "server_version": "1.1.11",
    }
    assert told["config"] == "absent"


@pytest.mark.parametrize(
    ("result", "body", "kind"),
    [
        ("'text é'", "text é".encode(), "text/plain; charset=utf-8"),
        ("''", b"", "text/plain; charset=utf-8"),
        ("b'\\x00\\xff'", b"\x00\xff", ""),
        ("bytearray(b'abc')", b"abc", ""),
        ("7", b"7", "application/json"),
        ("True", b"true", "application/json"),
        ("None", b"null", "application/json"),
        ("float('nan')", b"NaN", "application/json"),
        ("{'b': 1, 'a': []}", b'{\n  "b": 1,\n  "a": []\n}', "application/json"),
        ("[1]", b"[\n  1\n]", "application/json"),
    ],
)
def test_results(load, result, body, kind):
    answer = ask(load(f"def handle(data, context): return data and [{result}]"))
    assert answer == Message(200, "", (), ((None, body),), (kind,))


def test_a_tensor_is_saved(load):
    import io

    import torch

    answer = ask(load("import torch\ndef handle(data, context): return data and [torch.tensor([1, 2])]"))
    assert torch.load(io.BytesIO(answer.data), weights_only=True).tolist() == [1, 2]


def test_status_and_headers_of_each_row(load):
    model = load(
        """
        def handle(data, context):
            if data is None:
                return None
            context.set_all_response_status(202, "All")
            context.set_response_status(418, "Teapot", 1)
            context.set_response_header(1, "X-A", 1)
            context.set_response_content_type(1, "text/html")
            assert context.get_response_status(1) == (418, "Teapot")
            assert context.get_response_content_type(1) == "text/html"
            return ["a", "b"]
        """
    )
    first, second = model.predict([call(), call()])
    assert (first.code, first.reason, first.properties) == (202, "All", ())
    assert (second.code, second.reason) == (418, "Teapot")
    assert second.properties == (("X-A", "1"), ("content-type", "text/html"))


@pytest.mark.parametrize(
    ("code", "status", "message", "detail"),
    [
        ("raise ValueError('boom')", 503, "Prediction failed", "ValueError: boom"),
        ("raise MemoryError('big')", 507, "Out of resources", "MemoryError: big"),
        ("raise RuntimeError('CUDA out of memory')", 507, "Out of resources", "RuntimeError: CUDA out of memory"),
        ("return {'a': 1}", 503, "Invalid model predict output", "handle returned dict, not a list"),
        ("return None", 503, "Invalid model predict output", "handle returned NoneType, not a list"),
        ("return ('OK',)", 503, "Invalid model predict output", "handle returned tuple, not a list"),
        ("return []", 503, "number of batch response mismatched", "0 results for 1 requests"),
        ("return ['a', 'b']", 503, "number of batch response mismatched", "2 results for 1 requests"),
        ("return [object()]", 503, "Unsupported model output data type.", "TypeError: Object of type object is not JSON"),
        ("return [{1, 2}]", 503, "Unsupported model output data type.", "TypeError: Object of type set"),
        ("l = []; l.append(l); return [l]", 503, "Unsupported model output data type.", "TypeError: Circular reference"),
        ("raise PredictionException('mine')", 500, "mine", ""),
        ("raise PredictionException('mine', 404)", 404, "mine", ""),
        ("raise PredictionException('mine', 299)", 299, "mine", ""),
        ("raise PredictionException('mine', 1000)", 500, "mine", ""),
        ("raise PredictionException('mine', 'x')", 500, "mine", ""),
        ("raise KeyboardInterrupt", 503, "Prediction failed", "KeyboardInterrupt"),
    ],
)
def test_what_goes_wrong_in_a_handler_is_told_as_torchserve_tells_it(load, code, status, message, detail):
    model = load(
        f"""
        from ts.utils.util import PredictionException
        def handle(data, context):
            if data is None:
                return None
            {code}
        """
    )
    error = ask(model)
    assert isinstance(error, HandlerError)
    assert (error.status, error.message) == (status, message)
    assert error.detail.startswith(detail)
    assert bool(error.detail) == bool(detail)


def test_what_mms_says_where_it_differs(load):
    code = "from mms.service import PredictionException\ndef handle(d, c):\n  if d: raise RuntimeError('CUDA')"
    assert ask(load(code, kind=MMS)).status == 503


def test_an_error_with_status_200_is_the_word_error(load):
    code = "from ts.utils.util import PredictionException\ndef handle(d, c):\n  if d: raise PredictionException('m', 200)"
    answer = ask(load(code))
    assert (answer.code, answer.data) == (200, b"error")


def test_a_batch_is_one_call_and_fails_as_one(load):
    code = """
    def handle(data, context):
        if data and any(row["body"] == "boom" for row in data):
            raise ValueError("boom")
        return data and [f"{row['body']}: {i} of {len(data)}" for i, row in enumerate(data, 1)]
    """
    model = load(code)
    answers = model.predict([call(text.encode(), "text/plain") for text in "abc"])
    assert [answer.data for answer in answers] == [b"a: 1 of 3", b"b: 2 of 3", b"c: 3 of 3"]
    failed = model.predict([call(text.encode(), "text/plain") for text in ("a", "boom")])
    assert [(error.status, error.message) for error in failed] == [(503, "Prediction failed")] * 2


def test_a_description_is_never_part_of_a_batch(load):
    code = """
    def handle(data, context):
        if data and context.get_request_header(0, "describe") == "True":
            return [f"described {len(data)}"]
        return data and [str(len(data))] * len(data)
    """
    answers = load(code).predict([call(), call(describe="True"), call()])
    assert [answer.data for answer in answers] == [b"2", b"described 1", b"2"]


STREAM = """
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    context.set_response_header(0, "X-S", "yes")
    code = data[0]["body"].get("code", 200)
    for piece in data[0]["body"]["pieces"]:
        send_intermediate_predict_response([piece] * len(data), context.request_ids, "said", code, context)
    if data[0]["body"].get("fail"):
        raise ValueError("after pieces")
    return [data[0]["body"].get("last", "")] * len(data)
"""


def streamed(model, rows=1, **body):
    return model.predict([call(json.dumps(body).encode(), "application/json") for _ in range(rows)])


def test_pieces_go_out_as_they_are_sent_and_the_result_is_the_last(load):
    (stream,) = streamed(load(STREAM), pieces=["a", "", {"j": 1}], last="end")
    assert isinstance(stream, Stream)
    assert list(stream) == [
        Message(200, "", (("X-S", "yes"), ("ts_stream_next", "true"))),
        b"a",
        b'{\n  "j": 1\n}',
        b"end",
    ]


def test_a_stream_is_there_before_its_handler_has_returned(load):
    gate = threading.Event()
    model = load(STREAM.replace("    if data[0]", "    import builtins; builtins.GATE.wait(20)\n    if data[0]", 1))
    import builtins

    builtins.GATE = gate
    try:
        (stream,) = streamed(model, pieces=["early"], last="late")
        next(stream)
        assert next(stream) == b"early"
        gate.set()
        assert list(stream) == [b"late"]
    finally:
        gate.set()
        del builtins.GATE


def test_a_handler_that_sends_nothing_answers_as_any_other(load):
    (answer,) = streamed(load(STREAM), pieces=[], last="only")
    assert answer.data == b"only"


@pytest.mark.parametrize("pieces", [3, 40])
def test_every_row_of_a_batch_is_a_stream(load, pieces):
    first, second = streamed(load(STREAM), 2, pieces=["x"] * pieces, last="y")
    assert first.collect().data == second.collect().data == b"x" * pieces + b"y"


def test_a_stream_that_fails(load):
    (stream,) = streamed(load(STREAM), pieces=["a"], fail=True)
    assert [next(stream).code, next(stream)] == [200, b"a"]
    with pytest.raises(HandlerError, match="Prediction failed"):
        next(stream)


def test_a_piece_with_an_error_is_the_answer(load):
    (error,) = streamed(load(STREAM), pieces=["a", "b"], code=500)
    assert (error.status, error.message) == (500, "said")


@pytest.mark.parametrize("pieces", ["['a', 'b']", "'a'", "[object()]"])
def test_pieces_that_are_none_fail_the_handler(load, pieces):
    code = STREAM.replace("[piece] * len(data)", pieces)
    (error,) = streamed(load(code), pieces=["a"])
    assert (error.status, error.message) == (503, "Prediction failed")


def test_a_handler_goes_on_when_nobody_wants_its_pieces(load):
    model = load(STREAM)
    (stream,) = streamed(model, pieces=["x"] * 100)
    next(stream)
    stream.close()
    (answer,) = streamed(model, pieces=[], last="next")
    assert answer.data == b"next"


def test_the_function_may_be_taken_while_a_request_is_computed(load):
    code = STREAM.replace("from ts", "", 1).replace(".handler_utils.utils import send_intermediate_predict_response", "", 1)
    taken = "from ts.protocol.otf_message_handler import send_intermediate_predict_response\n    context.set"
    (stream,) = streamed(load(code.replace("context.set", taken, 1)), pieces=["a"], last="b")
    assert stream.collect().data == b"ab"


def test_metrics_are_logged_in_torchserves_format_and_collected(load, caplog):
    code = """
    def handle(data, context):
        if data is None:
            return None
        context.metrics.add_counter("Seen", 2)
        context.metrics.add_time("Took", 1.5, idx=0)
        context.metrics.add_size("Size", 3, unit="kB")
        context.metrics.add_percent("Part", 50)
        context.metrics.add_error("Oops", 1)
        context.metrics.add_metric_to_cache("Own", "things", ["Colour"]).add_or_update(4, ["red"])
        return ["OK"]
    """
    model = load(code)
    caplog.set_level(logging.INFO)
    model.take_metrics()
    ask(model)
    lines = [line for line in caplog.messages if line.startswith("[METRICS]")]
    assert len(lines) == 6
    assert lines[0].startswith("[METRICS]Seen.Count:2|#ModelName:served,Level:Model|#type:COUNTER|#hostname:")
    assert lines[0].endswith(",r-1")
    samples = {sample.name: sample for sample in model.take_metrics()}
    assert set(samples) == {"Seen", "Took", "Size", "Part", "Oops", "Own", "PredictionTime"}
    assert (samples["Took"].unit, samples["Took"].kind, samples["Took"].value) == ("Milliseconds", "gauge", 1.5)
    assert samples["Own"].dimensions == (("Colour", "red"),)
    assert samples["Oops"].dimensions == (("Level", "Error"),)
    assert model.take_metrics() == []


def test_a_handler_that_puts_away_its_metrics_is_answered(load):
    code = "def handle(data, context):\n    context.metrics = None\n    return data and ['OK']"
    model = load(code)
    assert (ask(model).data, ask(model).data) == (b"OK", b"OK")


@pytest.mark.parametrize(
    "line", ["add_counter('C', -1)", "add_metric_to_cache('Own', 'u', ['D']).add_or_update(1)", "add_counter('C', 'x')"]
)
def test_a_value_that_does_not_fit_is_logged_and_left_out(load, caplog, line):
    model = load(f"def handle(data, context):\n    context.metrics.{line}\n    return data and ['OK']")
    assert "Failed to update metric" in caplog.text
    assert ask(model).data == b"OK"


def test_a_service_of_mms_0(load):
    legacy = {"Model": {"Service": "h.py", "Signature": "signature.json", "Model-Name": "old"}}
    code = """
    from mms.model_service.mxnet_model_service import SingleNodeService
    class Legacy(SingleNodeService):
        def _preprocess(self, data): return data[0]
        def _inference(self, data): return {"got": data}
        def _postprocess(self, data): return {"legacy": data}
    """
    signature = {"input_type": "application/json", "inputs": [{"data_name": "data"}]}
    files = {"MAR-INF/MANIFEST.json": None, "MANIFEST.json": json.dumps(legacy), "signature.json": json.dumps(signature)}
    model = load(code, files=files)
    assert json.loads(ask(model, b"[1]", "application/json").data) == {"legacy": {"got": [1]}}
    assert json.loads(ask(model, b"{'a': 1}").data) == {"legacy": {"got": {"a": 1}}}
    assert ask(model, b"__import__('os')").detail.startswith("ValueError: malformed node")


def test_a_service_of_mms_0_that_computes_with_mxnet(load):
    legacy = {"Model": {"Service": "h.py", "Signature": "signature.json", "Model-Name": "old"}}
    code = "from mms.model_service.mxnet_vision_service import MXNetVisionService\nclass Own(MXNetVisionService): ..."
    with pytest.raises(InvalidModelError, match="Own needs MXNet, which is retired and cannot run here"):
        load(code, files={"MAR-INF/MANIFEST.json": None, "MANIFEST.json": json.dumps(legacy)})


ENVELOPED = """
def show(row):
    return sum(row) if isinstance(row, list) else sorted(row) if isinstance(row, dict) else str(row)

def handle(data, context):
    return data and [show(row) for row in data]
"""


@pytest.mark.parametrize(
    ("envelope", "body", "answer"),
    [
        ("body", [1, 2], 3),
        ("json", {"instances": [[1, 2], [3, 4]]}, {"predictions": [3, 7]}),
        ("json", {"instances": [{"b64": "aGk="}, {"x": {"b64": "aGk="}}]}, {"predictions": ["b'hi'", ["x"]]}),
        ("kserve", {"instances": [[1, 2], {"b64": "x"}, 5]}, {"predictions": [3, ["b64"], "5"]}),
        (
            "kservev2",
            {"id": "q", "inputs": [{"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]}]},
            {
                "id": "q",
                "model_name": "m",
                "model_version": "1.0",
                "outputs": [
                    {"name": "a", "datatype": "BYTES", "data": ["data", "datatype", "name", "shape"], "shape": [4]},
                ],
            },
        ),
    ],
)
def test_envelopes(load, envelope, body, answer):
    model = load(ENVELOPED, options={"service_envelope": envelope})
    assert json.loads(ask(model, json.dumps(body).encode(), "application/json").data) == answer


@pytest.mark.parametrize(
    ("envelope", "body"),
    [
        ("json", b"[1]"),
        ("json", b'{"no": 1}'),
        ("kserve", b"raw"),
        ("kserve", b'{"instances": []}'),
        ("kservev2", b'{"inputs": [{"name": "a", "shape": [5], "datatype": "FP32", "data": [1]}]}'),
        ("kservev2", b"{}"),
    ],
)
def test_what_is_not_in_an_envelope_fails(load, envelope, body):
    error = ask(load(ENVELOPED, options={"service_envelope": envelope}), body, "application/json")
    assert (type(error), error.status) == (HandlerError, 503)


def test_an_unknown_envelope_lets_no_handler_start(load):
    with pytest.raises(InvalidModelError, match="there is no envelope 'soap'; known are body, json, kserve, kservev2"):
        load(ENVELOPED, options={"service_envelope": "soap"})


def test_an_explanation_in_an_envelope(load):
    model = load(ENVELOPED, options={"service_envelope": "kserve"})
    answer = ask(model, b'{"instances": [[1]]}', "application/json", explain="True")
    assert json.loads(answer.data) == {"explanations": [1]}


def test_functions_of_a_workflow(load, tmp_path):
    load("def handle(data, context): return None")
    (tmp_path / "helper.py").write_text(
        textwrap.dedent(
            """
            loaded = []
            def pre(data, context):
                if data is None:
                    loaded.append("pre")
                    return None
                return [str(len(row["body"])) for row in data]
            def what(data, context):
                return data and [f"{loaded} {context.get_request_header(0, 'X-A')}"]
            """
        )
    )
    source = ModelSource(
        root=str(tmp_path), path="", functions={"pre": "helper:pre", "what": "helper:what"}, handlers="torchserve"
    )
    model = loader.load(source, CPU)
    answers = model.predict([call(b"abc", callee="pre"), call(b"", callee="what", x_a="1"), call(b"", callee="pre")])
    assert [answer.data for answer in answers] == [b"3", b"['pre'] 1", b"0"]


def test_a_function_that_fails_at_load(tmp_path, load):
    load("def handle(data, context): return None")
    (tmp_path / "helper.py").write_text("def bad(data, context):\n    raise ValueError('at load')")
    with pytest.raises(InvalidModelError, match=r"helper\.py:2: ValueError: at load"):
        loader.load(ModelSource(root=str(tmp_path), path="", functions={"bad": "helper:bad"}, handlers="torchserve"), CPU)


def test_an_ordinary_handler_needs_no_torch():
    code = (
        f"import sys; sys.path.insert(0, {str(loader.SHIM)!r});"
        "import flowyard.engines.torchserve.handler, ts.context, ts.utils.util, ts.metrics.metrics_store, mms.service,"
        " ts.handler_utils.utils, ts.handler_utils.timer, ts.service, mms.metrics.metric, mms.utils.timeit_decorator;"
        "print([name for name in ('torch', 'torchvision', 'PIL', 'captum', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- Continuous batching ---

CONTINUOUS = """
from ts.handler_utils.utils import send_intermediate_predict_response

class Counting:
    def initialize(self, context):
        context.cache = {}
        self.context = context
        self.seen = []

    def handle(self, data, context):
        for place, (request_id, row) in enumerate(zip(context.request_ids.values(), data, strict=True)):
            if request_id not in context.cache:
                context.cache[request_id] = {"left": row["body"]["count"], "asked": row["body"], "made": 0}
            elif row:
                raise ValueError("a row that is known is told again")
            if context.cache[request_id]["asked"].get("fail"):
                del context.cache[request_id]
                raise ValueError("no")
        if any(context.get_request_header(i, "describe") for i in range(len(data))):
            context.cache.clear()
            context.stopping_criteria = None
            return [{"seen": self.seen}]
        self.seen.append(len(data))
        entries = [context.cache[one] for one in context.request_ids.values()]
        for place, entry in enumerate(entries):
            entry["made"] += 1
            context.set_response_header(place, "X-Count", str(entry["asked"]["count"]))
        sent = [entry["asked"].get("send", "") for entry in entries]
        if any(sent):
            send_intermediate_predict_response(sent, context.request_ids, "", 200, context)
        context.stopping_criteria = [self.criterion(one) for one in context.request_ids.values()]
        if any(entry["asked"].get("wrong") for entry in entries):
            context.stopping_criteria = [None]
        return [f"{entry['asked']['name']}{entry['made']} " for entry in entries]

    def criterion(self, request_id):
        def ends(result):
            entry = self.context.cache[request_id]
            entry["left"] -= 1
            if entry["left"] > 0:
                return False
            del self.context.cache[request_id]
            return None if entry["asked"].get("plain") else True
        return ends
"""
CONTINUOUSLY = {"c.yaml": "batchSize: 4\ncontinuousBatching: true\n"}


@pytest.fixture
def continuous(load):
    return load(CONTINUOUS, files=CONTINUOUSLY, configFile="c.yaml")


def asked_as(request_id, body, *properties):
    message = call(json.dumps(body).encode(), "application/json").args[0]
    message.properties = (*properties, ("requestId", request_id))
    return Call("", [message])


def counted(name, count, **asked):
    return asked_as(f"r-{name}", {"name": name, "count": count, **asked})


def test_a_continuous_handler_is_called_until_each_request_has_ended(continuous):
    first, second, third = continuous.predict([counted("a", 3), counted("b", 1), counted("c", 2)])
    assert [first.data, second.data, third.data] == [b"a1 a2 a3 ", b"b1 ", b"c1 c2 "]
    assert first.properties == (("X-Count", "3"), ("ts_stream_next", "true"))
    assert second.properties == (("X-Count", "1"), ("ts_stream_next", "false"))
    assert isinstance(continuous, AsynchronousModel)


def test_a_continuous_request_of_which_the_criterion_says_nothing_is_answered_plainly(continuous):
    (answer,) = continuous.predict([counted("a", 1, plain=True)])
    assert (answer.data, answer.properties) == (b"a1 ", (("X-Count", "1"),))


def test_a_continuous_handler_may_send_pieces_besides(continuous):
    (answer,) = continuous.predict([counted("a", 2, send="+ ")])
    assert answer.data == b"+ a1 + a2 "


@pytest.mark.parametrize("fault", ["fail", "wrong"])
def test_what_a_continuous_handler_raises_fails_those_in_the_step_and_no_others(continuous, fault):
    (error,) = continuous.predict([counted("a", 2, **{fault: True})])
    assert (error.status, error.message) == (503, "Prediction failed")
    (answer,) = continuous.predict([counted("b", 2)])
    assert answer.data == b"b1 b2 "


def test_a_description_is_computed_alone_beside_continuous_requests(continuous):
    asked = asked_as("d", {"name": "d", "count": 1}, ("describe", "True"))
    answer, described = continuous.predict([counted("a", 3), asked])
    assert answer.data == b"a1 a2 a3 "
    assert json.loads(described.data) == {"seen": [1, 1, 1]}


# --- Handlers that are awaited ---

AWAITED = """
import asyncio
import threading

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.service import PredictionException
from ts.torch_handler.base_handler import BaseHandler

class Awaited(BaseHandler):
    def initialize(self, context):
        loop = asyncio.get_event_loop()
        self.ready = loop.run_until_complete(self.start(loop))
        self.cancelled = 0
        self.met = 0

    async def start(self, loop):
        self.background = loop.create_task(asyncio.Event().wait())
        return asyncio.Event()

    async def handle(self, data, context):
        (row,) = data
        asked = row["body"]
        context.set_response_header(0, "X-Id", context.get_request_id(0))
        match asked["do"]:
            case "meet":
                self.met += 1
                if self.met == asked["with"]:
                    self.ready.set()
                await self.ready.wait()
                return [[context.get_request_id(0), context.get_response_headers(0)["X-Id"]]]
            case "pieces":
                for number in range(asked["count"]):
                    await asyncio.sleep(0)
                    send_intermediate_predict_response([f"{number} "], context.request_ids, "Result", 200, context)
                if asked.get("fail"):
                    raise ValueError("half way")
                return [asked.get("last", "end")]
            case "thread":
                def send():
                    send_intermediate_predict_response(["from a thread "], context.request_ids, "", 200, context)
                await asyncio.get_running_loop().run_in_executor(None, send)
                return ["end"]
            case "error":
                send_intermediate_predict_response([""], context.request_ids, "said", 429, context)
                return ["late"]
            case "hang":
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled += 1
            case "count":
                return [self.cancelled]
            case "many":
                return [1, 2]
            case "exception":
                raise PredictionException("mine", 404)
            case "give up":
                raise asyncio.CancelledError
            case "same loop":
                return [self.background.get_loop() is asyncio.get_running_loop()]
        return {"no": "list"}
"""
AWAITING = {"c.yaml": "batchSize: 1\nasyncCommunication: true\n"}


@pytest.fixture
def awaited(load):
    pytest.importorskip("torch")
    return load(AWAITED, files=AWAITING, configFile="c.yaml")


def to_do(do, request_id="r-1", **asked):
    return asked_as(request_id, {"do": do, **asked})


def test_awaited_handlers_are_under_way_together_each_with_a_context_of_its_own(awaited):
    answers = awaited.predict([to_do("meet", name, **{"with": 3}) for name in "abc"])
    assert [json.loads(answer.data) for answer in answers] == [[name, name] for name in "abc"]
    assert isinstance(awaited, AsynchronousModel)


def test_an_awaited_handler_uses_the_loop_that_it_was_initialised_with(awaited):
    (answer,) = awaited.predict([to_do("same loop")])
    assert answer.data == b"true"


@pytest.mark.parametrize(
    ("do", "asked", "data"),
    [
        ("pieces", {"count": 3}, b"0 1 2 end"),
        ("pieces", {"count": 2, "last": ""}, b"0 1 "),
        ("pieces", {"count": 0, "last": "whole"}, b"whole"),
        ("thread", {}, b"from a thread end"),
    ],
)
def test_what_an_awaited_handler_sends_and_returns(awaited, do, asked, data):
    (answer,) = awaited.predict([to_do(do, **asked)])
    assert answer.data == data
    assert dict(answer.properties).get("ts_stream_next") == (None if data == b"whole" else "true")


@pytest.mark.parametrize(
    ("do", "asked", "status", "words"),
    [
        ("pieces", {"count": 1, "fail": True}, 503, "Prediction failed"),
        ("pieces", {"count": 0, "fail": True}, 503, "Prediction failed"),
        ("error", {}, 429, "said"),
        ("many", {}, 503, "number of batch response mismatched"),
        ("exception", {}, 404, "mine"),
        ("give up", {}, 503, "Prediction failed"),
        ("unknown", {}, 503, "Invalid model predict output"),
    ],
)
def test_how_awaited_handlers_fail(awaited, do, asked, status, words):
    error, other = awaited.predict([to_do(do, **asked), to_do("count")])
    assert (error.status, error.message) == (status, words)
    assert other.data == b"0"


def test_an_awaited_handler_is_cancelled_when_nobody_waits(awaited):
    async def leave():
        task = asyncio.ensure_future(awaited.answer(to_do("hang")))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        pieces = await awaited.answer(to_do("pieces", count=1000))
        await anext(pieces)
        await pieces.aclose()
        return task.cancelled()

    assert asyncio.run_coroutine_threadsafe(leave(), awaited.loop).result(20)
    (answer,) = awaited.predict([to_do("count")])
    assert answer.data == b"1"


def test_a_function_may_be_awaited(load):
    code = "async def handle(data, context):\n    return [row['body'].decode() * 2 for row in data]\n"
    (answer,) = load(code, files=AWAITING, configFile="c.yaml").predict([call(b"ab")])
    assert answer.data == b"abab"


def test_a_handler_that_cannot_be_awaited_fails_as_in_torchserve(load):
    code = "def handle(data, context):\n    return data and ['x']\n"
    (error,) = load(code, files=AWAITING, configFile="c.yaml").predict([call(b"ab")])
    assert (error.status, error.message) == (503, "Prediction failed")
    assert "await" in error.detail


def test_an_awaited_handler_whose_initialisation_fails_is_told(load):
    code = "class H:\n    def initialize(self, context): raise ValueError('no')\n    async def handle(self, data, context): ...\n"
    with pytest.raises(InvalidModelError, match="ValueError: no"):
        load(code, files=AWAITING, configFile="c.yaml")
