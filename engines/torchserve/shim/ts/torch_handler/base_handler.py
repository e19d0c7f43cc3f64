"""The handler that the default handlers, and most others, are derived from."""

from __future__ import annotations

import abc
import contextlib
import importlib
import logging
import os
import pickle
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from ts.handler_utils.timer import timed
from ts.utils.util import check_valid_pt2_backend, list_classes_from_module, load_label_mapping

logger = logging.getLogger(__name__)
#: What TorchScript calls the engines that Torch-TensorRT puts into it.
TENSORRT_CLASSES = "torch.classes.tensorrt"
NO_TENSORRT = (
    "the model was compiled by Torch-TensorRT, which is not here: install torch_tensorrt in the server's environment,"
    " in the version that compiled it, or archive the model as it was before"
)
LABELS = "index_to_name.json"


class BaseHandler(abc.ABC):
    """Loads the model that the manifest names; preprocesses, computes and postprocesses batches.

    Attributes:
        model: The model, `None` before `initialize`.
        mapping: Labels by class, from `index_to_name.json`.
        device: Where it is.
        initialized: Whether `initialize` has been called.
        context: Of the batch that is being computed.
        model_pt_path: The file of weights, or the model itself.
        manifest: The archive's manifest.
        map_location: The kind of device: `cpu`, `cuda`, `mps`.
        model_yaml_config: The archive's `model-config.yaml`.
    """

    # Not in `__init__`: handlers that never call it work in TorchServe, too.
    model: Any = None
    mapping: dict[str, str] | None = None
    device: Any = None
    initialized = False
    context: Any = None
    model_pt_path: str | None = None
    manifest: Any = None
    map_location: str | None = None
    explain = False
    target = 0
    profiler_args: dict[str, Any]
    model_yaml_config: dict[str, Any]

    def __init__(self) -> None:
        self.profiler_args = {}
        self.model_yaml_config = {}

    def initialize(self, context: Any) -> None:
        """Loads the model: an eager one (`modelFile` and a state dict), TorchScript, ONNX, or a compiled `.so`.

        Args:
            context: The handler's context.

        Raises:
            RuntimeError: There is no such model, or nothing that can be loaded.
            ValueError: The model's file defines no class, or several.
        """
        self.context = self.context or context
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        self.map_location, self.device = _device(properties.get("gpu_id"))
        self.manifest = context.manifest
        described = self.manifest.get("model", {})
        model_dir = properties.get("model_dir")
        name = described.get("serializedFile")
        self.model_pt_path = str(Path(model_dir, name)) if name else None
        model_file = described.get("modelFile", "")
        if model_file:
            self.model = self._load_pickled_model(model_dir, model_file, self.model_pt_path).to(self.device)
            self.model.eval()
        else:
            self.model = self._load_serialized(context)
        self._compile()
        self.mapping = load_label_mapping(str(Path(model_dir, LABELS)))
        self.initialized = True

    def _load_serialized(self, context: Any) -> Any:
        path = self.model_pt_path or ""
        if path.endswith((".pt", ".pth")):
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if path.endswith(".onnx"):
            return setup_ort_session(path, self.map_location)
        if path.endswith(".so"):
            if not getattr(context, "trusted", False):
                raise RuntimeError("a compiled model (.so) is code; it is loaded only with `trusted`")
            return self._load_torch_export_aot_compile(path)
        raise RuntimeError("No model weights could be loaded: the manifest's serializedFile is no .pt, .onnx or .so")

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        """Loads TorchScript; where it was compiled by Torch-TensorRT, that package knows what is in it.

        Raises:
            RuntimeError: It is none, or the package is missing.
        """
        with contextlib.suppress(ImportError):
            importlib.import_module("torch_tensorrt")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return torch.jit.load(model_pt_path, map_location=self.device)
            except RuntimeError as error:
                if TENSORRT_CLASSES not in str(error):
                    raise
                raise RuntimeError(NO_TENSORRT) from error

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """Makes an instance of the only class that the model's file defines, with the weights of the state dict."""
        if not Path(model_dir, model_file).is_file():
            raise RuntimeError(f"Missing the model.py file: there is no {model_file!r} in the archive")
        module = importlib.import_module(model_file.split(".", maxsplit=1)[0])
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            listed = ", ".join(one.__name__ for one in classes) or "none"
            raise ValueError(f"Expected only one class as model definition, {model_file} has {listed}")
        model = classes[0]()
        if model_pt_path:
            trusted = getattr(self.context, "trusted", False)
            model.load_state_dict(load_weights(model_pt_path, self.device, trusted=trusted))
        return model

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        """Loads what `torch.export` has compiled."""
        if self.map_location == "cuda":
            torch.cuda.set_device(self.device)
        return torch._export.aot_load(model_so_path, self.map_location)

    def _compile(self) -> None:
        """Compiles the model where `pt2` asks for it; one that cannot be compiled is used as it is."""
        options = _compile_options(self.model_yaml_config.get("pt2"))
        if options is None or ("backend" in options and not check_valid_pt2_backend(str(options["backend"]))):
            return
        try:
            self.model = torch.compile(self.model, **options)
        except Exception as error:
            logger.warning("compiling the model with %s has failed, it is used as it is: %s", options, error)

    @timed
    def preprocess(self, data: Any) -> Any:
        """Makes a tensor of a batch."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes a batch."""
        if hasattr(self.model, "get_inputs"):
            (first, *_) = self.model.get_inputs()
            return torch.from_numpy(self.model.run(None, {first.name: data.cpu().numpy()})[0])
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """Makes a list of the model's output."""
        return data.tolist()

    def handle(self, data: Any, context: Any) -> Any:
        """Answers a batch: the three steps, an explanation, or a description."""
        started = time.monotonic()
        self.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = self._infer_with_profiler(data)
        elif self._is_describe():
            output = [self.describe_handle()]
        else:
            output = self._answer(data)
        context.metrics.record("HandlerTime", (time.monotonic() - started) * 1000)
        return output

    def _answer(self, data: Any) -> Any:
        prepared = self.preprocess(data)
        if self._is_explain():
            return self.explain_handle(prepared, data)
        return self.postprocess(self.inference(prepared))

    def _infer_with_profiler(self, data: Any) -> tuple[Any, Any]:
        arguments = {
            "activities": [torch.profiler.ProfilerActivity.CPU],
            "record_shapes": True,
            **getattr(self, "profiler_args", {}),
        }
        with torch.profiler.profile(**arguments) as profiler:
            output = self._answer(data)
        logger.info(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=10))
        return output, profiler

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Explains a batch by the `get_insights` of derived classes, for the class that the first row's `target` names."""
        row = raw_data[0]
        inputs, target = None, 0
        if isinstance(row, dict):
            inputs = row.get("data") or row.get("body")
            target = row.get("target") or 0
        return self.get_insights(data_preprocess, inputs, target)  # type: ignore[attr-defined]

    def describe_handle(self) -> Any:
        """What there is to say of the model; derived classes say it."""
        return None

    def _is_explain(self) -> bool:
        self.explain = self.explain or self._asked("explain")
        return self._asked("explain")

    def _is_describe(self) -> bool:
        return self._asked("describe")

    def _asked(self, header: str) -> bool:
        return self.context is not None and self.context.get_request_header(0, header) == "True"

    def get_device(self) -> Any:
        """Where the model is."""
        return self.device


