"""Reads one entry of `models:`, in snake_case or DJL's camelCase (DJL §3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from flowyard.schemas.models import ModelSpec
from flowyard.schemas.tensors import DTYPES, TensorSpec
from flowyard.workflows import fields
from flowyard.workflows.problems import Problems
from flowyard.workflows.references import split_registered
from flowyard.workflows.source import At, Entry, Mapping, Node, Scalar, Sequence, kind_of, to_value

Reader: TypeAlias = Callable[[Node, str, Problems], Any]

#: DJL's spelling of the same settings. There, a number that is not positive means: use the default.
CAMEL = {
    "modelUrl": "url",
    "engineName": "engine",
    "loadOnDevices": "device",
    "queueSize": "job_queue_size",
    "batchSize": "batch_size",
    "maxBatchDelayMillis": "max_batch_delay",
    "maxIdleSeconds": "max_idle_time",
    "minWorkers": "min_worker",
    "maxWorkers": "max_worker",
    "dynamicAdapters": "dynamic_adapters",
}
#: Keys of DJL that help its model zoo to find a model; here the URL says it all.
IGNORED = frozenset({"version", "filters", "application", "modelName"})
_JAVA = frozenset({"translator", "translatorFactory"})
_TYPES = {field.encode_name: field.type for field in msgspec.structs.fields(ModelSpec)}


def read_model(name: str, node: Node, problems: Problems) -> ModelSpec | None:
    """Reads one model.

    Args:
        name: Its name in the workflow, for messages.
        node: A URL or a mapping of settings.
        problems: Receives what is wrong.

    Returns:
        The model, or `None` with problems noted.
    """
    if isinstance(node, Scalar) and isinstance(node.value, str) and node.value:
        return ModelSpec(url=local_url(node.value))
    if not isinstance(node, Mapping):
        given = "an empty string" if isinstance(node, Scalar) and node.value == "" else kind_of(node)
        problems.error(f'model "{name}" must be a URL or a mapping, not {given}', node, name=name)
        return None
    settings: dict[str, Any] = {}
    # Whoever writes in one spelling is shown that one.
    known = CAMEL if node.entries.keys() & CAMEL.keys() else _TYPES
    for key, entry in node.entries.items():
        if key in IGNORED or key in _JAVA or CAMEL.get(key, key) in _TYPES:
            _read_setting(name, key, entry, settings, problems)
        else:
            message = f'model "{name}": unknown key `{key}`'
            problems.error(message, entry.key, name=key, nearest=problems.nearest(key, known))
    return _build(name, node, settings, problems)


def setting_places(node: Node) -> dict[str, At]:
    """Where the settings of a model stand.

    Args:
        node: What stands in the file for the model.

    Returns:
        Places by name of the setting in snake_case.
    """
    entries = node.entries.items() if isinstance(node, Mapping) else ()
    return {CAMEL.get(key, key): At(entry.value.line, entry.value.column) for key, entry in entries}


def local_url(url: str) -> str:
    """Takes `{model_dir}`, the folder of the workflow file, out of a URL: the rest is relative to that folder.

    Args:
        url: As written.

    Returns:
        The URL; one inside the workflow's folder is a relative path.
    """
    for prefix in ("file://{model_dir}", "file:{model_dir}", "{model_dir}"):
        if url.startswith(prefix):
            return url[len(prefix) :].lstrip("/").replace("{model_dir}", ".") or "."
    return url.replace("{model_dir}", ".")


def _read_setting(name: str, key: str, entry: Entry, settings: dict[str, Any], problems: Problems) -> None:
    setting = CAMEL.get(key, key)
    if key in IGNORED:
        problems.warning(f'model "{name}": `{key}` has no effect here', entry.key, name=key)
    elif key in _JAVA:
        problems.error(f'model "{name}": `{key}` names a Java class, which cannot run here', entry.key, name=key)
    elif setting in settings:
        problems.error(f'model "{name}": `{key}` says `{setting}` a second time', entry.key, name=key)
    else:
        value = _READERS.get(setting, _read_plain)(entry.value, key, problems)
        if value is not None and not (setting != key and _is_default(value)):
            checked = fields.typed(value, _TYPES[setting], key, entry.value, problems)
            settings[setting] = checked


def _is_default(value: Any) -> bool:
    return isinstance(value, (int, float)) and value <= 0


def _read_plain(node: Node, what: str, problems: Problems) -> Any:
    """Numbers, booleans and enumerations; the type of the field decides."""
    del what, problems
    return to_value(node)


def _read_url(node: Node, what: str, problems: Problems) -> str | None:
    url = fields.text(node, what, problems)
    return None if url is None else local_url(url)


def _read_registered(node: Node, what: str, problems: Problems) -> str | None:
    reference = fields.text(node, what, problems)
    if reference is not None and split_registered(reference) is None:
        problems.error(f"`{what}` must be the name of a registered model: name[:version]", node, name=reference)
    return reference


def _read_device(node: Node, what: str, problems: Problems) -> str | None:
    if not isinstance(node, Sequence):
        return fields.text(node, what, problems)
    names = [fields.text(item, what, problems) for item in node.items]
    return ";".join(name for name in names if name is not None) or None


def read_options(node: Node, what: str, problems: Problems) -> dict[str, str] | None:
    """Reads a mapping of strings; numbers and booleans count as they are written.

    Args:
        node: What stands in the file.
        what: The setting's name for the messages.
        problems: Receives what is wrong.

    Returns:
        The mapping, or `None` with a problem noted.
    """
    found = fields.mapping(node, what, problems)
    if found is None:
        return None
    options: dict[str, str] = {}
    for key, entry in found.entries.items():
        if isinstance(entry.value, Scalar) and entry.value.value is not None:
            options[key] = entry.value.text
        else:
            problems.error(f"`{what}.{key}` must be a string, not {kind_of(entry.value)}", entry.value, name=key)
    return options


def _read_tensors(node: Node, what: str, problems: Problems) -> tuple[TensorSpec, ...] | None:
    if not isinstance(node, Sequence):
        problems.error(f"`{what}` must be a list of {{name, dtype, shape}}", node, name=what)
        return None
    found = [_read_tensor(item, what, problems) for item in node.items]
    return tuple(tensor for tensor in found if tensor is not None)


def _read_tensor(node: Node, what: str, problems: Problems) -> TensorSpec | None:
    if not isinstance(node, Mapping) or "name" not in node.entries:
        problems.error(f"`{what}` must be a list of {{name, dtype, shape}}", node, name=what)
        return None
    for key, entry in node.entries.items():
        if key not in ("name", "dtype", "shape"):
            nearest = problems.nearest(key, ("name", "dtype", "shape"))
            problems.error(f"`{what}`: unknown key `{key}`", entry.key, name=key, nearest=nearest)
    name = fields.text(node.entries["name"].value, "name", problems)
    dtype = _read_dtype(node.entries.get("dtype"), problems)
    shape = _read_shape(node.entries.get("shape"), problems)
    return None if name is None else TensorSpec(name=name, dtype=dtype, shape=shape)


def _read_dtype(entry: Entry | None, problems: Problems) -> str:
    if entry is None:
        return ""
    dtype = fields.text(entry.value, "dtype", problems)
    if dtype is None or dtype in DTYPES:
        return dtype or ""
    problems.error(f"unknown dtype `{dtype}`", entry.value, name=dtype, nearest=problems.nearest(dtype, sorted(DTYPES)))
    return ""


def _read_shape(entry: Entry | None, problems: Problems) -> tuple[int, ...] | None:
    if entry is None:
        return None
    axes = to_value(entry.value)
    if not isinstance(axes, list) or not all(axis is None or (type(axis) is int and axis >= -1) for axis in axes):
        problems.error("`shape` must be a list of sizes, null for one that varies", entry.value, name="shape")
        return None
    return tuple(-1 if axis is None else axis for axis in axes)


_READERS: dict[str, Reader] = {
    "url": _read_url,
    "model": _read_registered,
    "engine": fields.text,
    "device": _read_device,
    "max_batch_delay": fields.milliseconds,
    "max_idle_time": fields.seconds,
    "timeout": fields.seconds,
    "inputs": _read_tensors,
    "outputs": _read_tensors,
    "arguments": read_options,
    "options": read_options,
}


def _build(name: str, node: Mapping, settings: dict[str, Any], problems: Problems) -> ModelSpec | None:
    given = {key: value for key, value in settings.items() if value is not None}
    spec = ModelSpec(**given)
    if not ({"url", "modelUrl", "model"} & set(node.entries)):
        problems.error(f'model "{name}" needs `url` or `model`', node, name=name)
    elif spec.url and spec.model:
        problems.error(f'model "{name}" has both `url` and `model`; one of them says which model it is', node, name=name)
    if spec.min_worker is not None and spec.max_worker is not None and spec.min_worker > spec.max_worker:
        message = f'model "{name}": min_worker {spec.min_worker} is more than max_worker {spec.max_worker}'
        problems.error(message, node, name=name)
    return spec
