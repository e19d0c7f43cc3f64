"""The model of Triton's Python backend: the scheduler hands over the requests of a batch, they run as one."""

from __future__ import annotations

import os
import sys
from typing import Any

# The backend's interpreter ignores PYTHONPATH.
sys.path[:0] = os.environ["PYTHONPATH"].split(":")

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402
from pipelines import environment_pipeline  # noqa: E402


class TritonPythonModel:
    """Runs the workload of the environment."""

    def initialize(self, args: Any) -> None:
        """Loads the models."""
        self._predict = environment_pipeline()

    def execute(self, requests: Any) -> Any:
        """Answers a batch."""
        inputs = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        answers = self._predict(np.concatenate(inputs) if len(inputs) > 1 else inputs[0])
        responses, start = [], 0
        for rows in inputs:
            part = answers[start : start + len(rows)]
            responses.append(triton.InferenceResponse([triton.Tensor("y", part)]))
            start += len(rows)
        return responses
