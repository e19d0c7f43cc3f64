"""Folders of Hugging Face's models, which DJL serves with `djl_python.huggingface` (DJL §4.1). None of it is executed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from flowyard.schemas.errors import InvalidModelError
from flowyard.schemas.properties import Property
from flowyard.schemas.values import NOT_JSON

#: The module of DJL's that stands for the handler here.
MODULE = "djl_python.huggingface"
CONFIG = "config.json"
#: What serves the model, where it is there, instead.
_OTHER_MODELS = frozenset({".onnx", ".pt", ".pt2", ".ts", ".torchscript"})
_OTHER_TRANSLATORS = ("translatorFactory", "translator", "application")
_CONFIG_LIMIT_BYTES = 16 << 20

#: How the name of an architecture ends -> what such a model is for.
_TASKS = {
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "WithLMHeadModel": "text2text-generation",
    "LMHeadModel": "text-generation",
    "BloomModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "MTModel": "text2text-generation",
    "EncoderDecoderModel": "text2text-generation",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
}
#: Values that stand for what is done anyway; all others of these options ask for what is not there.
_DEFAULTS = {
    "rolling_batch": ("", "auto", "disable"),
    "enable_streaming": ("", "false"),
    "enable_lora": ("", "false"),
    "tensor_parallel_degree": ("", "1"),
    "quantize": ("",),
    "load_in_8bit": ("", "false"),
    "load_in_4bit": ("", "false"),
    "device_map": ("",),
    "input_formatter": ("",),
    "output_formatter": ("", "json"),
}
DTYPES = {"": "", "auto": "auto", "fp32": "float32", "float32": "float32", "fp16": "float16", "float16": "float16"} | {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
}


def is_pretrained(folder: Path, properties: Mapping[str, Property]) -> bool:
    """Whether a folder without code is a model of Hugging Face's: `option.model_id`, or weights with a config.json.

    Args:
        folder: The folder.
        properties: What its `serving.properties` says.
    """
    if _value(properties, "model_id"):
        return True
    if any(properties[key].value.strip() for key in _OTHER_TRANSLATORS if key in properties):
        return False
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if CONFIG not in names or any(Path(name).suffix.lower() in _OTHER_MODELS for name in names):
        return False
    weights = any(name.endswith(".safetensors") or name.startswith("pytorch_model") for name in names)
    return weights and bool(_architecture(folder))


def check_pretrained(folder: Path, properties: Mapping[str, Property], resolve: Callable[[str], Path]) -> None:
    """Refuses what is not supported. It runs in the server process.

    Args:
        folder: The folder with the `serving.properties`.
        properties: What that file says.
        resolve: Finds what an absolute path means, and raises where the settings do not allow it.

    Raises:
        InvalidModelError: A model that is not here, or options that ask for something else; the message names line and key.
        ForbiddenError: A path that the settings do not allow.
        ModelNotFoundError: A path where nothing is.
    """
    for name, allowed in _DEFAULTS.items():
        if _value(properties, name).lower() not in allowed:
            expected = " or ".join(value for value in allowed if value) or "no value"
            raise _refusal(properties, name, f"{_value(properties, name)!r} is not supported; expected {expected}")
    if _value(properties, "dtype").lower() not in DTYPES:
        known = ", ".join(name for name in DTYPES if name)
        raise _refusal(properties, "dtype", f"{_value(properties, 'dtype')!r} is not supported; expected one of {known}")
    place = _place(folder, properties, resolve)
    if not (place / CONFIG).is_file():
        raise InvalidModelError(f"there is no {CONFIG} in the model's folder {place.name!r}")
    if not task_of(place, asked_task(properties)):
        names = _architecture(place) or "an architecture that it does not name"
        raise InvalidModelError(f"{CONFIG}: it cannot be told what {names} is for; say it with option.task")


def asked_task(properties: Mapping[str, Property]) -> str:
    """The task that the file names."""
    return _value(properties, "task") or (properties["task"].value.strip() if "task" in properties else "")


def task_of(place: Path, asked: str = "") -> str:
    """What a model is for, by its architecture where nobody says; empty where that tells nothing.

    Args:
        place: The model's folder.
        asked: What the user says.
    """
    if asked:
        return asked.lower().replace("_", "-")
    architecture = _architecture(place)
    return next((task for ending, task in _TASKS.items() if architecture.endswith(ending)), "")


def model_place(root: Path, model_id: str) -> Path:
    """The folder that `option.model_id` means."""
    return root / model_id.removeprefix("file://") if model_id else root


def _place(folder: Path, properties: Mapping[str, Property], resolve: Callable[[str], Path]) -> Path:
    model_id = _value(properties, "model_id")
    place = model_place(folder, model_id)
    if place.resolve().is_relative_to(folder.resolve()):
        if place.is_dir():
            return place
        hint = "nothing is fetched for it: register the model by an hf: or s3: url, where the settings allow it"
        raise _refusal(properties, "model_id", f"{model_id!r} is no folder of the model, and {hint}")
    return resolve(str(place))


def _architecture(place: Path) -> str:
    """The first architecture that config.json names; empty where there is none."""
    file = place / CONFIG
    try:
        if file.stat().st_size > _CONFIG_LIMIT_BYTES:
            return ""
        config = msgspec.json.decode(file.read_bytes())
    except (OSError, *NOT_JSON):
        return ""
    found = config.get("architectures") if isinstance(config, dict) else None
    return str(found[0]) if isinstance(found, list) and found else ""


def _value(properties: Mapping[str, Property], name: str) -> str:
    entry = properties.get(f"option.{name}")
    return entry.value.strip() if entry is not None else ""


def _refusal(properties: Mapping[str, Property], name: str, problem: str) -> InvalidModelError:
    entry = properties[f"option.{name}"]
    return InvalidModelError(f"serving.properties:{entry.line}: key {entry.key}: {problem}")
