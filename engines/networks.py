"""The forms in which PyTorch models come: TorchScript, torch.export archives, and weights with a class of the user's.

What a file is, its content says: the endings `.pt` and `.pth` stand for all of them. Pickle is not executed unless the model is
`trusted`.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flowyard.engines.base import ModelSource
from flowyard.engines.failures import first_line
from flowyard.engines.imports import load_callable, while_loading
from flowyard.schemas.errors import FlowyardError, InvalidModelError
from flowyard.schemas.tensors import DTYPES, Signature, TensorSpec

_FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_UNSUPPORTED = re.compile(r"(Unsupported (?:global|class)[^\n]*?)(?: was not an allowed global| Please use|\n|$)")
#: Pickled objects and compiled code in an archive of torch.export's; torch.export.load executes both.
_RISKY_ENTRIES = ("custom_obj", "aotinductor")
#: Keys under which training scripts keep the weights of a checkpoint.
_WEIGHT_KEYS = ("state_dict", "model_state_dict")
_SAFETENSORS_HEAD_LIMIT_BYTES = 100 << 20
_SAFETENSORS_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}


class Network(NamedTuple):
    """A loaded model.

    Attributes:
        call: Tensors in signature order -> whatever the model returns.
        signature: Inputs and outputs, `None` when not even the number of inputs is known.
        row_wise: Whether inputs and outputs are declared to have the same, varying first dimension.
    """

    call: Callable[[Sequence[Any]], Any]
    signature: Signature | None
    row_wise: bool = False


def load_network(torch: Any, source: ModelSource, file: Path, where: str) -> Network:
    """Loads a model in whichever form it is.

    Args:
        torch: The module.
        source: What to load; declared inputs and outputs win over what the file says.
        file: The file of the model.
        where: torch's name of the device.

    Returns:
        The network, in evaluation mode on its device.

    Raises:
        InvalidModelError: The file is broken, needs pickle, or needs a class that is not named or does not fit.
    """
    entries = _zip_entries(file)
    if any(entry.endswith("constants.pkl") or entry.startswith("code/") for entry in entries):
        network = _torchscript(torch, file, where)
    elif {"archive_format", "serialized_exported_program.json"} & entries:
        network = _exported(torch, source, file, entries, where)
    else:
        network = _with_class(torch, source, file, where)
    return network._replace(signature=_declared(source, network.signature))


def _zip_entries(file: Path) -> set[str]:
    """Names inside the archive below its one folder, empty for another kind of file."""
    if not zipfile.is_zipfile(file):
        return set()
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    return {name.partition("/")[2] if "/" in name else name for name in names} | set(names)


def _declared(source: ModelSource, found: Signature | None) -> Signature | None:
    spec = source.spec
    if not spec.inputs:
        return found and Signature(inputs=found.inputs, outputs=spec.outputs or found.outputs)
    return Signature(inputs=spec.inputs, outputs=spec.outputs or (found.outputs if found else ()))


def _torchscript(torch: Any, file: Path, where: str) -> Network:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the format is deprecated; whoever serves it has it already
        module = torch.jit.load(str(file), map_location=where)
        module.eval()
    arguments = [one for one in module.forward.schema.arguments[1:] if not one.has_default_value()]
    for one in arguments:
        if str(one.type) not in ("Tensor", "Optional[Tensor]"):
            raise InvalidModelError(f"forward takes {one.name!r} of type {one.type}; only tensors can be passed")
    inputs = tuple(TensorSpec(name=one.name) for one in arguments)
    return Network(lambda tensors: module(*tensors), Signature(inputs=inputs))


def _exported(torch: Any, source: ModelSource, file: Path, entries: set[str], where: str) -> Network:
    risky = [entry for entry in entries if any(mark in entry for mark in _RISKY_ENTRIES)]
    if risky and not source.spec.trusted:
        raise InvalidModelError(_needs_pickle(f"it holds {min(risky)}"))
    with _pickle_allowed(source.spec.trusted), file.open("rb") as stream:
        program = torch.export.load(stream)
    if where != "cpu":
        from torch.export.passes import move_to_device_pass  # noqa: PLC0415 - torch is imported by the caller

        program = move_to_device_pass(program, where)
    module, signature = program.module(), program.graph_signature
    from torch.utils import _pytree  # noqa: PLC0415

    def call(tensors: Sequence[Any]) -> Any:
        left = iter(tensors)
        leaves = [next(left) if isinstance(one, str) else one for one in signature.user_inputs]
        args, kwargs = _pytree.tree_unflatten(leaves, program.call_spec.in_spec)
        return module(*args, **kwargs)

    return Network(call, *_exported_signature(program))


@contextlib.contextmanager
def _pickle_allowed(trusted: bool) -> Iterator[None]:
    """Within it torch falls back to pickle only for a trusted model, also where torch.export.load asks for it by itself."""
    before = os.environ.get(_FORCE_WEIGHTS_ONLY)
    if not trusted:
        os.environ[_FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_FORCE_WEIGHTS_ONLY, None)
        else:
            os.environ[_FORCE_WEIGHTS_ONLY] = before


def _exported_signature(program: Any) -> tuple[Signature, bool]:
    examples = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature, out_spec = program.graph_signature, program.call_spec.out_spec
    inputs = [(name, examples.get(name)) for name in signature.user_inputs if isinstance(name, str)]
    outputs = [(name, examples.get(name)) for name in signature.user_outputs if isinstance(name, str)]
    if getattr(out_spec, "type", None) is dict and len(out_spec.context) == len(outputs):
        outputs = [(str(key), example) for key, (_, example) in zip(out_spec.context, outputs, strict=True)]
    first = {_first_dimension(example) for _, example in inputs + outputs}
    specs = [tuple(_spec_of(name, example) for name, example in side) for side in (inputs, outputs)]
    return Signature(inputs=specs[0], outputs=specs[1]), len(first) == 1 and isinstance(first.pop(), str)


def _first_dimension(example: Any) -> int | str:
    """The symbol of a varying first dimension, a number for anything else."""
    size = example.shape[0] if getattr(example, "shape", ()) else -1
    return size if isinstance(size, int) else str(size)


def _spec_of(name: str, example: Any) -> TensorSpec:
    if not hasattr(example, "shape"):
        return TensorSpec(name=name)
    dtype = str(example.dtype).removeprefix("torch.")
    shape = tuple(size if isinstance(size, int) else -1 for size in example.shape)
    return TensorSpec(name=name, dtype=dtype if dtype in DTYPES else "", shape=shape)


def _with_class(torch: Any, source: ModelSource, file: Path, where: str) -> Network:
    loaded = _read_safetensors(torch, file) if file.suffix.lower() == ".safetensors" else _unpickle(torch, file, source)
    module = loaded if isinstance(loaded, torch.nn.Module) else _build(torch, source, loaded)
    module.eval().to(where)
    return Network(lambda tensors: module(*tensors), _forward_signature(module))


def _unpickle(torch: Any, file: Path, source: ModelSource) -> Any:
    with file.open("rb") as stream:
        start = stream.read(2)
    if start[:1] != b"\x80" and start != b"PK":
        raise InvalidModelError("it is no file of PyTorch's")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        found = _UNSUPPORTED.search(str(error))
        if found is None:
            raise
        if not source.spec.trusted:
            raise InvalidModelError(_needs_pickle(found[1])) from None
    # Only the operator says `trusted`; it is what torch calls weights_only=False.
    return torch.load(file, map_location="cpu", weights_only=False)


def _needs_pickle(reason: str) -> str:
    alternatives = "TorchScript (torch.jit.save), torch.export (torch.export.save) or safetensors"
    return f"it needs pickle or compiled code, which can do anything ({reason}): save it as {alternatives}, or set trusted: true"


def _build(torch: Any, source: ModelSource, loaded: Any) -> Any:
    """Makes the module of the named class and puts the weights in."""
    reference = source.spec.options.get("class")
    if not reference:
        raise InvalidModelError(
            'it holds weights only: name their class as options: {class: "module:Class"}, or save as TorchScript'
        )
    root = Path(source.root)
    build = load_callable(reference, root)
    try:
        module = build()
    except BaseException as error:  # noqa: BLE001 - SystemExit of user code is an error, not an exit
        raise while_loading(error, root) from None
    if not isinstance(module, torch.nn.Module):
        raise InvalidModelError(f"{reference} makes a {type(module).__name__}, expected a torch.nn.Module")
    weights = _weights(loaded)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidModelError(f"the weights do not fit: {' '.join(str(error).split())}") from None
    return module


def _weights(loaded: Any) -> Mapping[str, Any]:
    if not isinstance(loaded, Mapping):
        raise InvalidModelError(f"it holds a {type(loaded).__name__}, expected a state dict")
    nested = [loaded[key] for key in _WEIGHT_KEYS if isinstance(loaded.get(key), Mapping)]
    return nested[0] if nested else loaded


def _read_safetensors(torch: Any, file: Path) -> dict[str, Any]:
    """Reads the format: length of the head, the head as JSON, the bytes of the tensors."""
    try:
        return _tensors(torch, file.read_bytes())
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InvalidModelError(f"broken safetensors: {first_line(error)}") from None


def _tensors(torch: Any, data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= min(len(data) - 8, _SAFETENSORS_HEAD_LIMIT_BYTES):
        raise ValueError("the head does not fit into the file")
    head, body = json.loads(data[8 : 8 + size]), np.frombuffer(data, dtype=np.uint8, offset=8 + size)
    tensors = {}
    for name, entry in head.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            raw = torch.from_numpy(body[start:end].copy())
            tensors[name] = raw.view(getattr(torch, _SAFETENSORS_DTYPES[entry["dtype"]])).reshape(entry["shape"])
    return tensors


def _forward_signature(module: Any) -> Signature | None:
    """The required arguments of `forward` by name; `None` when it takes any number."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return None
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return Signature(inputs=tuple(TensorSpec(name=one.name) for one in positional if one.default is one.empty))


def reason_of(error: Exception) -> str:
    """Why a file could not be loaded, in torch's words but without its advice on other settings."""
    return error.message if isinstance(error, FlowyardError) else f"{type(error).__name__}: {first_line(error)}"
