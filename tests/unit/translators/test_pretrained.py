"""Folders of Hugging Face's models: which are, and what is refused before anything is loaded."""

import json
from pathlib import Path

import pytest
from support.djl import properties_of, write_model

from flowyard.engines.djl import folder as djl
from flowyard.engines.djl.pretrained import MODULE, check_pretrained, task_of
from flowyard.schemas.errors import FlowyardError, ForbiddenError

CONFIG = json.dumps({"architectures": ["BertForSequenceClassification"]})
HANDLER = "def handle(inputs):\n    return None\n"


def forbidden(path):
    raise ForbiddenError(f"not {path}")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config.json": CONFIG, "model.safetensors": ""}, MODULE),
        ({"config.json": CONFIG, "pytorch_model.bin": ""}, MODULE),
        ({"config.json": CONFIG, "model.safetensors": "", "serving.properties": "engine=Python"}, MODULE),
        ({"serving.properties": "option.model_id=weights"}, MODULE),
        ({"serving.properties": "engine=Python\noption.entryPoint=djl_python.huggingface"}, MODULE),
        ({"serving.properties": "option.model_id=weights", "model.py": HANDLER}, "model.py"),
        ({"config.json": CONFIG, "model.safetensors": "", "model.onnx": "", "serving.properties": "x=1"}, "model.onnx"),
        ({"model.safetensors": "", "model.pt": "", "serving.properties": "engine=PyTorch"}, "model.pt"),
        ({"a.onnx": "", "b.onnx": "", "serving.properties": "option.modelName=b"}, "b.onnx"),
        ({"config.json": "{}", "model.safetensors": ""}, None),
        ({"config.json": "[", "model.safetensors": ""}, None),
        ({"config.json": CONFIG}, None),
        ({"config.json": CONFIG, "model.safetensors": "", "serving.properties": "engine=PyTorch"}, "model.safetensors"),
        ({"config.json": CONFIG, "model.safetensors": "", "serving.properties": "application=fill_mask"}, "model.safetensors"),
    ],
)
def test_what_serves_a_folder(tmp_path, files, expected):
    found = djl.recognise(write_model(tmp_path, files))
    assert (found and Path(found.path).name) == (expected and Path(expected).name)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForQuestionAnswering", "question-answering"),
        ("GPT2LMHeadModel", "text-generation"),
        ("T5WithLMHeadModel", "text2text-generation"),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("BertModel", ""),
        ("", ""),
    ],
)
def test_tasks(tmp_path, architecture, task):
    write_model(tmp_path, {"config.json": json.dumps({"architectures": [architecture]})})
    assert task_of(tmp_path) == task
    assert task_of(tmp_path, "Fill_Mask") == "fill-mask"


PLACE = "serving.properties:2: key option."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#\noption.model_id=bert-base-uncased", PLACE + "model_id: 'bert-base-uncased' is no folder of the model"),
        ("#\noption.model_id=s3://bucket/model", "register the model by an hf: or s3: url"),
        ("#\noption.model_id=/etc", "not /etc"),
        ("#\noption.model_id=../..", "not /"),
        ("#\noption.rolling_batch=vllm", PLACE + "rolling_batch: 'vllm' is not supported; expected auto or disable"),
        ("#\noption.tensor_parallel_degree=4", PLACE + "tensor_parallel_degree: '4' is not supported; expected 1"),
        ("#\noption.quantize=awq", PLACE + "quantize: 'awq' is not supported; expected no value"),
        ("#\noption.load_in_8bit=true", PLACE + "load_in_8bit"),
        ("#\noption.enable_streaming=true", PLACE + "enable_streaming"),
        ("#\noption.enable_lora=true", PLACE + "enable_lora"),
        ("#\noption.device_map=auto", PLACE + "device_map"),
        ("#\noption.dtype=int4", PLACE + "dtype: 'int4' is not supported; expected one of auto, fp32"),
        ("#\noption.model_id=empty", "there is no config.json in the model's folder 'empty'"),
        ("#\noption.model_id=base", "config.json: it cannot be told what BertModel is for; say it with option.task"),
    ],
)
def test_refusals(tmp_path, text, expected):
    base = {"base/config.json": json.dumps({"architectures": ["BertModel"]}), "empty/x": "", "config.json": CONFIG}
    write_model(tmp_path / "m", base)
    with pytest.raises(FlowyardError) as caught:
        check_pretrained(tmp_path / "m", properties_of(text), forbidden)
    assert expected in caught.value.message


def test_what_is_supported(tmp_path):
    write_model(tmp_path, {"config.json": CONFIG, "below/config.json": json.dumps({"architectures": ["BertModel"]})})
    check_pretrained(tmp_path, {}, forbidden)
    check_pretrained(tmp_path, properties_of("option.rolling_batch=auto\noption.dtype=bf16\noption.model_id=."), forbidden)
    check_pretrained(tmp_path, properties_of("option.model_id=below\noption.task=feature-extraction"), forbidden)
    check_pretrained(tmp_path / "x", properties_of(f"option.model_id={tmp_path}"), Path)
