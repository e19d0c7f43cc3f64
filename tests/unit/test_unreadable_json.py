"""JSON from elsewhere that is not UTF-8, nested without end or out of range: told as what it is, wherever it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowyard.engines.djl import folder as djl
from flowyard.engines.djl.pretrained import check_pretrained
from flowyard.engines.djl.translators.registry import check_translator
from flowyard.platform import torchserve_config, torchserve_snapshots
from flowyard.platform.access.keyring import TokenFile
from flowyard.platform.http.kserve.bodies import read_request
from flowyard.platform.http.native import registrations
from flowyard.platform.inspection import inspect
from flowyard.platform.registry.layout import find_workflow
from flowyard.platform.settings import load_settings
from flowyard.platform.sources import Given
from flowyard.schemas.errors import FlowyardError
from flowyard.workflows.torchserve_rows import _parsed

DEEP = b"[" * 100_000
UNREADABLE = {
    "value": b'{"a": "\xff"}',
    "key": b'{"\xff": 1}',
    "deep": b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "open": DEEP,
}


@pytest.fixture(params=UNREADABLE)
def text(request):
    return UNREADABLE[request.param]


def test_parameters_in_a_body(text):
    with pytest.raises(FlowyardError, match="The body is not a JSON object"):
        registrations._json_object(text)


@pytest.mark.parametrize("datatype", ["BYTES", "FP32", "INT64", "BOOL"])
@pytest.mark.parametrize(
    "data",
    [b'["\xff"]', b'[["\xff"]]', b'{"\xff": 1}', b"[1e999]", b"[[1e999]]", b"[" * 3000 + b"]" * 3000, b"[" + b"9" * 400 + b"]"],
)
def test_tensors_of_an_inference_request(datatype, data):
    body = b'{"inputs": [{"name": "x", "datatype": "%s", "shape": [1], "data": %s}]}' % (datatype.encode(), data)
    with pytest.raises(FlowyardError):
        read_request({}, body)


@pytest.mark.parametrize("manifest", ["WAR-INF/MANIFEST.json", "MAR-INF/MANIFEST.json", "MANIFEST.json"])
def test_manifests(tmp_path, manifest, text):
    (tmp_path / manifest).parent.mkdir(exist_ok=True)
    (tmp_path / manifest).write_bytes(text)
    for read in (find_workflow, inspect):
        try:
            read(tmp_path)
        except FlowyardError as error:
            assert str(error)


def test_the_configuration_of_a_hugging_face_model(tmp_path, text):
    (tmp_path / "serving.properties").write_text("engine=Python\noption.model_id=.\n")
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_bytes(text)
    found = djl.recognise(tmp_path)
    assert found is not None
    with pytest.raises(FlowyardError, match="it cannot be told"):
        check_pretrained(tmp_path, found.properties, Path)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_what_translators_read(tmp_path, text, file):
    pytest.importorskip("tokenizers")
    (tmp_path / "serving.properties").write_text(
        "engine=OnnxRuntime\ntranslatorFactory=ai.djl.huggingface.translator.TextClassificationTranslatorFactory\n"
    )
    (tmp_path / "model.onnx").touch()
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"id2label": {"0": "a"}}')
    (tmp_path / file).write_bytes(text)
    with pytest.raises(FlowyardError):
        check_translator(tmp_path, djl.read_folder(tmp_path), {})


def test_tokens(tmp_path, text):
    (tmp_path / "tokens.json").write_bytes(b'{"tokens": [%s]}' % text)
    with pytest.raises(FlowyardError, match="cannot be used"):
        TokenFile(tmp_path).read()


def test_rows_of_a_torchserve_workflow():
    assert _parsed(b'"\xff"') == '"\ufffd"'
    assert _parsed(DEEP) == DEEP.decode()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"m": {"1": {"x": ' + "[" * 5000 + "]" * 5000 + "}}}"])
def test_models_of_torchserves_configuration(text):
    with pytest.raises(FlowyardError):
        torchserve_snapshots.model_defaults(text)
    with pytest.raises(FlowyardError):
        torchserve_config._of_snapshot(Given("model_snapshot", text, "file:1", "model_snapshot"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "[" * 3000, "not valid YAML"),
        ("port: 80.5\n", "port: '80.5' is not allowed"),
        ("inference_address: http://h:1\nport: x\n", "port: 'x'"),
    ],
)
def test_settings(tmp_path, text, words):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(FlowyardError, match=words):
        load_settings(tmp_path / "s.yaml", {}, {})


@pytest.mark.parametrize("given", ["80", " 80 ", "80.0", "8e1"])
def test_a_port_is_read_as_every_number_is(tmp_path, given):
    (tmp_path / "s.yaml").write_text(f"inference_address: http://localhost:1\nport: '{given}'\n")
    settings, _ = load_settings(tmp_path / "s.yaml", {}, {})
    assert (settings.port, settings.inference_address) == (80, "http://localhost:80")
