"""What a DJL model folder says about itself: engine, entry point, settings (DJL §4.1). Nothing of the model is executed here."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from pathlib import Path

import msgspec

from flowyard.engines import discovery
from flowyard.engines.base import find_by_suffix
from flowyard.engines.djl import pretrained
from flowyard.engines.djl.pretrained import is_pretrained
from flowyard.schemas.errors import FlowyardError, InvalidModelError, InvalidRequestError
from flowyard.schemas.models import ModelSpec
from flowyard.schemas.properties import Property, as_mapping, read_properties
from flowyard.schemas.ranks import MOST_RANKS, Ranks

FILE = "serving.properties"
OPTION = "option."
HANDLER = "handle"
#: The package whose modules an entry point may name, and which handlers import.
SHIM = "djl_python"
#: The handler of scikit-learn's models, and what their files are called.
SKLEARN = "djl_python.sklearn_handler"
SKLEARN_SUFFIXES = frozenset({".skops", ".joblib", ".jl", ".pkl", ".pickle", ".cloudpkl"})
#: A handler's file is read to see what it defines, up to this size.
MAX_SOURCE_BYTES = 4 << 20

#: What DJL recognises an engine by, in its order (DJL §4.1).
_FIRST = {"PyTorch": ".pt", "OnnxRuntime": ".onnx"}
_ENGINES = {"python": "Python", "mpi": "Python"}
#: The engine that starts a handler in several processes, and the options that say how many: their product.
_MPI = "mpi"
_DEGREES = ("tensor_parallel_degree", "pipeline_parallel_degree")
#: As many as there are GPUs.
_MOST = "max"
#: Requests that a worker with an asynchronous handler has at the same time, where nothing says how many.
AWAITED_AT_ONCE = 64
#: Key of the file -> field of a `ModelSpec`.
_NUMBERS = {
    "job_queue_size": "job_queue_size",
    "max_dynamic_batch_size": "batch_size",
    "batch_size": "batch_size",
    "max_batch_delay": "max_batch_delay",
    "max_idle_time": "max_idle_time",
    "minWorkers": "min_worker",
    "maxWorkers": "max_worker",
    "option.predict_timeout": "timeout",
}


class DjlModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model folder of DJL's kind.

    Attributes:
        engine: Name of the engine adapter.
        folder: The folder, where the model's own modules are imported from.
        path: What to load: a file, or the name of a module of `djl_python`.
        properties: The entries of its `serving.properties`, empty without one.
    """

    engine: str
    folder: Path
    path: str
    properties: Mapping[str, Property]

    @property
    def parameters(self) -> dict[str, str]:
        """What the handler's initialising call is told: the file's keys, options without their prefix (DJL §7.1)."""
        return {key.removeprefix(OPTION): entry.value for key, entry in self.properties.items()}

    def option(self, name: str, default: str = "") -> str:
        """The value of `option.NAME`."""
        entry = self.properties.get(OPTION + name)
        return entry.value.strip() if entry is not None else default

    @property
    def ranks(self) -> Ranks | None:
        """How a worker with a handler is made of processes; `None` where it is one like any other.

        In MPI mode each process has a part of the model; without it `tensor_parallel_degree` says how many GPUs the one process
        of a worker sees (DJL's `PyModel`, `Connection`).

        Raises:
            InvalidModelError: A degree that is not allowed, or a handler that is awaited in several processes.
        """
        if self.engine != "Python" or self.path == pretrained.MODULE:
            return None
        degree = self._degree()
        engine = self.properties.get("engine")
        by_engine = engine is not None and engine.value.strip().lower() == _MPI
        if not by_engine and self.option("mpi_mode").lower() != "true":
            return Ranks(devices=degree) if degree is not None and degree != 1 else None
        if self.is_asynchronous:
            raise InvalidModelError(f"{FILE}: option.async_mode: not with several processes, which compute every batch together")
        return Ranks(launcher="mpi", count=degree or 0, devices=degree or 0)

    def _degree(self) -> int | None:
        """The product of the degrees; 0 for as many as there are GPUs, `None` where nobody says."""
        entries = [self.properties[OPTION + name] for name in _DEGREES if self.option(name)]
        values = [0 if entry.value.strip() == _MOST else _degree(entry) for entry in entries]
        if not values:
            return None
        product = math.prod(values)
        if product > MOST_RANKS:
            raise InvalidModelError(
                f"{FILE}:{entries[-1].line}: {entries[-1].key}: {product} processes are more than {MOST_RANKS}"
            )
        return product

    @property
    def is_asynchronous(self) -> bool:
        """Whether its handler is awaited (DJL §7.1, `async_mode`)."""
        return self.engine == "Python" and self.path != pretrained.MODULE and self.option("async_mode").lower() == "true"

    def concurrency(self, batch_size: int) -> int:
        """Most requests that one of its workers computes side by side, each answered when it is done; 1 where it takes batches.

        Args:
            batch_size: What it is registered with; with a handler that is awaited, more than one is meant for this.

        Raises:
            InvalidModelError: `option.max_rolling_batch_size` is no number that is allowed.
        """
        if not self.is_asynchronous:
            return 1
        entry = self.properties.get(OPTION + "max_rolling_batch_size")
        if entry is not None and entry.value.strip():
            return int(str(_number(entry, "batch_size")))
        return batch_size if batch_size > 1 else AWAITED_AT_ONCE

    def loading_timeout_s(self) -> float | None:
        """How long loading may take, where the file says so.

        Raises:
            InvalidModelError: The value is not allowed.
        """
        entry = self.properties.get(OPTION + "model_loading_timeout")
        return None if entry is None or not entry.value.strip() else float(str(_number(entry, "timeout")))

    def spec(self, device_type: str = "cpu") -> ModelSpec:
        """What the file says about serving the model.

        Args:
            device_type: Where it runs: `cpu.maxWorkers` counts more than `maxWorkers`.

        Raises:
            InvalidModelError: A value that is not allowed; the message names line, key and value.
        """
        given: dict[str, object] = {}
        for key, field in _NUMBERS.items():
            entry = self.properties.get(f"{device_type}.{key}") or self.properties.get(key)
            # DJL takes a number below 1, or none, for its default.
            if entry is not None and not entry.value.strip().startswith(("-", "0")) and entry.value.strip():
                given[field] = _number(entry, field)
        devices = self.properties.get("load_on_devices")
        if devices is not None and devices.value.strip():
            given["device"] = devices.value.strip()
        return msgspec.convert(given, ModelSpec)


