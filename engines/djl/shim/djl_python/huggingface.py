"""The ready-made handler of Hugging Face's models, for handlers that build on it (DJL §7.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from djl_python.encode_decode import encode
from djl_python.inputs import Input
from djl_python.outputs import Output


class HuggingFaceService:
    """A model and what answers requests with it.

    Attributes:
        initialized: Whether the model is loaded.
        hf_pipeline: The model: takes a list of inputs, and parameters by name.
    """

    def __init__(self) -> None:
        self.initialized = False
        self.hf_pipeline: Any = None

    def initialize(self, properties: dict[str, Any]) -> None:
        """Loads the model that `model_id` names, else that of the model's folder.

        Raises:
            InvalidModelError: It cannot be loaded; the message says why.
        """
        # Imported here, as flowyard's own modules import this package.
        from flowyard.engines.djl.huggingface import make_pipeline  # noqa: PLC0415

        number = int(properties.get("device_id", -1))
        device = f"cuda:{number}" if number >= 0 else "cpu"
        self.hf_pipeline = make_pipeline(Path(properties.get("model_dir", ".")), properties, device)
        self.initialized = True

    def inference(self, inputs: Input) -> Output:
        """Answers one request, or each of a batch."""
        from flowyard.engines.djl.huggingface import plain, read, results_of  # noqa: PLC0415

        outputs = Output()
        for number, item in enumerate(inputs.get_batches()):
            request = read(number, item)
            results = results_of(self.hf_pipeline, request.inputs, request.parameters)
            key = f"batch_{number:03}.data" if inputs.is_batch() else None
            encode(outputs, plain(results), request.accept, key)
        return outputs


_service = HuggingFaceService()


def handle(inputs: Input) -> Output | None:
    """Answers requests; the first call, which has no content, loads the model."""
    if not _service.initialized:
        _service.initialize(inputs.get_properties())
    return None if inputs.is_empty() else _service.inference(inputs)
