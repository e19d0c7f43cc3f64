"""PyTorch models: TorchScript, torch.export, and weights with a class."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from flowyard.engines.base import Call, ModelSource, Outcome, find_by_suffix
from flowyard.engines.failures import describe, first_line, is_out_of_memory, log
from flowyard.engines.inputs import Array
from flowyard.engines.networks import Network, load_network, reason_of
from flowyard.engines.rows import RowBatcher
from flowyard.schemas.devices import Device
from flowyard.schemas.errors import FlowyardError, InvalidInputError, InvalidModelError, NodeError, OutOfMemoryError, UserError
from flowyard.schemas.tensors import Signature
from flowyard.schemas.values import Value

_INPUT_PROBLEM = re.compile(
    r"\bshapes?\b|\bsizes?\b|dimension|-?D input|broadcast|scalar type|\bdtype|out of range|Guard failed|must match",
    re.IGNORECASE,
)
_DTYPE_PROBLEM = re.compile(r"scalar type|\bdtype", re.IGNORECASE)
_DTYPE_HINT = " (declare the inputs of the model with their dtypes, and numbers are converted)"
#: How TorchScript ends its report of an error; what comes before is the traceback of the script.
_SCRIPT_ERROR = "RuntimeError: "


class PyTorchEngine:
    """Loads TorchScript, torch.export archives, and state dicts with a class."""

    name: ClassVar[str] = "PyTorch"
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".pth", ".pt2", ".ts", ".torchscript", ".safetensors")

    def recognise(self, path: Path) -> Path | None:
        """Finds the file with one of the suffixes at or in a path."""
        return find_by_suffix(path, self.suffixes)

    def load(self, source: ModelSource, device: Device) -> PyTorchModel:
        """Loads a model in evaluation mode.

        Args:
            source: The file, or a folder with one. `spec.inputs` declares what a TorchScript file does not say, and
                `spec.options["class"]` is the `module:Class` of a state dict. `threads` are the intra-op threads.
            device: `cpu`, or a CUDA device.

        Returns:
            The model.

        Raises:
            InvalidModelError: PyTorch is not installed, the file is broken or needs pickle without being `trusted`, its class
                does not fit, or there is no such device.
            OutOfMemoryError: The model does not fit.
        """
        file = self.recognise(source.file)
        if file is None:
            raise InvalidModelError(f"no single PyTorch file at {source.file.name!r} ({', '.join(self.suffixes)})")
        torch = _import_torch()
        torch.set_num_threads(source.threads)
        where = _device(torch, device)
        try:
            return PyTorchModel(torch, load_network(torch, source, file, where), where, source.spec.batch_size)
        except Exception as error:  # noqa: BLE001 - torch raises what it likes at a broken file
            if not isinstance(error, UserError):
                log(error)
            failure = OutOfMemoryError if is_out_of_memory(error) else InvalidModelError
            raise failure(f"{file.name}: {reason_of(error).replace(str(file), file.name)}") from None


def _import_torch() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch  # noqa: PLC0415 - a server without PyTorch models runs without it
    except ImportError as error:
        raise InvalidModelError(f"PyTorch cannot be imported: {error} (pip install 'flowyard[torch]')") from None
    return torch


def _device(torch: Any, device: Device) -> str:
    """Finds torch's name of a device that is there."""
    if device.type != "gpu":
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not 0 <= device.id < count:
        raise InvalidModelError(f"{device}: PyTorch {torch.__version__} finds {count or 'no'} CUDA devices here")
    return f"cuda:{device.id}"


class PyTorchModel:
    """A network on a device."""

    def __init__(self, torch: Any, network: Network, where: str, batch_size: int | None) -> None:
        self._torch = torch
        self._network: Network | None = network
        self._where = where
        self.signature: Signature | None = network.signature
        self._output_names = [spec.name for spec in network.signature.outputs] if network.signature else []
        self.rows = RowBatcher(self._run, _failure, network.signature, row_wise=network.row_wise, max_rows=batch_size)

    def predict(self, batch: Sequence[Call]) -> list[Outcome]:
        """Computes a batch, with as few calls of the network as the inputs' shapes allow."""
        return self.rows.predict(batch)

    def unload(self) -> None:
        """Drops the network and returns what the device's allocator keeps."""
        self._network = None
        if self._where != "cpu":
            self._torch.cuda.empty_cache()

    def _run(self, arrays: tuple[Array, ...]) -> Mapping[str, Value]:
        assert self._network is not None
        with self._torch.inference_mode():
            return self._named(self._network.call([self._tensor(array) for array in arrays]))

    def _tensor(self, array: Array) -> Any:
        # torch has no read-only tensors: a network that works in place would write into what others read.
        writable = array if array.flags.writeable and array.flags.c_contiguous else array.copy()
        return self._torch.from_numpy(writable).to(self._where)

    def _named(self, result: Any) -> dict[str, Value]:
        """The outputs by name: a mapping's keys, a named tuple's fields, declared names, or `output0`, `output1`."""
        if isinstance(result, dict):
            return {str(key): self._plain(item) for key, item in result.items()}
        if not isinstance(result, (list, tuple)) or not all(map(self._torch.is_tensor, result)):
            return {"output": self._plain(result)}
        names = list(getattr(result, "_fields", self._output_names))
        if len(names) != len(result):
            names = [f"output{index}" for index in range(len(result))]
        return {name: self._plain(item) for name, item in zip(names, result, strict=True)}

    def _plain(self, item: Any) -> Value:
        """A value without tensors; dtypes that numpy does not have (bfloat16, float8) become float32."""
        if isinstance(item, dict):
            return {str(key): self._plain(one) for key, one in item.items()}
        if isinstance(item, (list, tuple)):
            return [self._plain(one) for one in item]
        if not self._torch.is_tensor(item):
            return item
        dense = item.dequantize() if item.is_quantized else item.to_dense() if item.layout is not self._torch.strided else item
        numpy_floats = (self._torch.float16, self._torch.float32, self._torch.float64)
        if dense.is_floating_point() and dense.dtype not in numpy_floats:
            dense = dense.float()
        return dense.detach().cpu().resolve_conj().resolve_neg().numpy()


def _failure(error: Exception) -> FlowyardError:
    if isinstance(error, UserError):
        return error
    reason = _reason(error)
    if is_out_of_memory(error):
        return OutOfMemoryError(reason)
    if isinstance(error, (RuntimeError, AssertionError, IndexError)) and _INPUT_PROBLEM.search(reason):
        hint = _DTYPE_HINT if _DTYPE_PROBLEM.search(reason) else ""
        return InvalidInputError(reason + hint)
    log(error)
    return NodeError(f"{type(error).__name__}: {reason}" if reason else describe(error))


def _reason(error: Exception) -> str:
    message = str(error)
    if "TorchScript interpreter" in message and _SCRIPT_ERROR in message:
        message = message.rpartition(_SCRIPT_ERROR)[2]
    return next((line.strip() for line in message.splitlines() if line.strip()), first_line(error))
