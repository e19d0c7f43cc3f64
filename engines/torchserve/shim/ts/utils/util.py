"""Label mappings, classes of modules, and the exception that carries a status."""

from __future__ import annotations

import enum
import functools
import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

logger = logging.getLogger(__name__)

#: HTML tags and character references.
CLEANUP_REGEX = re.compile(r"<.*?>|&([a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")


class PT2Backend(enum.StrEnum):
    """Backends of `torch.compile` that a `model-config.yaml` may name."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"
    TORCHXLA_TRACE_ONCE = "torchxla_trace_once"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    HPU_BACKEND = "hpu_backend"


class PredictionException(Exception):
    """Fails a batch with a status and a message of the handler's own."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """The classes that a module itself defines, those derived from `parent_class` where one is given."""
    own = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]
    return own if parent_class is None else [one for one in own if issubclass(one, parent_class)]


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether `torch.compile` may be asked for a backend."""
    known = backend in [one.value for one in PT2Backend]
    if not known:
        logger.warning("%s is not a supported backend", backend)
    return known


def load_label_mapping(mapping_file_path: str) -> dict[str, str] | None:
    """Reads an `index_to_name.json`: class -> label, or class -> list whose last entry is the label.

    Args:
        mapping_file_path: The file.

    Returns:
        The labels by class, `None` without a file.

    Raises:
        ValueError: It is no such mapping.
    """
    file = Path(mapping_file_path)
    if not file.is_file():
        logger.warning("%r is missing. Inference output will not include class name.", file.name)
        return None
    given = json.loads(file.read_bytes())
    if not isinstance(given, dict):
        raise ValueError('index->name JSON mapping should be in "class": "label" format.')
    names = given.get("object_type_names")
    if isinstance(names, list):
        return {str(index): name for index, name in enumerate(names)}
    return {key: _label(value) for key, value in given.items()}


def _label(value: Any) -> str:
    label = value[-1] if isinstance(value, list) and value else value
    if not isinstance(label, str):
        raise ValueError("labels in index->name mapping must be either str or List[str]")
    return label


def map_class_to_label(
    probs: Sequence[Sequence[Any]],
    mapping: dict[str, str] | None = None,
    lbl_classes: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """Tells probabilities by label.

    Args:
        probs: For each row, the probabilities of its classes.
        mapping: Labels by class; without, the class itself is the label.
        lbl_classes: For each row, the classes that `probs` are of; without, all of them in order.

    Returns:
        For each row, probabilities by label.

    Raises:
        ValueError: `probs` is no list or `mapping` no mapping.
    """
    if not isinstance(probs, list):
        raise ValueError("Convert classes to list before doing mapping")
    if mapping is not None and not isinstance(mapping, dict):
        raise ValueError("Mapping must be a dict")
    rows = [range(len(row)) for row in probs] if lbl_classes is None else lbl_classes
    return [
        {_name_of(number, mapping): prob for number, prob in zip(classes, row, strict=False)}
        for classes, row in zip(rows, probs, strict=False)
    ]


def _name_of(number: int, mapping: dict[str, str] | None) -> str:
    return str(number) if mapping is None else mapping[str(number)]


def get_yaml_config(yaml_file_path: str) -> Any:
    """Reads a YAML file."""
    return yaml.safe_load(Path(yaml_file_path).read_bytes())


def deprecated(version: str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning) -> Callable[[Any], Any]:
    """Marks a function as superseded: calling it warns."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(f"{function.__name__} is deprecated in {version} and moved to {replacement}", klass, stacklevel=2)
            return function(*args, **kwargs)

        return called

    return decorate