def _degree(entry: Property) -> int:
    text = entry.value.strip()
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_RANKS:
        return int(text)
    expected = f"a number from 1 to {MOST_RANKS}, or {_MOST}"
    raise InvalidModelError(f"{FILE}:{entry.line}: {entry.key}: {entry.value[:50]!r} is not allowed; expected {expected}")


def _number(entry: Property, field: str) -> object:
    try:
        return getattr(msgspec.convert({field: entry.value.strip()}, ModelSpec, strict=False), field)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - ")[0]
        raise InvalidModelError(f"{FILE}:{entry.line}: {entry.key}: {entry.value[:50]!r} is not allowed: {reason}") from None


def recognise(path: Path, engine: str | None = None) -> DjlModel | None:
    """Finds out whether a path is a model of DJL's kind.

    Args:
        path: A folder, a `.py` file, or a `serving.properties`, which stands for its folder.
        engine: The engine that the user named, over what the file says.

    Returns:
        The model; `None` where there is no `serving.properties`, no Python file that defines `handle` or imports `djl_python`,
        no file of a scikit-learn model, and no model of Hugging Face's.

    Raises:
        InvalidModelError: The folder asks for something that is not there or not supported.
    """
    path = path.parent if path.name == FILE and path.is_file() else path
    folder = discovery.descend(path) if path.is_dir() else path.parent
    properties = read_folder(folder)
    if path.is_file() and path.suffix != ".py":
        return None
    engine = _engine(properties, engine)
    if engine in ("Python", None):
        found = _python(folder, path, properties, engine)
        if found is not None:
            return found
        if path.is_dir() and is_pretrained(folder, properties):
            return DjlModel(engine="Python", folder=folder, path=pretrained.MODULE, properties=properties)
    if not properties or path.is_file():
        return None
    name, model = _other(folder, properties, engine)
    return DjlModel(engine=name, folder=folder, path=str(model), properties=properties)