def load_weights(path: str, device: Any, *, trusted: bool) -> Any:
    """Reads a state dict.

    Args:
        path: The file.
        device: Where the tensors are to be.
        trusted: Whether a file may be read that can run code.

    Returns:
        The state dict, that of the module where the file holds a whole one.

    Raises:
        RuntimeError: The file holds more than tensors, and is not trusted.
    """
    try:
        loaded = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if not trusted:
            raise RuntimeError(
                f"{Path(path).name} holds more than tensors: reading it can run code, which only `trusted` allows"
            ) from error
        loaded = torch.load(path, map_location=device, weights_only=False)
    return loaded.state_dict() if isinstance(loaded, torch.nn.Module) else loaded


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:
    """Loads an ONNX model.

    Args:
        model_pt_path: The file.
        map_location: `cuda` to use the GPU.

    Returns:
        A session of ONNX Runtime.
    """
    import onnxruntime

    providers = ["CUDAExecutionProvider"] if map_location == "cuda" else []
    return onnxruntime.InferenceSession(model_pt_path, providers=[*providers, "CPUExecutionProvider"])


def _device(gpu_id: Any) -> tuple[str, Any]:
    if gpu_id is not None and torch.cuda.is_available():
        return "cuda", torch.device(f"cuda:{gpu_id}")
    if gpu_id is not None and torch.backends.mps.is_available():
        return "mps", torch.device("mps")
    return "cpu", torch.device("cpu")


def _compile_options(pt2: Any) -> dict[str, Any] | None:
    """The arguments of `torch.compile`, `None` for not compiling; `pt2` is a backend, arguments, or `{compile: {enable, …}}`."""
    if pt2 is None or pt2 == {}:
        return None
    if isinstance(pt2, str):
        return {"backend": pt2}
    if not isinstance(pt2, dict):
        raise ValueError("pt2 should be str or dict")
    if "export" in pt2 and "compile" not in pt2:
        return None
    if "compile" not in pt2:
        return dict(pt2)
    options = dict(pt2["compile"] or {})
    return options if options.pop("enable", False) else None
