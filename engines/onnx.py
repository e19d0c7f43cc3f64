"""ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flowyard.engines.base import Call, ModelSource, Outcome, find_by_suffix
from flowyard.engines.failures import describe, is_out_of_memory, log
from flowyard.engines.inputs import Array
from flowyard.engines.rows import RowBatcher
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError, InvalidInputError, InvalidModelError, NodeError, OutOfMemoryError
from flowyard.schemas.tensors import DTYPES, Signature, TensorSpec
from flowyard.schemas.values import Value

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
#: Only what ends the process is worth a line of the library's own; errors arrive as exceptions.
_FATAL = 4
#: ONNX's names of dtypes, where they are not numpy's.
_DTYPES = {"float": "float32", "double": "float64"}
_CODE_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE_PLACE = re.compile(r"\S*/onnxruntime/\S+:\d+ [^\n]*?\) (?=[A-Z])")
_SHAPE_PROBLEM = re.compile(r"shape|dimension|broadcast|\brank\b", re.IGNORECASE)


class OnnxRuntimeEngine:
    """Loads `.onnx` files."""

    name: ClassVar[str] = "OnnxRuntime"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)

    def recognise(self, path: Path) -> Path | None:
        """Finds the `.onnx` file at or in a path."""
        return find_by_suffix(path, self.suffixes)

    def load(self, source: ModelSource, device: Device) -> OnnxModel:
        """Loads a model into a session.

        Args:
            source: The file, or a folder with one; `threads` are its intra-op threads.
            device: `cpu`, or a CUDA device.

        Returns:
            The model.

        Raises:
            InvalidModelError: ONNX Runtime is not installed, refuses the file, or cannot use the device.
            OutOfMemoryError: The model does not fit.
        """
        file = self.recognise(source.file)
        if file is None:
            raise InvalidModelError(f"no single .onnx file at {source.file.name!r}")
        try:
            import onnxruntime  # noqa: PLC0415 - a server without ONNX models runs without it
        except ImportError as error:
            raise InvalidModelError(f"ONNX Runtime cannot be imported: {error} (pip install 'flowyard[onnx]')") from None
        onnxruntime.set_default_logger_severity(_FATAL)
        try:
            session = _session(onnxruntime, file, source.threads, device)
        except Exception as error:
            failure = OutOfMemoryError if is_out_of_memory(error) else InvalidModelError
            raise failure(f"{file.name}: {_reason(error).replace(str(file), file.name)}") from error
        _require_device(onnxruntime, session, device)
        return OnnxModel(session, source.spec.batch_size)


def _session(onnxruntime: Any, file: Path, threads: int, device: Device) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread takes the core that another worker would use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [_CPU]
    if device.type == "gpu":
        _preload_cuda(onnxruntime)
        providers = [(_CUDA, {"device_id": str(device.id)}), _CPU]
    return onnxruntime.InferenceSession(file, options, providers=providers, enable_fallback=0)


def _preload_cuda(onnxruntime: Any) -> None:
    """Makes CUDA libraries that came as Python packages known; the library prints what it does not find."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _require_device(onnxruntime: Any, session: Any, device: Device) -> None:
    """Refuses a session that quietly runs on the CPU although a GPU was asked for."""
    if device.type != "gpu" or _CUDA in session.get_providers():
        return
    found = ", ".join(f"{ep.ep_name} on {ep.device.type.name.lower()} {ep.device.device_id}" for ep in _ep_devices(onnxruntime))
    raise InvalidModelError(f"{device}: ONNX Runtime has no such CUDA device here (it found {found or 'none'})")


def _ep_devices(onnxruntime: Any) -> Sequence[Any]:
    return onnxruntime.get_ep_devices() if hasattr(onnxruntime, "get_ep_devices") else ()


class OnnxModel:
    """A model in a session."""

    def __init__(self, session: Any, batch_size: int | None) -> None:
        self._session = session
        inputs, outputs = session.get_inputs(), session.get_outputs()
        self.signature: Signature | None = Signature(
            inputs=tuple(map(_tensor_spec, inputs)), outputs=tuple(map(_tensor_spec, outputs))
        )
        self._names = [item.name for item in inputs]
        self._output_names = [item.name for item in outputs]
        row_wise = _shares_rows([*inputs, *outputs])
        self.rows = RowBatcher(self._run, _failure, self.signature, row_wise=row_wise, max_rows=batch_size)

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch, with as few runs of the session as the inputs' shapes allow."""
        return self.rows.predict(batch)

    def unload(self) -> None:
        """Ends the session."""
        self._session = None

    def _run(self, arrays: tuple[Array, ...]) -> Mapping[str, Value]:
        outputs = self._session.run(self._output_names, dict(zip(self._names, arrays, strict=True)))
        return {name: _plain(output) for name, output in zip(self._output_names, outputs, strict=True)}


def _tensor_spec(item: Any) -> TensorSpec:
    match = re.fullmatch(r"tensor\((\w+)\)", item.type)
    if match is None:
        return TensorSpec(name=item.name)
    dtype = _DTYPES.get(match[1], match[1])
    # A tensor of unknown rank and a scalar look alike here; of the two, the former is the cautious reading.
    shape = tuple(size if isinstance(size, int) else -1 for size in item.shape) or None
    return TensorSpec(name=item.name, dtype=dtype if dtype in DTYPES else "", shape=shape)


def _shares_rows(items: list[Any]) -> bool:
    """Whether the first dimension of everything is one and the same symbol, which makes the model row-wise by declaration."""
    first = {item.shape[0] if item.shape else None for item in items}
    return len(first) == 1 and isinstance(first.pop(), str)


def _plain(output: Any) -> Value:
    """Sequences and maps, as converted scikit-learn models have them, with the string keys that a value needs."""
    if isinstance(output, dict):
        return {str(key): _plain(item) for key, item in output.items()}
    if isinstance(output, list):
        return [_plain(item) for item in output]
    return output.item() if isinstance(output, np.generic) else output


def _failure(error: Exception) -> FlowyardError:
    reason = _reason(error)
    if is_out_of_memory(error):
        return OutOfMemoryError(reason)
    if type(error).__name__ == "InvalidArgument" or _SHAPE_PROBLEM.search(reason):
        return InvalidInputError(reason)
    log(error)
    return NodeError(describe(error))


def _reason(error: Exception) -> str:
    """ONNX Runtime's own words, without its error code and the place in its source."""
    reason = _SOURCE_PLACE.sub("", _CODE_PREFIX.sub("", str(error)))
    return " ".join(reason.split())