def read_folder(folder: Path) -> Mapping[str, Property]:
    """What the `serving.properties` of a folder says, by key; nothing where there is none.

    Raises:
        InvalidModelError: It cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        return as_mapping(read_properties(file))
    except InvalidRequestError as error:
        raise InvalidModelError(error.message) from error


def _engine(properties: Mapping[str, Property], asked: str | None) -> str | None:
    entry = properties.get("engine")
    name = asked or (entry.value.strip() if entry is not None else "")
    if not name:
        return None
    if name.lower() in _ENGINES:
        return _ENGINES[name.lower()]
    try:
        return discovery.canonical(name)
    except FlowyardError as error:
        place = "" if asked or entry is None else f"{FILE}:{entry.line}: "
        raise InvalidModelError(f"{place}{error}") from error


def _python(folder: Path, path: Path, properties: Mapping[str, Property], engine: str | None) -> DjlModel | None:
    entry = properties.get(OPTION + "entryPoint")
    if entry is not None and entry.value.strip():
        return DjlModel(engine="Python", folder=folder, path=_entry_point(folder, entry), properties=properties)
    stem = properties[OPTION + "modelName"].value.strip() if OPTION + "modelName" in properties else folder.name
    candidates = [path] if path.is_file() else [folder / f"{stem}.py", folder / "model.py"]
    handler = properties[OPTION + "handler"].value.strip() if OPTION + "handler" in properties else HANDLER
    for file in candidates:
        if file.is_file() and is_handler(file, handler):
            return DjlModel(engine="Python", folder=folder, path=str(file), properties=properties)
    suffixes = {file.suffix for file in folder.iterdir()} if path.is_dir() else set()
    goes_first = engine is None and not suffixes.isdisjoint(_FIRST.values())
    if not goes_first and not suffixes.isdisjoint(SKLEARN_SUFFIXES):
        return DjlModel(engine="Python", folder=folder, path=SKLEARN, properties=properties)
    return None


def _entry_point(folder: Path, entry: Property) -> str:
    name = entry.value.strip()
    place = f"{FILE}:{entry.line}: {entry.key}"
    if name.split(".")[0] == SHIM:
        return name
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise InvalidModelError(f"{place}: {name!r} leads out of the model's folder")
    if not file.is_file():
        raise InvalidModelError(f"{place}: there is no file {name!r} in the model's folder")
    return str(file)


def is_handler(file: Path, handler: str) -> bool:
    """Whether a Python file is written for DJL: it binds the handler's name, or imports `djl_python`.

    It is parsed, not run. A file that does not parse is taken for one, so that the worker tells what is wrong with it.
    """
    if file.stat().st_size > MAX_SOURCE_BYTES:
        return False
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return SHIM.encode() in file.read_bytes()
    return any(_binds(node, handler) or _imports_shim(node) for node in tree.body)


def _binds(node: ast.stmt, name: str) -> bool:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name == name
        case ast.ImportFrom() | ast.Import():
            return any((alias.asname or alias.name) == name for alias in node.names)
        case ast.Assign():
            return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
        case _:
            return False


def _imports_shim(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] == SHIM
    return isinstance(node, ast.Import) and any(alias.name.split(".")[0] == SHIM for alias in node.names)


def _other(folder: Path, properties: Mapping[str, Property], engine: str | None) -> tuple[str, Path]:
    """The model of an engine: what DJL looks for comes first, so that other forms of the same weights may lie beside it."""
    named = properties.get(OPTION + "modelName")
    preferred = (named.value.strip() if named is not None else "") or "model"
    for name, suffix in _FIRST.items():
        model = find_by_suffix(folder, (suffix,), preferred) if engine in (name, None) else None
        if model is not None:
            return name, model
    if engine is None:
        return discovery.infer(folder)
    model = discovery.find(engine).recognise(folder)
    if model is None:
        entry = properties.get("engine")
        place = f"{FILE}:{entry.line}: " if entry is not None else ""
        raise InvalidModelError(f"{place}no model in the folder that the engine {engine} can load")
    return engine, model
