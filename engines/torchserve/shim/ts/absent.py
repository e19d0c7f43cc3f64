"""What TorchServe's own package has and this one has not: who imports it is told what there is instead."""

from __future__ import annotations

import importlib.abc
from collections.abc import Sequence
from types import ModuleType

_ENGINE = (
    "install {} in the server's environment, and call it in a handler of the archive's own, an `async def handle` with"
    " asyncCommunication: true in model-config.yaml"
)
_VLLM = _ENGINE.format("vllm")
_TRT_LLM = _ENGINE.format("tensorrt_llm")
_DALI = (
    "the handler image_classifier takes the same archive and prepares images with torchvision, as do handlers derived from it;"
    " with DALI, install NVIDIA's package for it and run the pipeline in a handler of the archive's own"
)
_PIPPY = "PiPPy has become torch.distributed.pipelining; use that in a handler of the archive's own"
_SERVER = "flowyard has a server of its own: flowyard torchserve"
_METRICS = "the server measures the machine and its workers itself; handlers have context.metrics"

#: Module -> what there is instead.
ABSENT = {
    "ts.arg_parser": _SERVER,
    "ts.async_service": _SERVER,
    "ts.handler_utils.distributed.pt_pippy": _PIPPY,
    "ts.handler_utils.preprocess": _DALI,
    "ts.launcher": _SERVER,
    "ts.llm_launcher": _SERVER,
    "ts.metrics.metric_collector": _METRICS,
    "ts.metrics.process_memory_metric": _METRICS,
    "ts.metrics.system_metrics": _METRICS,
    "ts.model_loader": _SERVER,
    "ts.model_server": _SERVER,
    "ts.model_service_worker": _SERVER,
    "ts.torch_handler.dali_handler": _DALI,
    "ts.torch_handler.dali_image_classifier": _DALI,
    "ts.torch_handler.densenet_handler": "ts.torch_handler.image_classifier.ImageClassifier does the same",
    "ts.torch_handler.distributed.base_pippy_handler": _PIPPY,
    "ts.torch_handler.trt_llm_handler": _TRT_LLM,
    "ts.torch_handler.vllm_handler": _VLLM,
    "ts.utils.hf_utils": "transformers loads models from the folder of the archive: context.system_properties['model_dir']",
    "ts.utils.setup_model_venv": "requirements of an archive are installed by the server (setting install_requirements)",
}


class AbsentModules(importlib.abc.MetaPathFinder):
    """Comes last, so that whoever has such a module is not held up."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Finds nothing.

        Raises:
            ModuleNotFoundError: It is one that TorchServe has.
        """
        if fullname in ABSENT:
            raise ModuleNotFoundError(f"{fullname} of TorchServe is not part of flowyard: {ABSENT[fullname]}")
